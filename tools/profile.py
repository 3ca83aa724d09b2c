#!/usr/bin/env python3
"""Time of a step by kind of operator, from ONNX Runtime's profile of a model.

    target/release/foreturn bench --model DIR --profile target/profile
    python3 tools/profile.py target/profile_*.json

Steps with the same number of rows (tokens) are grouped. The groups with the most total time come first.
"""

from __future__ import annotations

import argparse
import bisect
import json
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ATTENTION = ("PagedAttention", "GroupQueryAttention")
Event = dict[str, Any]


def shapes(event: Event, side: str) -> list[list[int]]:
    """The shapes of a node's inputs or outputs."""
    return [shape for tensor in event["args"].get(f"{side}_type_shape", []) for shape in tensor.values()]


def steps(events: list[Event]) -> list[tuple[Event, list[Event]]]:
    """Each run of the model with its nodes."""
    runs = sorted((event for event in events if event.get("name") == "model_run"), key=lambda event: event["ts"])
    starts = [run["ts"] for run in runs]
    nodes: list[list[Event]] = [[] for _ in runs]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[bisect.bisect_right(starts, event["ts"]) - 1].append(event)
    return list(zip(runs, nodes, strict=True))


def rows_of(nodes: list[Event]) -> int:
    """The number of tokens of a step: the rows of its first attention."""
    for node in nodes:
        if node["args"]["op_name"] in ATTENTION:
            return shapes(node, "output")[0][-2]
    return 0


def table(rows: int, members: list[tuple[Event, list[Event]]]) -> str:
    """The operator kinds of steps with this number of rows, as Markdown."""
    took, calls = Counter[str](), Counter[str]()
    for _, nodes in members:
        for node in nodes:
            took[node["args"]["op_name"]] += node["dur"]
            calls[node["args"]["op_name"]] += 1
    whole = sum(run["dur"] for run, _ in members)
    took["between nodes"] = whole - sum(took.values())
    median = statistics.median(run["dur"] for run, _ in members)
    lines = [
        f"{len(members)} steps of {rows} rows, {median / 1000:.1f} ms each (median)",
        "",
        "| | nodes | ms per step | share |",
        "|---|---|---|---|",
    ]
    for name, micros in took.most_common():
        each = calls[name] // len(members) or ""
        lines.append(f"| {name} | {each} | {micros / 1000 / len(members):.2f} | {100 * micros / whole:.1f}% |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", type=Path, nargs="+", help="files that `bench --profile` made")
    parser.add_argument("--most", type=int, default=2, metavar="N", help="tables to print (default: %(default)s)")
    arguments = parser.parse_args()
    groups: dict[int, list[tuple[Event, list[Event]]]] = defaultdict(list)
    for path in arguments.profile:
        for run, nodes in steps(json.loads(path.read_text())):
            groups[rows_of(nodes)].append((run, nodes))
    by_time = sorted(groups.items(), key=lambda group: -sum(run["dur"] for run, _ in group[1]))
    print("\n\n".join(table(rows, members) for rows, members in by_time[: arguments.most]))


if __name__ == "__main__":
    main()
