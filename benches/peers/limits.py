#!/usr/bin/env python3
"""Measures what this machine could do at best, and how far above that the measured jobs are.

    target/peers-venv/bin/python benches/peers/limits.py --results benches/results/peers.json

The ceilings are the best of several tries: reading memory, and matrix products in float32, bfloat16 and int8. The floor
of a job is the time that its arithmetic and its memory traffic take at these ceilings and nothing else; prefill is
bound by arithmetic, decoding by reading the weights once a step. Both are put into the results file, as `limits`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import processes
import workload
from store import Store

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, INTERMEDIATE, VOCABULARY = 30, 576, 9, 3, 64, 1536, 49_152
"""SmolLM2-135M."""

LAYER_WEIGHTS = LAYERS * (
    2 * HIDDEN * HEADS * HEAD_SIZE + 2 * HIDDEN * KV_HEADS * HEAD_SIZE + 3 * HIDDEN * INTERMEDIATE
)
HEAD_WEIGHTS = HIDDEN * VOCABULARY
"""The embedding is the head too, so it is read once."""
TOKEN_OPERATIONS = 2 * LAYER_WEIGHTS
HEAD_OPERATIONS = 2 * HEAD_WEIGHTS
"""Only for rows that are sampled from."""
ATTENTION_OPERATIONS = LAYERS * 4 * HEADS * HEAD_SIZE
"""For each token before, and itself."""
CACHE_NUMBERS = LAYERS * 2 * KV_HEADS * HEAD_SIZE
"""Numbers of one token in the key-value cache."""


@dataclass(frozen=True)
class Form:
    """How an engine stores and multiplies."""

    product: str
    """Which of the matrix products is its ceiling."""
    weight_bytes: float
    head_bytes: float
    cache_bytes: int


FORMS = {
    "fp32": Form("float32", 4, 4, 4),
    "bf16": Form("bfloat16", 2, 2, 2),
    # Blocks of 32 with a float32 scale; the 4-bit exports have their head in 8 bits.
    "int8": Form("int8", 1.125, 1.125, 4),
    "int4": Form("int8", 0.65, 1.125, 4),
    # llama.cpp's blocks of 32 have a float16 scale, Q4_1 another one; its cache is float16.
    "q8_0": Form("int8", 1.0625, 1.0625, 2),
    "q4_0": Form("int8", 0.5625, 0.82, 2),
    "q4_1": Form("int8", 0.625, 0.82, 2),
}


@dataclass(frozen=True)
class Ceilings:
    """Operations and bytes per second."""

    products: dict[str, float | None]
    """None where this machine or torch has no such product."""
    bandwidth: float

    def operations(self, form: Form) -> float:
        """The ceiling of an engine's products; float32's where its own could not be measured."""
        return self.products[form.product] or self.products["float32"]


def best(action: Callable[[], Any], tries: int) -> float:
    """The shortest of several tries, in seconds, after one that doesn't count."""
    action()
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(threads: int, quick: bool) -> Ceilings:
    """The ceilings of this machine."""
    for name in processes.UNSET:
        os.environ.pop(name, None)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    tries, size, megabytes = (2, 512, 128) if quick else (7, 2048, 1024)
    products = {
        "float32": max(torch_product(torch.float32, size, tries), numpy_product(size, tries)),
        "bfloat16": torch_product(torch.bfloat16, size, tries),
        "int8": int8_product(size, tries),
    }
    return Ceilings(products, bandwidth(megabytes << 20, tries))


def torch_product(dtype: Any, size: int, tries: int) -> float:
    """Operations per second of a square product in torch."""
    import torch

    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / best(lambda: left @ right, tries)


def numpy_product(size: int, tries: int) -> float:
    """The same in numpy, whose OpenBLAS is the faster one on some processors."""
    import numpy

    left, right = (numpy.random.default_rng(seed).random((size, size), dtype=numpy.float32) for seed in range(2))
    return 2 * size**3 / best(lambda: left @ right, tries)


def int8_product(size: int, tries: int) -> float | None:
    """The same with 8-bit numbers and 32-bit sums."""
    import torch

    left, right = (torch.randint(-127, 127, (size, size), dtype=torch.int8) for _ in range(2))
    try:
        return 2 * size**3 / best(lambda: torch._int_mm(left, right), tries)
    except (AttributeError, NotImplementedError, RuntimeError):
        return None


def bandwidth(size: int, tries: int) -> float:
    """Bytes per second that are read from memory, as a sum or as a product with a vector, whichever is the faster."""
    import torch

    matrix = torch.ones(size // 4 // HIDDEN, HIDDEN)
    vector = torch.ones(HIDDEN)
    seconds = min(best(matrix.sum, tries), best(lambda: torch.mv(matrix, vector), tries))
    return matrix.numel() * 4 / seconds


def floor(form: Form, ceilings: Ceilings, order: str, shared: bool, candidates: int, samples: int) -> dict[str, float]:
    """Seconds of prefill and decoding of a job, if nothing but the ceilings held it back.

    `shared`: common beginnings are computed, kept and read once.
    """
    seconds = {"prefill": 0.0, "decode": 0.0}
    for phase, prompts in workload.played(order, candidates, samples):
        if shared:
            positions = workload.distinct_positions(prompts)
        else:
            positions = [position for tokens in prompts for position in range(len(tokens))]
        rows = len(set(map(tuple, prompts))) if shared else len(prompts)
        operations = len(positions) * TOKEN_OPERATIONS + rows * HEAD_OPERATIONS
        operations += ATTENTION_OPERATIONS * sum(position + 1 for position in positions)
        seconds["prefill"] += bound(form, ceilings, operations, cached=0)
        for step in range(1, phase.new):
            attended = sum(len(tokens) + step for tokens in prompts)
            operations = len(prompts) * (TOKEN_OPERATIONS + HEAD_OPERATIONS) + ATTENTION_OPERATIONS * attended
            seconds["decode"] += bound(form, ceilings, operations, len(positions) + len(prompts) * step)
    return {**seconds, "seconds": sum(seconds.values())}


def bound(form: Form, ceilings: Ceilings, operations: float, cached: int) -> float:
    """Seconds of one pass over the weights and a cache of so many tokens: arithmetic or memory, the longer of both."""
    read = LAYER_WEIGHTS * form.weight_bytes + HEAD_WEIGHTS * form.head_bytes
    read += cached * CACHE_NUMBERS * form.cache_bytes
    return max(operations / ceilings.operations(form), read / ceilings.bandwidth)


def form_of(engine: str) -> Form:
    """How an engine stores and multiplies."""
    form = FORMS[engine.partition("-")[2] or "q4_1"]
    # foreturn's quantised models keep keys and values in bfloat16.
    ours = engine.startswith("foreturn") and form.product == "int8"
    return replace(form, cache_bytes=2) if ours else form


def floors(results: dict[str, Any], ceilings: Ceilings) -> list[dict[str, Any]]:
    """Each measured job beside its two floors: of what the engine computes, and of what has to be computed."""
    settings = results["settings"]
    rows = []
    for measurement, engines in results.get("summary", {}).items():
        if not measurement.startswith("job "):
            continue
        order = measurement.removeprefix("job ")
        for engine, fields in engines.items():
            form = form_of(engine)
            sizes = (settings["candidates"], settings["samples"])
            needed = floor(form, ceilings, order, True, *sizes)
            shares = fields["computed_tokens"]["median"] < fields["prompt_tokens"]["median"]
            own = needed if shares else floor(form, ceilings, order, False, *sizes)
            seconds = fields["seconds"]["median"]
            rows.append({
                "engine": engine, "order": order, "seconds": seconds,
                "floor_of_its_tokens": own, "above_floor_of_its_tokens": seconds / own["seconds"],
                "floor_of_distinct_tokens": needed, "above_floor_of_distinct_tokens": seconds / needed["seconds"],
            })  # fmt: skip
    return rows


def markdown(ceilings: Ceilings, rows: list[dict[str, Any]]) -> str:
    """The ceilings and the table."""
    products = {name: f"{value / 1e9:.0f}" if value else "unknown" for name, value in ceilings.products.items()}
    lines = [
        "### What the machine could do",
        "",
        f"Memory {ceilings.bandwidth / 1e9:.1f} GB/s; matrix products, in 10^9 operations a second: "
        + ", ".join(f"{name} {value}" for name, value in products.items()),
        "",
        "| engine | order | seconds | floor of the tokens it computes | times | floor with all sharing | times |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        own, needed = row["floor_of_its_tokens"]["seconds"], row["floor_of_distinct_tokens"]["seconds"]
        lines.append(
            f"| {row['engine']} | {row['order']} | {row['seconds']:.1f} | {own:.2f} | "
            f"{row['above_floor_of_its_tokens']:.1f} | {needed:.2f} | {row['above_floor_of_distinct_tokens']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="results file of compare.py, which is added to")
    parser.add_argument("--quick", action="store_true", help="small products: to see that it runs, not to measure")
    arguments = parser.parse_args()
    store = Store.read(arguments.results)
    threads = store.content["settings"]["threads"]
    processes.pin(threads)
    ceilings = measure(threads, arguments.quick)
    rows = floors(store.content, ceilings)
    store.content["limits"] = {
        "bandwidth_bytes_per_second": ceilings.bandwidth,
        "operations_per_second": ceilings.products,
        "quick": arguments.quick,
        "jobs": rows,
    }
    store.write()
    print(markdown(ceilings, rows))


if __name__ == "__main__":
    main()
