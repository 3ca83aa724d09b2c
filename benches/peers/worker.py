#!/usr/bin/env python3
"""Runs one measurement on one peer in this process and prints one line of JSON. compare.py starts it.

    python benches/peers/worker.py genai-fp32 job --model target/models/smollm2-135m-instruct --order reference
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engines
import workload

JOB_CELLS = 6_656
"""Just above the distinct tokens of the longest phase with its replies. An engine that shares needs no larger cache."""


def measure_load(arguments: argparse.Namespace) -> dict[str, Any]:
    """One token after a short prompt. The driver takes the time, from the start of this process to the line of JSON."""
    start = time.perf_counter()
    engine = engines.load(arguments.engine, arguments.model, arguments.threads, cells=1024)
    loaded = time.perf_counter()
    replies = engine.generate([workload.prompt(workload.SHORT_PROMPT, 1)], 1)
    check_lengths(replies.tokens, 1)
    return {"load_seconds": loaded - start, "prefill_seconds": replies.prefill_seconds}


def measure_decode(arguments: argparse.Namespace) -> dict[str, Any]:
    """A batch of copies of one prompt, and its replies."""
    engine = warm_engine(arguments, cells=arguments.prompt_tokens + arguments.batch * arguments.new_tokens + 256)
    replies = engine.generate([workload.prompt(arguments.prompt_tokens, 2)] * arguments.batch, arguments.new_tokens)
    check_lengths(replies.tokens, arguments.new_tokens)
    # The first token of each sequence belongs to the prefill.
    decoded = arguments.batch * (arguments.new_tokens - 1)
    return {
        "prefill_tokens_per_second": replies.prefill_tokens / replies.prefill_seconds,
        "decode_tokens_per_second": decoded / replies.decode_seconds,
        "computed_tokens": replies.computed_tokens,
    }


def measure_job(arguments: argparse.Namespace) -> dict[str, Any]:
    """A ranking job in three batches: all simulated users, then all policies, then all judges."""
    engine = warm_engine(arguments, JOB_CELLS)
    futures = workload.conversations(arguments.candidates, arguments.samples)
    counts = {"prompt_tokens": 0, "computed_tokens": 0, "generated_tokens": 0, "distinct_tokens": 0}
    phases = {}
    for phase in workload.PHASES:
        prompts = [workload.framed(phase, conversation, arguments.order) for conversation in futures]
        start = time.perf_counter()
        replies = engine.generate(prompts, phase.new)
        phases[phase.name] = time.perf_counter() - start
        check_lengths(replies.tokens, phase.new)
        for conversation, reply in zip(futures, replies.tokens, strict=True):
            conversation.extend(reply)
        counts["prompt_tokens"] += sum(map(len, prompts))
        counts["computed_tokens"] += replies.computed_tokens or 0
        counts["generated_tokens"] += phase.new * len(prompts)
        counts["distinct_tokens"] += len(workload.distinct_positions(prompts))
    if not counts["computed_tokens"]:
        del counts["computed_tokens"]
    elif counts["computed_tokens"] not in (counts["prompt_tokens"], counts["distinct_tokens"]):
        raise AssertionError(f"the engine shares some of what it could share, but not all: {counts}")
    return {"seconds": sum(phases.values()), "phase_seconds": phases, **counts}


def warm_engine(arguments: argparse.Namespace, cells: int) -> engines.Engine:
    """An engine that has computed a few tokens outside the measurement: threads started, buffers grown."""
    engine = engines.load(arguments.engine, arguments.model, arguments.threads, cells)
    engine.generate([workload.prompt(32, 1)], 2)
    return engine


def check_lengths(replies: list[workload.Tokens], new: int) -> None:
    """Every reply has to have exactly the tokens asked for."""
    lengths = {len(reply) for reply in replies}
    if lengths != {new}:
        raise AssertionError(f"replies of {new} tokens were asked for, but there are some of {sorted(lengths)}")


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "load": measure_load,
    "decode": measure_decode,
    "job": measure_job,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", help="genai-FORM, llama, llama-FORM, hf-FORM or openvino-FORM")
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("--model", type=Path, required=True, help="the folder or file that the engine reads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--order", choices=workload.ORDERS, default="reference")
    parsed = parser.parse_args()
    if parsed.new_tokens < 2:
        parser.error("--new-tokens: at least 2 are needed to tell decoding from prefill")
    return parsed


if __name__ == "__main__":
    chosen = arguments()
    print(json.dumps(MEASUREMENTS[chosen.measurement](chosen)), flush=True)
