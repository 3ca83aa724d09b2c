#!/usr/bin/env python3
"""Counts the instructions of the workloads in benches/instructions.rs and compares them with a stored baseline.

    python3 tools/instructions.py target/release/deps/instructions-HASH [--update]
    cargo bench --no-run --bench instructions --features internals --message-format json | \
        python3 tools/instructions.py -

Each workload runs once under callgrind, which counts only what happens inside the function `foreturn_counted`. More
than 3% above benches/results/instructions.json is an error; more than 3% below asks for an update. `--update` writes
the file anew. What cannot be counted or compared here (no valgrind, another instruction set) is left out with a message,
and is an error where the environment has CI.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BASELINE = REPOSITORY / "benches/results/instructions.json"
COUNTED = "foreturn_counted"
TOLERANCE = 0.03
"""Counts of one build differ by less than 0.1%, with the places of its stack and heap. The rest is for compilers."""
UPDATE = "`make instructions-baseline` stores these counts"


class CountError(Exception):
    """The failure and its remedy."""


class Unable(CountError):
    """Nothing is wrong, but this machine cannot tell."""


def output(*command: str) -> str:
    """The output of a command; an error with its complaints if it fails."""
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CountError(f"{command[0]} does not start: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise CountError(f"`{' '.join(command)}` ended with {done.returncode}: {said}")
    return done.stdout.strip()


def program_from_cargo(messages: str) -> str:
    """The bench's executable, from the messages with which cargo built it."""
    for line in messages.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message["target"]["name"] == "instructions":
            return message["executable"]
    raise CountError("cargo built no bench `instructions`: what it said stands above")


def count(program: str, name: str) -> tuple[int, str]:
    """The instruction count of one workload, and the instruction set that it found under valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        # The user's options, from ~/.valgrindrc or VALGRIND_OPTS, could change the count.
        said = output(
            "valgrind", "--command-line-only=yes", "-q", "--tool=callgrind", f"--toggle-collect={COUNTED}",
            f"--callgrind-out-file={out}", program, name,
        )  # fmt: skip
        found = re.search(r"^totals: (\d+)", out.read_text(errors="replace"), re.MULTILINE)
    if not found or int(found[1]) == 0:
        raise CountError(f"{name}: callgrind counted nothing; does {program} still have a function {COUNTED}?")
    return int(found[1]), said.splitlines()[-1]


def measure(program: str) -> dict:
    """All workloads, with the settings that their counts depend on."""
    counts, isas = {}, set()
    for name in output(program).splitlines():
        counts[name], isa = count(program, name)
        isas.add(isa)
        print(f"{name:24}{counts[name]:>14,}", flush=True)
    return {
        "isa": " ".join(sorted(isas)),
        "rustc": output("rustc", "--version"),
        "valgrind": output("valgrind", "--version"),
        "instructions": counts,
    }


def compare(now: dict, baseline: dict) -> None:
    """Prints the differences from the baseline; an error if a count is higher, or has nothing to compare with."""
    if now["isa"] != baseline["isa"]:
        raise Unable(f"the baseline is for {baseline['isa']}, and valgrind shows {now['isa']} here")
    for tool in ("rustc", "valgrind"):
        if now[tool] != baseline[tool]:
            print(f"the baseline was counted with {baseline[tool]}, this with {now[tool]}: small changes are theirs")
    counts, before = now["instructions"], baseline["instructions"]
    wrong = [f"{name}: no baseline" for name in counts if name not in before]
    wrong += [f"{name}: in the baseline, but no workload" for name in before if name not in counts]
    for name in counts.keys() & before.keys():
        change = counts[name] / before[name] - 1
        side = "above" if change > 0 else "below"
        said = f"{name}: {counts[name]:,} instructions, {abs(change):.1%} {side} the baseline's {before[name]:,}"
        if change > TOLERANCE:
            wrong.append(said)
        elif change < -TOLERANCE:
            print(f"{said}: {UPDATE}")
    if wrong:
        lines = "\n  ".join(sorted(wrong))
        raise CountError(f"against {BASELINE.relative_to(REPOSITORY)}:\n  {lines}\nIf that is meant: {UPDATE}.")
    print(f"all within {TOLERANCE:.0%} of the baseline, or below it ({now['isa']}, {now['valgrind']})")


def run(program: str, update: bool) -> None:
    """Measures, then stores or compares."""
    if shutil.which("valgrind") is None:
        raise Unable("valgrind is not installed (Debian: apt-get install valgrind)")
    program = program_from_cargo(sys.stdin.read()) if program == "-" else str(Path(program).resolve())
    now = measure(program)
    if update:
        BASELINE.write_text(json.dumps(now, indent=2) + "\n")
        print(f"stored in {BASELINE.relative_to(REPOSITORY)}")
    elif BASELINE.exists():
        compare(now, json.loads(BASELINE.read_text()))
    else:
        raise CountError(f"{BASELINE.relative_to(REPOSITORY)} is missing: {UPDATE}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the bench's executable, or - to find it in cargo's messages on standard input")
    parser.add_argument("--update", action="store_true", help="write the baseline anew")
    arguments = parser.parse_args()
    try:
        run(arguments.program, arguments.update)
    except Unable as error:
        failing = bool(os.environ.get("CI")) or arguments.update
        print(f"instructions.py: {'failed' if failing else 'skipped'}: {error}", file=sys.stderr)
        return int(failing)
    except (CountError, OSError, ValueError, KeyError) as error:
        print(f"instructions.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
