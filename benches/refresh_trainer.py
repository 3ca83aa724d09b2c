#!/usr/bin/env python3
"""A live model's weights into the engine: `Engine.refresh` beside what a training script does without it, which is
`save_pretrained`, `foreturn.export` and a new `Engine`.

    target/training-venv/bin/python benches/refresh_trainer.py [--model 1b] [--quantize int8] [--rounds 5] [--results FILE]

Both ways take turns in one run, after a round that warms up. The model is SmolLM2-135M as `make model` exported it, in float32;
or random numbers in the shape of Llama 3.2 1B, in bfloat16. `make test-training` makes the environment. A run's numbers are added
to the JSON list in FILE.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
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
BILLION: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 500000.0,
}
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


def made(name: str) -> tuple[LlamaForCausalLM, str]:
    """A model and what it is called."""
    if name == "1b":
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**BILLION)).to(torch.bfloat16), "random weights in the shape of Llama 3.2 1B"
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model.load_state_dict(load_file(MODEL / "model.safetensors"), strict=False)
    return model, "SmolLM2-135M"


def processor() -> str:
    """The processor's name, and how many of it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantize", choices=["int8", "int4"])
    parser.add_argument("--model", choices=["smollm2", "1b"], default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()

    model, called = made(given.model)
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
    print(f"{called}, {given.quantize or 'float32'}, medians of {given.rounds} rounds in turn; equal bits in each")
    for name, rounds in (("save_pretrained, export, Engine", reloads), ("Engine.refresh", refreshes)):
        print(f"  {name:32} {statistics.median(r[0] for r in rounds):6.2f} s   {max(r[1] for r in rounds):6.0f} MiB more")
    ratios = [reload[0] / refresh[0] for reload, refresh in zip(reloads, refreshes, strict=True)]
    if given.results:
        known = json.loads(given.results.read_text(encoding="utf-8")) if given.results.exists() else []
        numbers = {"reload": reloads, "refresh": refreshes}
        versions = {"torch": torch.__version__, "foreturn": foreturn.__version__}
        known.append({"model": called, "weights": given.quantize or "float32", "processor": processor(), **versions} | {
            f"{name}_{unit}": [round(r[at], 3) for r in rounds]
            for name, rounds in numbers.items() for at, unit in enumerate(("seconds", "extra_mib"))
        })
        given.results.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print(f"  times as quick: {statistics.median(ratios):.1f} (from {min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
