#!/usr/bin/env python3
"""Checks exports of the demo's model, quantised by llama.cpp into each type, against transformers.

    tests/reference/check_gguf_quants.py FOLDER [TYPE …] [--foreturn COMMAND] [--gguf FILE]

FOLDER holds llama.cpp's libraries, see llama_cpp.py. transformers runs on the weights that gguf-py widens the quantised
file's to; llama.cpp's own log-probabilities are shown beside, which differ by the rounding of its activations.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import gguf
import torch
from llama_cpp import FILE_TYPES, LlamaCpp
from smollm2_checkpoint import write_checkpoint
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4
TOKENS = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2,
          198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198, 504, 3575, 282, 4649]  # fmt: skip


def by_transformers(folder: Path) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logprobs = model(torch.tensor([TOKENS])).logits[0].double().log_softmax(-1)
    return [logprobs[at, token].item() for at, token in enumerate(TOKENS[1:])]


def worst(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("types", nargs="*", default=list(FILE_TYPES), metavar="TYPE")
    parser.add_argument("--foreturn", default=ROOT / "target/release/foreturn")
    parser.add_argument("--gguf", type=Path, default=ROOT / "target/downloads/SmolLM2-135M-Instruct.Q4_1.gguf")
    args = parser.parse_args()
    llama = LlamaCpp(args.folder)
    failed = []
    for kind in args.types:
        with tempfile.TemporaryDirectory() as folder:
            file, model = Path(folder) / f"{kind}.gguf", Path(folder) / "model"
            llama.quantize(args.gguf, file, kind)
            stored = sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors})
            write_checkpoint(file, Path(folder) / "checkpoint")
            expected = by_transformers(Path(folder) / "checkpoint")
            subprocess.run([args.foreturn, "export", "--from", file, "--to", model], check=True, capture_output=True)
            tokens = ",".join(map(str, TOKENS))
            command = [args.foreturn, "logprobs", "--model", model, "--tokens", tokens, "--json"]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["logprobs"]
            difference = worst(found, expected)
            theirs = worst(llama.logprobs(file, TOKENS, 49152), expected)
            print(f"{kind:7} {difference:.1e}   llama.cpp {theirs:.1e}   {' '.join(stored)}", flush=True)
            if difference > TOLERANCE:
                failed.append(kind)
    if failed:
        raise SystemExit(f"beyond {TOLERANCE}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
