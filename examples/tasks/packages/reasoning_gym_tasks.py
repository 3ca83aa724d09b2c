#!/usr/bin/env python3
"""Tasks of `reasoning-gym`, and its own scorers as a metric.

    pip install reasoning-gym==0.1.25
    reasoning_gym_tasks.py tasks leg_counting basic_arithmetic --size 10 --seed 42 > tasks.jsonl
    reasoning_gym_tasks.py score                             a metric of kind `command`, as in reasoning_gym.toml

In Python, pass `metric` to an engine: `foreturn.Engine(config, metrics=[metric])`. The package's entry stands in `goal.tests`,
which only metrics see, so that the scorer of its data set can be called. The answer is what stands in the last
`<answer>…</answer>` of the assistant, otherwise the last line of its last message.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import reasoning_gym
from reasoning_gym.utils import extract_answer

if TYPE_CHECKING:
    import foreturn


def tasks(names: Sequence[str], size: int, seed: int) -> Iterator[dict[str, Any]]:
    """So many tasks of each data set."""
    for name in names:
        for at, entry in enumerate(reasoning_gym.create_dataset(name, size=size, seed=seed)):
            tests = {"dataset": name, "entry": entry}
            yield {
                "id": f"{name}-{seed}-{at}",
                "goal": {
                    "task": "a problem with one right answer",
                    "prompt": entry["question"],
                    "reference": str(entry["answer"]),
                    "tests": json.dumps(tests, default=str),
                },
                "metadata": {"dataset": name},
            }


@functools.cache
def scorer(name: str) -> Any:
    """The data set that scores answers. Its entries are not needed for that."""
    return reasoning_gym.create_dataset(name, size=1, seed=0)


def answer(said: Sequence[str]) -> str:
    """The assistant's last word on the matter."""
    for text in reversed(said):
        if (found := extract_answer(text)) is not None:
            return str(found)
    lines = [line.strip() for line in said[-1].splitlines() if line.strip()]
    return lines[-1] if lines else ""


def score(goal: dict[str, Any], said: Sequence[str]) -> float:
    """The package's score of a conversation, in [0, 1]."""
    tests = json.loads(goal["tests"])
    return float(scorer(tests["dataset"]).score_answer(answer=answer(said), entry=tests["entry"]))


def metric(batch: Sequence[foreturn.MetricInput]) -> list[float]:
    """The metric for an engine in Python."""
    return [score(given.goal, [said.content for said in given.messages if said.role == "assistant"]) for given in batch]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("tasks")
    make.add_argument("dataset", nargs="+")
    make.add_argument("--size", type=int, default=10)
    make.add_argument("--seed", type=int, default=42)
    commands.add_parser("score")
    args = parser.parse_args()
    if args.command == "tasks":
        for task in tasks(args.dataset, args.size, args.seed):
            print(json.dumps(task))
        return
    scores = []
    for given in json.load(sys.stdin)["conversations"]:
        messages = [*given["conversation"], {"role": "assistant", "content": given["response"]}, *given["future"]]
        scores.append(score(given["goal"], [said["content"] for said in messages if said["role"] == "assistant"]))
    json.dump({"scores": scores}, sys.stdout)


if __name__ == "__main__":
    main()
