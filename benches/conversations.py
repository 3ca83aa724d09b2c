#!/usr/bin/env python3
"""Whole conversations on the real model: kills, throughput, and what the built-in styles do.

    benches/conversations.py kills      20 tasks, killed (SIGKILL) at ten random moments and resumed: the same files?
    benches/conversations.py speed      tokens a second of 12 conversations at once, beside one at a time
    benches/conversations.py styles     features of the simulated user's messages with each style, beside none

Each takes minutes to hours, by --turns and --tasks, and writes its result into benches/results/conversations.json. The model is the one
that `make model` exports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benches" / "results" / "conversations.json"
TASKS = ROOT / "examples" / "tasks" / "everyday.jsonl"
FILES = ("evaluation.json", "evaluation.csv", "conversations.jsonl", "failed.jsonl")
STYLES = {
    # The features that a style names, with the direction: see src/rollout/style.rs and docs/evaluation.md.
    "short": {"words": -1},
    "fragmentary": {"fragments": 1},
    "blunt": {"bluntness": 1},
    "wandering": {"changes_of_direction": 1},
    "typos": {"slips": 1, "untidiness": 1},
    "personal": {"personal_detail": 1},
    "vague": {"words": -1},
}
Json = dict[str, Any]


class Bench:
    """Runs of `foreturn evaluate` in a folder."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.tasks = folder / "tasks.jsonl"
        lines = TASKS.read_text(encoding="utf-8").splitlines(keepends=True)
        args.tasks = min(args.tasks, len(lines))
        self.tasks.write_text("".join(lines[: args.tasks]), encoding="utf-8")

    def command(self, to: str, *more: str, style: str | None = None) -> list[str]:
        """The command that evaluates into a folder."""
        args, config = self.args, self.folder / f"{style}.toml"
        line = f'style = ["{style}"]' if style else ""
        config.write_text(
            f'seed = 7\n[models.m]\npath = "{args.model}"\ntemperature = 0.8\ntop_p = 0.95\n[rollout]\nmax_user_tokens = {args.tokens}\n'
            f'max_policy_tokens = {args.tokens}\n{line}\n[[metrics]]\nkind = "token_amount"\n', encoding="utf-8")
        return [args.foreturn, "evaluate", "--config", str(config), "--tasks", str(self.tasks), "--to", str(self.folder / to), "--turns",
                str(args.turns), "--samples", str(args.samples), *more]

    def run(self, to: str, *more: str, style: str | None = None) -> float:
        """The seconds that an evaluation takes."""
        start = time.monotonic()
        subprocess.run(self.command(to, *more, style=style), check=True, capture_output=True)
        return time.monotonic() - start

    def lines(self, to: str) -> int:
        """Lines of the journal so far."""
        journal = self.folder / to / "journal.jsonl"
        return journal.read_bytes().count(b"\n") if journal.exists() else 0


def kills(bench: Bench) -> Json:
    """An evaluation that is killed again and again, beside an undisturbed one."""
    draw = random.Random(19)
    bench.run("whole", "--concurrency", "2")
    command, moments = bench.command("killed", "--concurrency", "2"), []
    while len(moments) < 10 and bench.lines("killed") < bench.args.tasks:
        before = bench.lines("killed")
        # Some come while the model is loaded, the others in the middle of a conversation.
        wanted = before + draw.choice([0, 1, 1, 2])
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            while child.poll() is None and bench.lines("killed") < wanted:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 1.5))
            child.kill()
        moments.append({"returncode": child.returncode, "finished": max(0, bench.lines("killed") - 1)})
    bench.run("killed", "--concurrency", "2")
    entries = [json.loads(line) for line in (bench.folder / "killed" / "journal.jsonl").read_text().splitlines()[1:]]
    same = {name: (bench.folder / "whole" / name).read_bytes() == (bench.folder / "killed" / name).read_bytes() for name in FILES}
    killed = sum(moment["returncode"] == -9 for moment in moments)
    return {"killed": killed, "moments": moments, "conversations": len(entries), "once": len({entry["key"] for entry in entries}),
            "same": same}


def tokens(bench: Bench, to: str) -> int:
    """Tokens of an evaluation, of all roles."""
    spent = [json.loads(line)["spent"]["roles"] for line in (bench.folder / to / "journal.jsonl").read_text().splitlines()[1:]]
    return sum(role["prompt"] + role["generated"] for roles in spent for role in roles.values())


def speed(bench: Bench) -> Json:
    """The two concurrencies, one after the other and again, so that what else the machine does hits both."""
    found: dict[str, list[float]] = {"1": [], "12": []}
    for repeat in range(2):
        for concurrency in found:
            to = f"{concurrency}-{repeat}"
            seconds = bench.run(to, "--concurrency", concurrency)
            found[concurrency].append(tokens(bench, to) / seconds)
    one, twelve = (max(rates) for rates in found.values())
    return {"tokens_per_second": found, "ratio": twelve / one}


def styles(bench: Bench) -> Json:
    """Each style against none: the features that it names, and the direction in which they moved."""
    bench.run("plain", "--concurrency", "20")
    found: Json = {}
    for style, named in STYLES.items():
        bench.run(style, "--concurrency", "20", style=style)
        found[style] = moved(bench, style, named)
    return found


def moved(bench: Bench, style: str, named: dict[str, int]) -> Json:
    """The features that a style names, in deviations from plain users."""
    files = [bench.folder / name / "conversations.jsonl" for name in (style, "plain")]
    command = [bench.args.foreturn, "simulator", "compare", "--json", "--simulated", str(files[0]), "--real", str(files[1])]
    compared = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    features = {feature["name"]: feature for feature in compared["features"]}
    return {
        name: {"plain": features[name]["real"], "styled": features[name]["simulated"], "wanted": "more" if sign > 0 else "less",
               "difference": features[name]["difference"]["mean"],
               "interval": features[name]["difference"]["interval"], "moved": is_moved(features[name]["difference"]["interval"], sign)}
        for name, sign in named.items()
    }


def is_moved(interval: list[float], sign: int) -> bool:
    """Whether the interval of a difference is on the side that is wanted."""
    return min(sign * bound for bound in interval) > 0


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["kills", "speed", "styles"])
    parser.add_argument("--foreturn", default=str(ROOT / "target/release/foreturn"))
    parser.add_argument("--model", default=str(ROOT / "target/models/smollm2-135m-instruct"))
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1, help="conversations about each task")
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of a message")
    parser.add_argument("--folder", type=Path, help="keep the runs here, and go on with what is there")
    args = parser.parse_args()
    os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / "target/onnxruntime/lib/libonnxruntime.so"))
    folder = args.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    found = {"kills": kills, "speed": speed, "styles": styles}[args.what](Bench(args, folder))
    if args.folder is None:
        shutil.rmtree(folder)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    settings = {"tasks": args.tasks, "turns": args.turns, "samples": args.samples, "tokens": args.tokens}
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0]}
    results[args.what] = {"settings": settings, "machine": machine, **found}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results[args.what], indent=1))


if __name__ == "__main__":
    main()
