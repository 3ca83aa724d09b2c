#!/usr/bin/env python3
"""A server at half of its capacity, at nine tenths, and at half as much again: the table of docs/scale.md.

    make quantized && python3 benches/load.py [--seconds 60] [--clients 200] [--model DIR]

It starts `foreturn serve` and finds what it can serve: first by a closed load, then by an open one of one and a half times that,
which keeps the queue full. What is answered in a second of the second one is the capacity, and it has filled the cache and the memory
as a server that runs has them. Then it puts open loads on it (`foreturn bench --load`).

Requests are scores of two candidates after a history, and some rankings. The deadline is twice the time that a server needs for all
that it accepts: what runs, and a full queue. It checks that no request was lost or answered twice, that the server's own log counts as
many requests of each status as its clients do, that answers agree, that below capacity nothing is refused for long, that goodput above
it stays near it, and that memory is flat, within each load and over all. It writes benches/results/load.json, prints the table, and ends
with 1 where a check fails. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches" / "peers"))

import machine  # noqa: E402

LOADS = (0.5, 0.9, 1.5)
WORDS = "the sea was his second home and he never came back dry from any walk that we took there together in spring "
HISTORIES, CANDIDATES = 64, 2
"""The first history is that of a ranking, so one request of 64 is."""
RUNNING = 64 // CANDIDATES
"""The server scores 64 texts at once."""
QUEUED = RUNNING
FLAT = 1.03
"""The median of memory may grow by so much from the first half of a load to the second, and from the first load to the last."""
REFUSED = 0.02
"""Below capacity, at most this share is refused: arrivals are random, so a queue fills now and then."""
KEPT = 0.8
"""Above capacity, the goodput has to stay at least at this share of it."""
# The cache is of bytes on every processor. All histories fit, and the rest of it is full before the first load, so that memory that
# grows is not the cache's.
CONFIG = """
[models.m]
path = {model}
cache_type = "int8"
[rollout]
window = 1
samples = 1
max_user_tokens = 8
max_policy_tokens = 8
[[metrics]]
kind = "token_amount"
[runtime]
kv_cache = "160MiB"
max_queued = {queued}
"""


def traffic() -> str:
    """Requests, as JSON Lines. Each history is of its own."""
    lines = []
    for at in range(HISTORIES):
        history = [{"role": "user", "content": f"Story {at}: {WORDS * 4}"}]
        candidates = [f"Reply {number}: he never came back dry." for number in range(CANDIDATES)]
        if at == 0:
            lines.append({"kind": "rank", "conversation": history, "candidates": candidates, "seed": at})
        else:
            lines.append({"kind": "score", "model": "m", "messages": history, "candidates": candidates, "task": "response"})
    return "".join(json.dumps(line) + "\n" for line in lines)


class Server:
    """A server that runs, with its log and its memory."""

    def __init__(self, address: str, process: int, log: Path) -> None:
        self.address, self._process, self._log = address, process, log

    def resident(self) -> int:
        """Bytes in memory."""
        return int(Path(f"/proc/{self._process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def statuses(self) -> collections.Counter[int]:
        """The requests that it has answered, by status, as it counts them itself."""
        seen = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return collections.Counter(line["status"] for line in seen if line["path"] in ("/v1/rank", "/v1/score"))


@contextlib.contextmanager
def server(foreturn: Path, model: Path, folder: Path) -> Iterator[Server]:
    """A server on a free port."""
    config = folder / "foreturn.toml"
    config.write_text(CONFIG.format(model=json.dumps(str(model)), queued=QUEUED))
    log = folder / "server.log"
    with log.open("w") as out:
        command = [foreturn, "serve", "--config", config, "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, stderr=out, env=environment())
    try:
        for _ in range(600):
            if found := re.search(r"http://\S+", log.read_text()):
                yield Server(found[0], process.pid, log)
                return
            if process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"the server did not start: {log.read_text()}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def environment() -> dict[str, str]:
    library = ROOT / "target" / "onnxruntime" / "lib" / "libonnxruntime.so"
    return os.environ | ({} if os.environ.get("ORT_DYLIB_PATH") else {"ORT_DYLIB_PATH": str(library)})


@contextlib.contextmanager
def watched(running: Server) -> Iterator[list[int]]:
    """The server's memory, twice a second."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            seen.append(running.resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def drive(foreturn: Path, running: Server, requests: Path, *options: str) -> dict[str, Any]:
    """A load, and what came of it."""
    command = [foreturn, "bench", "--load", "--server", running.address, "--requests", requests, "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)["rates"][0]["results"][0]
    return figures


def measured(given: argparse.Namespace, running: Server, requests: Path, rate: float, deadline: int) -> dict[str, Any]:
    """An open load, beside what the server says of it."""
    before = running.statuses()
    with watched(running) as seen:
        figures = drive(
            given.foreturn, running, requests, "--rate", f"{rate:.4f}", "--seconds", str(given.seconds),
            "--clients", str(given.clients), "--deadline", f"{deadline}s",
        )
    time.sleep(0.5)
    # Each load begins with one request of each kind.
    statuses = running.statuses() - before - collections.Counter({200: 2})
    middle = len(seen) // 2
    # A burst takes memory for a moment, so what grows is seen in the middle of each half, not at its top.
    parts = {"first_half_bytes": seen[:middle] or seen, "second_half_bytes": seen[middle:] or seen}
    memory = {name: int(statistics.median(part)) for name, part in parts.items()} | {"peak_bytes": max(seen)}
    return figures | {"server_statuses": dict(statuses), "memory": memory}


def halves(figures: dict[str, Any]) -> tuple[int, int]:
    """The memory of the first and the second half of a load, in bytes."""
    return figures["memory"]["first_half_bytes"], figures["memory"]["second_half_bytes"]


def faults(load: float, capacity: float, figures: dict[str, Any]) -> list[str]:
    """What is not as it has to be."""
    first, second = halves(figures)
    statuses = collections.Counter(figures["server_statuses"])
    answered = figures["in_time"] + figures["late"] + figures["partial"]
    clients = collections.Counter({200: answered, 429: figures["refused"], 504: figures["expired"]})
    wanted = {
        "requests were lost": figures["lost"] == 0,
        "requests failed": figures["failed"] == 0,
        "requests were answered twice": figures["twice"] == 0,
        "answers differ": figures["different"] == 0,
        f"the server counts {dict(statuses)} and its clients {dict(clients)}": +statuses == +clients,
        "memory grows": second <= FLAT * first,
        "requests are refused below capacity": load > 1 or figures["refused"] <= REFUSED * figures["arrived"],
        "goodput is below what can be served": load < 1 or figures["goodput_per_second"] >= KEPT * capacity,
        "accepted requests miss their deadline": figures["late"] + figures["expired"] + figures["partial"] <= 0.01 * answered,
    }
    return [f"at {load:.0%}: {fault}" for fault, holds in wanted.items() if not holds]


def table(capacity: float, runs: dict[float, dict[str, Any]]) -> str:
    """The table of docs/scale.md."""
    lines = [
        "| load | requests/s | arrived | goodput/s | p50 ms | p95 ms | p99 ms | refused | too late | lost | twice | memory MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for load, run in runs.items():
        times = [run["latency_seconds"][name] for name in ("p50", "p95", "p99")]
        shown = ["–" if seconds is None else f"{seconds * 1e3:,.0f}" for seconds in times]
        late = run["late"] + run["expired"] + run["partial"] + run["unsent"]
        first, second, peak = (bytes >> 20 for bytes in run["memory"].values())
        memory = f"{first} to {second}, at most {peak}"
        cells = [
            f"{load:.0%}", f"{load * capacity:.1f}", f"{run['arrived']:,}", f"{run['goodput_per_second']:.1f}", *shown,
            f"{run['refused']:,}", f"{late:,}", str(run["lost"]), str(run["twice"]), memory,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--foreturn", type=Path, default=ROOT / "target" / "release" / "foreturn")
    parser.add_argument("--model", type=Path, default=ROOT / "target" / "models" / "smollm2-135m-instruct-int8")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--probe-seconds", type=float, default=60, help="of each of the two that find the capacity")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results" / "load.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requests = folder / "requests.jsonl"
        requests.write_text(traffic())
        probe = ("--seconds", str(given.probe_seconds), "--clients", str(RUNNING))
        with server(given.foreturn, given.model, folder) as running:
            closed = drive(given.foreturn, running, requests, *probe)["answered_per_second"]
            above = ("--rate", f"{max(LOADS) * closed:.4f}", "--seconds", str(given.probe_seconds), "--clients", str(given.clients))
            capacity = drive(given.foreturn, running, requests, *above)["answered_per_second"]
            deadline = math.ceil(2 * (RUNNING + QUEUED) / capacity)
            print(f"capacity {capacity:.1f} requests/s; deadline {deadline} s", file=sys.stderr)
            runs = {load: measured(given, running, requests, load * capacity, deadline) for load in LOADS}
    wrong = [fault for load, run in runs.items() for fault in faults(load, capacity, run)]
    medians = [halves(run) for run in runs.values()]
    if medians[-1][1] > FLAT * medians[0][0]:
        wrong.append("memory grows from load to load")
    report = {
        **machine.describe(given.foreturn), "model": given.model.name, "closed_per_second": closed,
        "capacity_per_second": capacity,
        "cores": len(os.sched_getaffinity(0)), "clients": given.clients, "seconds": given.seconds,
        "deadline_seconds": deadline, "max_queued": QUEUED, "faults": wrong,
        "runs": [{"load": load, **run} for load, run in runs.items()],
    }
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{capacity:.1f} requests/s on {report['cores']} cores; deadline {deadline} s\n\n{table(capacity, runs)}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
