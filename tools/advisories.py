#!/usr/bin/env python3
"""Unpacks the copy of RustSec's advisories that `make deny` checks the dependencies against.

    python3 tools/advisories.py [--into target/advisories]
    python3 tools/advisories.py --pack CLONE

The check needs no network, so it gives the same answer everywhere. The price is its age: tools/advisories.tar.xz is RustSec's
database (https://github.com/rustsec/advisory-db, public domain) as of the date inside, and deny.toml says how old it may be.
`--pack` makes it anew from a clone of the database.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ARCHIVE = REPOSITORY / "tools/advisories.tar.xz"
FOLDER = "advisory-db-3157b0e258782691"
"""The name under which cargo-deny looks for the database at https://github.com/rustsec/advisory-db."""
PARTS = ["crates", "support.toml", "LICENSE.txt", "LICENSES"]


class AdvisoriesError(Exception):
    """What is wrong and what to do about it."""


def git(folder: Path, *arguments: str, **environment: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **environment})
    if done.returncode != 0:
        raise AdvisoriesError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def pack(clone: Path) -> None:
    """Packs a clone's newest commit, with its date."""
    date = git(clone, "log", "-1", "--format=%cI %H").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(git(clone, "archive", "HEAD", *PARTS))) as given:
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as packed:
            entry = tarfile.TarInfo("date")
            entry.size = len(date)
            packed.addfile(entry, io.BytesIO(date.encode()))
            for member in given:
                packed.addfile(member, given.extractfile(member) if member.isfile() else None)
    print(f"{ARCHIVE.relative_to(REPOSITORY)}: advisories of {date}, {ARCHIVE.stat().st_size >> 10} KiB")


def unpack(into: Path) -> None:
    """Makes the repository that cargo-deny expects, unless it is there."""
    folder, stamp = into / FOLDER, into / "stamp"
    now = str(ARCHIVE.stat().st_size) + git(REPOSITORY, "hash-object", str(ARCHIVE)).decode()
    if stamp.is_file() and stamp.read_text() == now:
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(folder, filter="data")
    date = (folder / "date").read_text().split()[0]
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
           for what, value in (("NAME", "RustSec"), ("EMAIL", "none@localhost"), ("DATE", date))}
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", f"advisories of {date}", HOME=str(into), **who)
    stamp.write_text(now)
    print(f"advisories: those of {date}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=REPOSITORY / "target/advisories")
    parser.add_argument("--pack", type=Path, metavar="CLONE")
    arguments = parser.parse_args()
    try:
        if arguments.pack:
            pack(arguments.pack)
        else:
            unpack(arguments.into)
    except (AdvisoriesError, OSError) as error:
        sys.exit(f"advisories.py: {error}")


if __name__ == "__main__":
    main()
