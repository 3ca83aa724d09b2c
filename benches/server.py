#!/usr/bin/env python3
"""A warm score through `foreturn serve` beside the same score through C, one client: the 99th percentiles.

    make library quantized && cargo build --release --locked --bin foreturn && python3 benches/server.py [--rounds 1000]

A reply of a few tokens is scored after a history of about 1,000, which is warm in both. The two ways take turns, and the first of
them changes from round to round. The difference is HTTP, JSON and the way between two processes. It ends with 1 where the server's
99th percentile is more than 5 ms above that of C, and writes benches/results/server.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches" / "peers"))

import machine  # noqa: E402

RELEASE = ROOT / "target" / "release"
WORDS = "the sea was his second home and he never came back dry from any walk that we took there together in spring "
HISTORY, REPLY = WORDS * 45, "He never came back dry."
ABOVE = 5e-3
"""Seconds that the server's 99th percentile may be above that of C."""
BODY = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": HISTORY}], "candidates": [REPLY], "task": "response"}
)
# What one round gives: seconds, and the log-probability.
Ask = Callable[[], tuple[float, float]]


@contextlib.contextmanager
def through_server(config: Path) -> Iterator[Ask]:
    """The command, and a connection that stays open."""
    command = [RELEASE / "foreturn", "serve", "--config", config, "--listen", "127.0.0.1:0", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        line = process.stderr.readline()
        found = re.search(r"http://(\S+)", line)
        assert found, line
        connection = http.client.HTTPConnection(found[1])

        def ask() -> tuple[float, float]:
            start = time.perf_counter()
            connection.request("POST", "/v1/score", BODY)
            answer = json.loads(connection.getresponse().read())
            return time.perf_counter() - start, answer["scores"][0]["values"][0]

        try:
            yield ask
        finally:
            connection.close()
            process.terminate()


@contextlib.contextmanager
def through_c(config: Path, folder: Path) -> Iterator[Ask]:
    """A program in C that links the library."""
    program = folder / "warm_score"
    source = ROOT / "benches" / "warm_score.c"
    # The name that programs look for; `make install` makes it, too.
    (folder / "libforeturn.so.0").symlink_to(RELEASE / "libforeturn.so")
    link = [f"-L{RELEASE}", "-lforeturn", f"-Wl,-rpath,{folder}"]
    subprocess.run(["cc", "-std=c11", "-O2", "-Wall", "-Werror", f"-I{ROOT / 'include'}", source, *link, "-o", program], check=True)
    command = [program, config, "m", HISTORY, REPLY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin and process.stdout
        to, back = process.stdin, process.stdout

        def ask() -> tuple[float, float]:
            with contextlib.suppress(BrokenPipeError):
                to.write("\n")
            answer = back.readline()
            if not answer:
                raise SystemExit("the program in C has ended, with the reason above")
            took, logprob = answer.split()
            return int(took) / 1e9, float(logprob)

        try:
            yield ask
        finally:
            with contextlib.suppress(BrokenPipeError):
                to.close()


def quantiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": cuts[49] * 1e3, "p95": cuts[94] * 1e3, "p99": cuts[98] * 1e3, "most": max(seconds) * 1e3}


def measure(model: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The milliseconds of each way."""
    with tempfile.TemporaryDirectory() as name:
        config = Path(name, "foreturn.toml")
        config.write_text(f"[models.m]\npath = {json.dumps(str(model))}\n")
        with through_c(config, Path(name)) as c, through_server(config) as server:
            ways = [("c", c), ("server", server)]
            assert c()[1] == server()[1], "both give the same bits"
            taken: dict[str, list[float]] = {"c": [], "server": []}
            for at in range(rounds):
                for way, ask in ways if at % 2 else reversed(ways):
                    taken[way].append(ask()[0])
    return {way: quantiles(seconds) for way, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "target" / "models" / "smollm2-135m-instruct-int8")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results" / "server.json")
    given = parser.parse_args()
    library = ROOT / "target" / "onnxruntime" / "lib" / "libonnxruntime.so"
    os.environ.setdefault("ORT_DYLIB_PATH", str(library))
    taken = measure(given.model, given.rounds)
    above = {name: taken["server"][name] - taken["c"][name] for name in taken["c"]}
    report: dict[str, Any] = {
        **machine.describe(RELEASE / "foreturn"), "model": given.model.name, "rounds": given.rounds, "milliseconds": taken,
        "server_above_c": above,
    }
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    for way, cuts in taken.items():
        print(f"{way:7}", "   ".join(f"{name} {cut:7.2f} ms" for name, cut in cuts.items()))
    if above["p99"] > ABOVE * 1e3:
        sys.exit(f"the server's p99 is {above['p99']:.2f} ms above that of C")


if __name__ == "__main__":
    main()
