#!/usr/bin/env python3
"""A warm score through `foreturn serve` beside the same score in this process, one client.

    pip install ./python onnxruntime && python benches/server.py [--rounds 100]

Four candidates of about 64 tokens are scored after a history of about 1,000, which is warm in both. The two ways take turns. The
difference is HTTP, JSON and the way between two processes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import foreturn

MODEL = Path(__file__).resolve().parents[1] / "target" / "models" / "smollm2-135m-instruct"
WORDS = "the sea was his second home and he never came back dry from any walk that we took there together in spring "
HISTORY = [{"role": "user", "content": WORDS * 45}]
CANDIDATES = [f"Reply {n}: {WORDS * 3}" for n in range(4)]
CHATS = [[*HISTORY, {"role": "assistant", "content": reply}] for reply in CANDIDATES]


def shown(name: str, seconds: list[float]) -> str:
    quantiles = statistics.quantiles(seconds, n=100)
    return f"{name:16} p50 {quantiles[49] * 1e3:7.2f} ms   p99 {quantiles[98] * 1e3:7.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "foreturn.toml")
        file.write_text(f'[models.m]\npath = "{MODEL}"\n')
        command = [sys.executable, "-m", "foreturn", "serve", "--config", str(file), "--listen", "127.0.0.1:0", "--quiet"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, foreturn.Engine(file) as engine:
            found = re.search(r"http://(\S+)", server.stderr.readline() if server.stderr else "")
            assert found
            connection = http.client.HTTPConnection(found[1])
            body = json.dumps({"model": "m", "messages": HISTORY, "candidates": CANDIDATES, "task": "response"})

            def through_server() -> list[float]:
                connection.request("POST", "/v1/score", body)
                return [each["values"][0] for each in json.loads(connection.getresponse().read())["scores"]]

            def in_process() -> list[float]:
                return [score.logprob for score in engine.score("m", CHATS, task="response")]

            assert through_server() == in_process(), "both give the same bits"
            taken: dict[str, list[float]] = {"in process": [], "through server": []}
            for _ in range(rounds):
                for name, ask in zip(taken, (in_process, through_server), strict=True):
                    start = time.perf_counter()
                    ask()
                    taken[name].append(time.perf_counter() - start)
            for name, seconds in taken.items():
                print(shown(name, seconds))
            server.terminate()


if __name__ == "__main__":
    main()
