"""A process of a trainer that asks a server which it shares with others. Prints what it got, and how much memory it needed.

    python shared_client.py trl|openrlhf ADDRESS < ROWS

A row is `{"prompt", "completion", "goal"}`. With `trl`, nothing is imported but foreturn, as in a reward worker.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PASSES = 2


def trl(address: str, rows: list[dict[str, Any]]) -> list[float]:
    """What TRL calls."""
    from foreturn.trl import MultiturnReward

    columns = {name: [row[name] for row in rows] for name in ("prompt", "completion", "goal")}
    made = MultiturnReward(address, goal="goal")(columns["prompt"], columns["completion"], goal=columns["goal"])
    return [float("nan") if reward is None else reward for reward in made]


def openrlhf(address: str, rows: list[dict[str, Any]]) -> list[float]:
    """OpenRLHF's own client."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor
    from test_openrlhf import run

    executor = SingleTurnAgentExecutor(f"{address}/openrlhf")
    made = []
    for row in rows:
        label = json.dumps({"messages": row["prompt"], "goal": row["goal"]})
        reward = run(executor, row["prompt"], label, row["completion"])["reward"]
        made.append(float(reward[0] if isinstance(reward, list) else reward))
    return made


def main() -> None:
    rows = json.load(sys.stdin)
    ask = {"trl": trl, "openrlhf": openrlhf}[sys.argv[1]]
    passes = [ask(sys.argv[2], rows) for _ in range(PASSES)]
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"passes": passes, "peak_bytes": int(peak.split()[1]) * 1024}))


if __name__ == "__main__":
    main()
