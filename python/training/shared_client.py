"""A process of a trainer that asks a server which it shares with others. Prints what it got, and how much memory it needed.

    python shared_client.py trl|openrlhf ADDRESS < ROWS
    python shared_client.py grpo ADDRESS EXPORT < ROWS

A row is `{"prompt", "completion", "goal"}`. With `trl`, nothing is imported but foreturn, as in a reward worker. With `grpo`, TRL's
trainer trains the model of the export, and its own completions take the place of the rows'.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
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


def grpo(address: str) -> list[dict[str, Any]]:
    """TRL's trainer for a few steps: what it asked, and the rewards that it got."""
    import test_trl
    from foreturn.trl import MultiturnReward
    from transformers import TrainerCallback

    reward = MultiturnReward(address, goal="goal")
    seen: list[dict[str, Any]] = []

    class Noting:
        __name__ = "noting"
        # Nothing follows the trainer: the server's weights are its own.
        callback = TrainerCallback

        def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
            given = reward(prompts, completions, **columns)
            seen.append({"prompts": prompts, "completions": completions, "goals": columns["goal"], "rewards": given})
            return given

    with tempfile.TemporaryDirectory() as folder:
        test_trl.grpo(Noting(), Path(sys.argv[3]), Path(folder), max_steps=PASSES, seed=os.getpid()).train()
    return seen


def main() -> None:
    rows = json.load(sys.stdin)
    address = sys.argv[2]
    if sys.argv[1] == "grpo":
        passes: list[Any] = grpo(address)
    else:
        ask = {"trl": trl, "openrlhf": openrlhf}[sys.argv[1]]
        passes = [ask(address, rows) for _ in range(PASSES)]
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    # A trainer prints as well.
    print("\n" + json.dumps({"passes": passes, "peak_bytes": int(peak.split()[1]) * 1024}), flush=True)
    # Threads of torch end some interpreters with an abort on their way out.
    os._exit(0)


if __name__ == "__main__":
    main()
