"""What the single measurements say together: medians, and how many times as fast foreturn is."""

from __future__ import annotations

import json
from typing import Any

from store import Run, spread

TIMES = ("seconds",)
RATES = ("prefill_tokens_per_second", "decode_tokens_per_second")
OTHERS = ("peak_rss_bytes", "computed_tokens", "prompt_tokens", "load_seconds")

PRECISION = {
    "genai-int8": "int8", "llama-q8_0": "int8", "genai-int4": "int4", "genai-int4-greedy": "int4", "llama": "int4",
    "llama-q4_0": "int4", "hf-bf16": "bf16", "openvino-bf16": "bf16", "openvino-int8": "int8",
}  # fmt: skip
"""Which of foreturn's models a peer is set beside in the table, if not float32. (The file has all.)"""


def numbers(output: str) -> dict[str, Any]:
    """The JSON object that a measurement printed; a reply's tokens and text are left out."""
    told = json.loads(output)
    return {name: value for name, value in told.items() if not isinstance(value, (str, list))}


def key(run: Run) -> str:
    """What was measured: `load`, `decode batch 4`, `job reference`."""
    parts = [run["measurement"]]
    parts += [f"batch {run['batch']}"] if "batch" in run else []
    parts += [run["order"]] if "order" in run else []
    return " ".join(parts)


def counterpart(engine: str) -> str:
    """The engine of ours that a peer is set beside."""
    return f"foreturn-{PRECISION.get(engine, 'fp32')}"


def of(runs: list[Run]) -> dict[str, Any]:
    """`summary` and `ratios` of a results file."""
    return {"summary": summaries(runs), "ratios": ratios(runs)}


def grouped(runs: list[Run]) -> dict[str, dict[str, list[Run]]]:
    """The repetitions of each measurement of each engine."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        groups.setdefault(key(run), {}).setdefault(run["engine"], []).append(run)
    return groups


def summaries(runs: list[Run]) -> dict[str, Any]:
    """Measurement, engine, field: median, smallest, largest."""
    return {
        measurement: {engine: fields(repetitions) for engine, repetitions in engines.items()}
        for measurement, engines in grouped(runs).items()
    }


def fields(repetitions: list[Run]) -> dict[str, Any]:
    """The spread of each number."""
    found = {}
    for name in (*TIMES, *RATES, *OTHERS):
        values = [run[name] for run in repetitions if run.get(name) is not None]
        if values:
            found[name] = spread(values)
    return found


def ratios(runs: list[Run]) -> dict[str, Any]:
    """Measurement of ours, engine of ours, peer, field: how many times as fast ours is, repetition by repetition.

    A peer that shares nothing is measured in one order of the prompts only; it stands beside ours in both.
    """
    groups = grouped(runs)
    found: dict[str, Any] = {}
    for measurement, engines in groups.items():
        peers = {**groups.get("job reference", {}), **engines} if measurement.startswith("job") else engines
        for ours in filter(is_ours, engines):
            beside = {
                peer: compared(engines[ours], theirs) for peer, theirs in peers.items() if not is_ours(peer)
            }
            found.setdefault(measurement, {})[ours] = beside
    return found


def is_ours(engine: str) -> bool:
    """Whether it is foreturn."""
    return engine.startswith("foreturn")


def compared(ours: list[Run], theirs: list[Run]) -> dict[str, Any]:
    """The spread of each ratio over the repetitions that both have; above 1, ours is faster."""
    found = {}
    by_repetition = {run["repetition"]: run for run in theirs}
    pairs = [(run, by_repetition[run["repetition"]]) for run in ours if run["repetition"] in by_repetition]
    for name in (*TIMES, *RATES):
        both = [(our[name], their[name]) for our, their in pairs if name in our and name in their]
        if both:
            found[name] = spread([their / our if name in TIMES else our / their for our, their in both])
    return found
