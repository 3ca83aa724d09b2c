#!/usr/bin/env python3
"""A live model's weights into the engine: `Engine.refresh` beside what a training script does without it, which is
`save_pretrained`, `foreturn.export` and a new `Engine`.

    target/training-venv/bin/python benches/refresh_trainer.py [--quantize int8] [--rounds 5]

Both ways take turns in one run, after a round that warms up. The model is SmolLM2-135M as `make model` exported it. `make
test-training` makes the environment.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import foreturn

MODEL = Path(__file__).resolve().parents[1] / "target" / "models" / "smollm2-135m-instruct"
SHAPE: dict[str, Any] = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 100000.0,
}


class Memory:
    """The most memory that the process holds while something runs, beyond what it held before, in MiB."""

    def __enter__(self) -> Memory:
        self._over = threading.Event()
        self._before = self._most = self._now()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.extra = self._most - self._before

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self._most = max(self._most, self._now())

    @staticmethod
    def _now() -> float:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
        raise OSError("/proc/self/status has no RssAnon")


def measured(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and MiB of memory of its own for a moment."""
    gc.collect()
    with Memory() as memory:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    return seconds, memory.extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantize", choices=["int8", "int4"])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()

    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model.load_state_dict(load_file(MODEL / "model.safetensors"), strict=False)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokens = list(range(1000, 1064))
    refreshes, reloads = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder, exported = Path(scratch, "checkpoint"), Path(scratch, "export")

        def save_and_load() -> None:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            foreturn.export(folder, exported, quantize=given.quantize, overwrite=True)
            engines.append(foreturn.Engine(models={"policy": exported}))

        engines: list[foreturn.Engine] = []
        save_and_load()
        kept = engines.pop()
        for step in range(given.rounds + 1):
            with torch.no_grad():
                model.model.norm.weight.mul_(1.01)  # Weights that are to be noticed.
            reload = measured(save_and_load)
            fresh = engines.pop()
            refresh = measured(lambda: kept.refresh("policy", model.state_dict(), version=f"step {step}"))
            same = [list(engine.logprobs("policy", tokens=tokens).logprobs) for engine in (fresh, kept)]
            if same[0] != same[1]:
                raise SystemExit("the two ways gave other bits")
            fresh.close()
            if step > 0:
                reloads.append(reload)
                refreshes.append(refresh)
        kept.close()
    print(f"SmolLM2-135M, {given.quantize or 'float32'}, medians of {given.rounds} rounds in turn; equal bits in each")
    for name, rounds in (("save_pretrained, export, Engine", reloads), ("Engine.refresh", refreshes)):
        print(f"  {name:32} {statistics.median(r[0] for r in rounds):6.2f} s   {max(r[1] for r in rounds):6.0f} MiB more")
    ratios = [reload[0] / refresh[0] for reload, refresh in zip(reloads, refreshes, strict=True)]
    print(f"  times as quick: {statistics.median(ratios):.1f} (from {min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
