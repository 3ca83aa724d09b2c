#!/usr/bin/env python3
"""Measures how the time of a ranking job grows with its size, and whether it follows the tokens that are computed.

    make bench-growth
    target/peers-venv/bin/python benches/peers/growth.py --model target/models/smollm2-135m-instruct-int8

One variable at a time is varied from the base, 4 candidates with 3 futures of one turn. Results are written after each
measurement; an interrupted run goes on with --resume.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import machine
import processes
import summary
import workload
from store import Run, Store

BASE = {"candidates": 4, "samples": 3, "window": 1, "history_tokens": workload.HISTORY}
VALUES = {
    "samples": (1, 2, 4, 8, 16, 32),
    "candidates": (1, 2, 4, 8, 16),
    "window": (0, 1, 2, 3, 4),
    "history_tokens": (256, 1024, 2048, 4096),
}
QUICK_BASE = {**BASE, "candidates": 1, "samples": 1}
QUICK_VALUES = {"samples": (1, 2), "window": (0, 1)}
LABELS = {
    "samples": "futures of each candidate",
    "candidates": "candidates",
    "window": "turns of each future",
    "history_tokens": "tokens of the conversation",
}
COLOURS = {"reference": "tab:orange", "fixed-first": "tab:blue"}

Point = dict[str, int]


def points(base: Point, values: dict[str, tuple[int, ...]]) -> list[Point]:
    """Every job that is measured; the base is in all variables' rows, but measured once."""
    varied = [{**base, name: value} for name, row in values.items() for value in row]
    return [point for at, point in enumerate([base, *varied]) if point not in [base, *varied][:at]]


def has_history_option(foreturn: Path) -> bool:
    """Whether this build of the command can vary the conversation's length."""
    return "--history-tokens" in machine.said(str(foreturn), "bench", "--help")


def command(arguments: argparse.Namespace, point: Point, order: str) -> list[str]:
    """The process that makes one measurement."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in point.items()]
    if point["history_tokens"] == workload.HISTORY:
        flags = [flag for flag in flags if not flag.startswith("--history-tokens")]
    model = ["--model", str(arguments.model)]
    return [str(arguments.foreturn), "bench", "--job", f"--prompt-order={order}", *flags, *model, "--json"]


def measure_all(arguments: argparse.Namespace, store: Store, repeat: int, jobs: list[Point]) -> None:
    """Repetition after repetition, each over all jobs in both orders."""
    tasks = [(point, order) for point in jobs for order in workload.ORDERS]
    for repetition in range(1, repeat + 1):
        for number, (point, order) in enumerate(tasks, 1):
            fields = {**point, "order": order, "repetition": repetition}
            if store.has(**fields):
                continue
            say(f"repetition {repetition} of {repeat}, {number} of {len(tasks)}: {order}, {point}")
            load = os.getloadavg()[0]
            try:
                finished = processes.run(command(arguments, point, order), arguments.threads, arguments.timeout)
            except processes.ProcessError as error:
                say(f"failed: {error}")
                store.add_failure({**fields, "error": str(error)})
                continue
            peak = {"peak_rss_bytes": finished.peak_rss_bytes, "load_average_before": load}
            store.add({**fields, **summary.numbers(finished.output), **peak})


def medians(store: Store, jobs: list[Point]) -> list[Run]:
    """One row for each job and order: the median time, and the counts."""
    rows = []
    for point in jobs:
        for order in workload.ORDERS:
            runs = store.runs(**point, order=order)
            if runs:
                names = ("seconds", "prompt_tokens", "computed_tokens", "generated_tokens")
                rows.append({**point, "order": order, **{n: statistics.median(run[n] for run in runs) for n in names}})
    return rows


def fit(rows: list[Run]) -> dict[str, float]:
    """Least squares of seconds = a · computed tokens + b · generated tokens, and the share of variance explained."""
    import numpy

    counts = numpy.array([[row["computed_tokens"], row["generated_tokens"]] for row in rows], dtype=float)
    seconds = numpy.array([row["seconds"] for row in rows])
    (a, b), *_ = numpy.linalg.lstsq(counts, seconds, rcond=None)
    left = ((seconds - counts @ [a, b]) ** 2).sum()
    around = ((seconds - seconds.mean()) ** 2).sum()
    return {
        "seconds_per_computed_token": float(a),
        "seconds_per_generated_token": float(b),
        "r_squared": float(1 - left / around),
    }


def explain(fitted: dict[str, float]) -> str:
    """The fit in words."""
    a, b = (1000 * fitted[f"seconds_per_{what}_token"] for what in ("computed", "generated"))
    return (
        f"time = {a:.3f} ms · computed tokens + {b:.3f} ms · generated tokens "
        f"explains {100 * fitted['r_squared']:.1f}% of the variance"
    )


def draw(rows: list[Run], fitted: dict[str, float], base: Point, values: dict[str, Any], title: str, to: Path) -> None:
    """Time, and tokens computed, against each variable."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plots

    matplotlib.rcParams["svg.hashsalt"] = "foreturn"
    figure, axes = plots.subplots(2, len(values), figsize=(3.6 * len(values), 6), sharex="col", squeeze=False)
    for column, name in enumerate(values):
        others = {key: value for key, value in base.items() if key != name}
        row = [run for run in rows if all(run[key] == value for key, value in others.items())]
        panel(axes[0, column], row, name, "seconds", fitted)
        panel(axes[1, column], row, name, "computed_tokens", None)
        axes[1, column].set_xlabel(LABELS[name])
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("prompt tokens computed")
    axes[0, 0].legend(frameon=False)
    figure.suptitle(f"{title}\n{explain(fitted)}", fontsize=11)
    figure.tight_layout()
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=120, metadata={"Date": None} if to.suffix == ".svg" else None)


def panel(axis: Any, rows: list[Run], name: str, field: str, fitted: dict[str, float] | None) -> None:
    """One small chart: a line for each order of the prompts, and dots where the fit has them."""
    for order, colour in COLOURS.items():
        line = sorted((run for run in rows if run["order"] == order), key=lambda run: run[name])
        places = [run[name] for run in line]
        axis.plot(places, [run[field] for run in line], marker="o", markersize=4, color=colour, label=order)
        if fitted:
            axis.plot(places, [estimate(run, fitted) for run in line], ":", color=colour, label=f"{order}, fit")
        axis.set_xticks(places)
    axis.margins(y=0.1)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)


def estimate(run: Run, fitted: dict[str, float]) -> float:
    """The time that the fit has for a job."""
    computed = fitted["seconds_per_computed_token"] * run["computed_tokens"]
    return computed + fitted["seconds_per_generated_token"] * run["generated_tokens"]


def say(text: str) -> None:
    """A line for who is waiting."""
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target, results = machine.REPOSITORY / "target", machine.REPOSITORY / "benches/results"
    add = parser.add_argument
    add("--foreturn", type=Path, default=target / "release/foreturn", help="the command")
    add("--model", type=Path, default=target / "models/smollm2-135m-instruct", help="model folder")
    add("--out", type=Path, default=results / "growth.json", help="results file")
    add("--plot", type=Path, help="chart, .svg or .png (default: beside the results file)")
    add("--repeat", type=int, default=3, metavar="N", help="repetitions (default: %(default)s)")
    add("--threads", type=int, default=2, metavar="N", help="processors (default: %(default)s)")
    add("--timeout", type=float, default=1800, metavar="S", help="for one measurement (default: %(default)s)")
    add("--quick", action="store_true", help="a few small jobs, once: to see that it runs, not to measure")
    add("--resume", action="store_true", help="go on with the results file")
    add("--overwrite", action="store_true", help="replace the results file")
    arguments = parser.parse_args()
    if not os.access(arguments.foreturn, os.X_OK):
        parser.error(f"{arguments.foreturn} can't be run; `make build` makes it, --foreturn names another")
    if not arguments.model.is_dir():
        parser.error(f"{arguments.model} is not there; `make quantized` makes the models, --model names another")
    return arguments


def main() -> int:
    """Measures, writes, draws."""
    arguments = parse()
    processes.pin(arguments.threads)
    base, values = (QUICK_BASE, QUICK_VALUES) if arguments.quick else (BASE, VALUES)
    if not has_history_option(arguments.foreturn):
        say("this build of foreturn has no --history-tokens: the length of the conversation is not varied")
        values = {name: row for name, row in values.items() if name != "history_tokens"}
    repeat = 1 if arguments.quick else arguments.repeat
    settings = {"threads": arguments.threads, "model": arguments.model.name, "base": base, "quick": arguments.quick}
    header = {"settings": settings, **machine.describe(arguments.foreturn)}
    store = Store.open(arguments.out, header, arguments.resume, arguments.overwrite)
    jobs = points(base, values)
    measure_all(arguments, store, repeat, jobs)
    rows = medians(store, jobs)
    if len(rows) < 3:
        raise SystemExit("too few measurements succeeded to say anything")
    fitted = fit(rows)
    store.content |= {"medians": rows, "fit": fitted}
    store.write()
    print(explain(fitted))
    plot = arguments.plot or arguments.out.with_suffix(".svg")
    draw(rows, fitted, base, values, f"foreturn, one ranking job, {arguments.model.name}", plot)
    say(f"written to {arguments.out} and {plot}")
    return 1 if store.content["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
