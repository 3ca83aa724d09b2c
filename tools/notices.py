#!/usr/bin/env python3
"""Writes THIRD-PARTY-NOTICES: every crate that is linked into the C library, with the texts of its licences.

    python3 tools/notices.py [--package foreturn-ffi] [--features A,B] [--out FILE]

Cargo says which crates are linked (without those that only build others), and their packages have the texts. Fails,
and names the crate, where a text is missing that the crate's licence asks for and `EXCEPTIONS` has no entry. Without
--out nothing is written: a check.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = re.compile(r"(?i)^(un)?(licen[cs]e|copying|notice|copyright)([-_.].*)?$")
"""Files of a package that are about its licence."""

PHRASES = {
    "MIT": "permission is hereby granted, free of charge, to any person obtaining a copy",
    "Apache-2.0": "apache license version 2.0, january 2004",
    "ISC": "permission to use, copy, modify, and/or distribute this software for any purpose",
    "0BSD": "zero-clause bsd",
    "BSD-2-Clause": "redistribution and use in source and binary forms",
    "BSD-3-Clause": "endorse or promote products derived from this software",
    "BSL-1.0": "boost software license",
    "LLVM-exception": "llvm exceptions to the apache 2.0 license",
    "Unicode-3.0": "unicode license v3",
    "Unlicense": "this is free and unencumbered software released into the public domain",
    "Zlib": "altered source versions must be plainly marked as such",
}
"""Phrases of licence texts, in lower case and with single spaces. Licences that are not here are not known."""

COMMAND = "foreturn-cli"
"""The command, which links all that the library does, and more."""

MIT = (REPOSITORY / "LICENSE-MIT").read_text(encoding="utf-8").partition("Permission is hereby")
EXCEPTIONS = {
    # Their packages don't contain the text. It is in the repository that they name.
    "bpe": "MIT License\n\nCopyright (c) the authors of https://github.com/github/rust-gems\n\n" + "".join(MIT[1:]),
    "bpe-openai": "MIT License\n\nCopyright (c) the authors of https://github.com/github/rust-gems\n"
    "The vocabularies: Copyright (c) OpenAI, Shantanu Jain (https://github.com/openai/tiktoken)\n\n" + "".join(MIT[1:]),
} | dict.fromkeys(
    ["plotters", "plotters-backend", "plotters-svg"],
    "MIT License\n\nCopyright (c) 2019 Hao Hou <haohou302@gmail.com>\n\n" + "".join(MIT[1:]),
)
"""Texts for crates whose packages have none. An entry for a crate that is not linked, or has texts, is an error."""

HEADER = """\
THIRD-PARTY NOTICES

{package} {version} is licensed under MIT or Apache-2.0 (LICENSE-MIT, LICENSE-APACHE). It contains the {count} crates below;
each text is followed here by those that it was found in. Where a crate leaves the choice between licences, all of its texts
are here. It also contains Rust's standard library (MIT or Apache-2.0), whose notices are in rust-standard-library.html.
"""
RULE = "=" * 80


class NoticeError(Exception):
    """The failure and its remedy."""


@dataclass(frozen=True)
class Crate:
    """One package that is linked."""

    name: str
    version: str
    licence: str
    where: str
    folder: Path

    def texts(self) -> dict[str, str]:
        """Its texts by path, those in subfolders for licences too."""
        folders = [self.folder, *(path for path in self.folder.iterdir() if path.is_dir() and NAMES.match(path.name.rstrip("sS")))]
        files = (path for folder in folders for path in sorted(folder.iterdir()) if path.is_file())
        found = [path for path in files if NAMES.match(path.name) or path.parent != self.folder]
        texts = {str(path.relative_to(self.folder)): read(path) for path in found}
        # A link out of the package is packed as the path that it leads to.
        return {path: text for path, text in texts.items() if " " in text}


def read(path: Path) -> str:
    """A text with plain ends of lines and without white space around it."""
    return path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip("\n\f \t")


def cargo(*arguments: str) -> str:
    """The output of cargo; an error with its complaints if it fails."""
    command = [os.environ.get("CARGO", "cargo"), *arguments, "--locked"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoticeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def linked(package: str, features: str | None, target: str) -> list[Crate]:
    """The crates that are linked into the package, without itself and other members of the workspace."""
    chosen = ["--no-default-features", "--features", features] if features is not None else []
    edges = ["--edges", "normal,no-proc-macro", "--target", target, "--prefix", "none", "--format", "{p}"]
    # "name v1.2.3 (path or *)"
    lines = cargo("tree", "--package", package, *chosen, *edges).splitlines()
    wanted = {tuple(line.split()[:2]) for line in lines if line.strip()}
    crates = []
    for known in json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", target))["packages"]:
        if (known["name"], f"v{known['version']}") not in wanted or known["source"] is None:
            continue
        where = known["repository"] or known["homepage"] or f"https://crates.io/crates/{known['name']}"
        folder = Path(known["manifest_path"]).parent
        crates.append(Crate(known["name"], known["version"], known["license"] or "", where, folder))
    if not crates:
        raise NoticeError(f"cargo tree names no crate that is linked into {package}")
    return sorted(crates, key=lambda crate: (crate.name, crate.version))


def satisfied(expression: str, found: set[str]) -> bool:
    """True if texts of `found` licences are enough for a licence expression (SPDX, or the older form with a slash)."""
    tokens = re.findall(r"[()]|[\w.+-]+", expression.replace("/", " OR "))

    def either() -> bool:
        value = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value = both() or value
        return value

    def both() -> bool:
        value = one()
        while tokens and tokens[0] in ("AND", "WITH"):
            tokens.pop(0)
            value = one() and value
        return value

    def one() -> bool:
        token = tokens.pop(0) if tokens else ""
        if token == "(":
            value = either()
            if not tokens or tokens.pop(0) != ")":
                raise NoticeError(f"the licence {expression!r} can't be read")
            return value
        return token in found

    value = either()
    if tokens:
        raise NoticeError(f"the licence {expression!r} can't be read")
    return value


def licences_in(texts: dict[str, str]) -> set[str]:
    """The licences whose texts these are."""
    # Some texts are in comments.
    flat = [" ".join(re.sub(r"(?m)^\s*(//|#|\*)", "", text.lower()).split()) for text in texts.values()]
    return {licence for licence, phrase in PHRASES.items() if any(phrase in text for text in flat)}


def texts_of(crate: Crate) -> dict[str, str]:
    """The texts of a package, checked to be enough for its licence."""
    texts = crate.texts()
    if crate.name in EXCEPTIONS:
        if texts:
            raise NoticeError(f"{crate.name} {crate.version} has texts of its own ({', '.join(texts)}): remove it from EXCEPTIONS")
        texts = {"LICENSE": EXCEPTIONS[crate.name]}
    found = licences_in(texts)
    if not satisfied(crate.licence, found):
        raise NoticeError(
            f"{crate.name} {crate.version} is under {crate.licence or 'no licence'!r}, and its package has the texts of "
            f"{', '.join(sorted(found)) or 'none'} ({', '.join(texts) or 'no file'}). Look for the text in {crate.where}, and "
            "put it into EXCEPTIONS of tools/notices.py"
        )
    return texts


def notices(package: str = "foreturn-ffi", features: str | None = None, target: str | None = None) -> str:
    """The whole text. Fails, naming all crates that lack a text."""
    host = subprocess.run(["rustc", "-vV"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    target = target or re.search(r"^host: (.+)$", host, re.MULTILINE)[1]
    crates, wrong = linked(package, features, target), []
    by_text: dict[str, list[str]] = defaultdict(list)
    for crate in crates:
        try:
            for text in dict.fromkeys(texts_of(crate).values()):
                by_text[text].append(f"{crate.name} {crate.version}")
        except NoticeError as error:
            wrong.append(str(error))
    names = {crate.name for crate in crates}
    if features is None and package == COMMAND:
        wrong += [f"{name} in EXCEPTIONS of tools/notices.py is not linked: remove it" for name in EXCEPTIONS if name not in names]
    if wrong:
        raise NoticeError("\n  ".join(["licences:", *wrong]))
    version = re.search(r'^version = "(.+)"$', read(REPOSITORY / "Cargo.toml"), re.MULTILINE)[1]
    parts = [HEADER.format(package="foreturn", version=version, count=len(crates))]
    parts += [f"{crate.name} {crate.version}  {crate.licence}  {crate.where}" for crate in crates]
    for text, owners in by_text.items():
        parts.append(f"\n{RULE}\n{', '.join(owners)}\n{RULE}\n\n{text}")
    return "\n".join(parts) + "\n"


def standard_library() -> Path:
    """The notices of Rust's standard library, which come with the compiler."""
    root = subprocess.run(["rustc", "--print", "sysroot"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    path = Path(root.stdout.strip()) / "share/doc/rust/COPYRIGHT-library.html"
    if not path.is_file():
        raise NoticeError(f"{path} is missing: it comes with rustc from rustup; reinstall the toolchain")
    return path


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--package", default="foreturn-ffi", help="what is linked (default: foreturn-ffi)")
    parser.add_argument("--features", help="its features in place of the default ones")
    parser.add_argument("--target", help="for which machine (default: this one)")
    parser.add_argument("--out", type=Path, help="where to write it; nothing is written if absent")
    arguments = parser.parse_args()
    try:
        text = notices(arguments.package, arguments.features, arguments.target)
        standard_library()
    except NoticeError as error:
        print(f"notices.py: {error}", file=sys.stderr)
        return 1
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")
    crates = re.search(r"contains the (\d+) crates", text)[1]
    print(f"notices of {crates} crates, {len(text) / 1e3:.0f} kB: each has the texts that its licence asks for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
