#!/usr/bin/env python3
"""Keeps criterion's medians of all benches in one file, and compares later ones with it.

    python3 tools/criterion_baseline.py save|compare [--since FILE]

Reads criterion's results under target/criterion. With `--since`, it reads only those newer than FILE, because results of
renamed benches stay there. `save` writes benches/results/criterion.json, `compare` prints each median as a ratio to
the stored one. Times differ from machine to machine, so no ratio is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BASELINE = REPOSITORY / "benches/results/criterion.json"
CRITERION = REPOSITORY / "target/criterion"


class BaselineError(Exception):
    """The failure and its remedy."""


def measured(since: float) -> dict[str, float]:
    """Median nanoseconds of each bench that was measured after `since`."""
    medians = {}
    for file in sorted(CRITERION.glob("**/new/estimates.json")):
        if file.stat().st_mtime >= since:
            name = json.loads(file.with_name("benchmark.json").read_text())["full_id"]
            medians[name] = round(json.loads(file.read_text())["median"]["point_estimate"], 1)
    if not medians:
        raise BaselineError(f"no fresh results in {CRITERION.relative_to(REPOSITORY)}: run `make bench`")
    return dict(sorted(medians.items()))


def machine() -> str:
    """The processor and how many cores of it there are."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


def said(*command: str) -> str:
    """The output of a command."""
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def runtime() -> str:
    """The file of ONNX Runtime that the benches loaded; its name has the version."""
    library = Path(os.environ.get("ORT_DYLIB_PATH") or REPOSITORY / "target/onnxruntime/lib/libonnxruntime.so")
    return library.resolve().name


def save(medians: dict[str, float]) -> None:
    """Writes the baseline."""
    baseline = {
        "machine": machine(),
        # A baseline can only name the commit before its own.
        "commit": said("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"),
        "rustc": said("rustc", "--version"),
        "onnxruntime": runtime(),
        "median_ns": medians,
    }
    BASELINE.write_text(json.dumps(baseline, indent=2, ensure_ascii=False) + "\n")
    print(f"{len(medians)} medians stored in {BASELINE.relative_to(REPOSITORY)}")


def scaled(nanoseconds: float) -> str:
    """A time in a unit that suits it."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def compare(medians: dict[str, float]) -> None:
    """Prints each median next to the stored one."""
    if not BASELINE.exists():
        print(f"{BASELINE.relative_to(REPOSITORY)} is missing: `make bench-baseline` stores one")
        return
    baseline = json.loads(BASELINE.read_text())
    print(f"== against the baseline: {baseline['machine']}, commit {baseline['commit']}, {baseline['onnxruntime']}")
    if baseline["machine"] != machine():
        print(f"   this machine is another ({machine()}): only comparisons between these ratios are meaningful")
    before = baseline["median_ns"]
    width = max(map(len, medians.keys() | before.keys()))
    print(f"{'bench':{width}}  {'stored':>9}  {'now':>9}  now / stored")
    for name in sorted(medians.keys() | before.keys()):
        stored, now = before.get(name), medians.get(name)
        ratio = f"{now / stored:.2f}" if stored and now else "not measured" if stored else "new"
        times = [f"{scaled(time):>9}" if time else f"{'–':>9}" for time in (stored, now)]
        print(f"{name:{width}}  {times[0]}  {times[1]}  {ratio:>12}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("save", "compare"))
    parser.add_argument("--since", type=Path, metavar="FILE", help="only results newer than this file")
    arguments = parser.parse_args()
    try:
        medians = measured(arguments.since.stat().st_mtime if arguments.since else 0)
        save(medians) if arguments.what == "save" else compare(medians)
    except (BaselineError, OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        print(f"criterion_baseline.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
