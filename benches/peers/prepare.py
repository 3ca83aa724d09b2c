#!/usr/bin/env python3
"""Makes what the peers read from the demo's GGUF: transformers' checkpoint, or the GGUF in another quantisation.

    python benches/peers/prepare.py hf --gguf FILE --to target/peers/smollm2-135m-instruct-hf
    python benches/peers/prepare.py q4_0 --gguf FILE --to target/peers/smollm2-135m-instruct-q4_0.gguf

Each appears under its name only when it is whole, so its presence is enough; if it is there, nothing is done.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

REFERENCE_SCRIPTS = Path(__file__).resolve().parents[2] / "tests/reference"
FILE_TYPES = {"q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0"}


def write_checkpoint(gguf: Path, folder: Path) -> None:
    """A float32 Hugging Face checkpoint."""
    # Only here: among those scripts is one that is called llama_cpp too.
    sys.path.insert(0, str(REFERENCE_SCRIPTS))
    import smollm2_checkpoint

    shutil.rmtree(folder, ignore_errors=True)
    smollm2_checkpoint.write_checkpoint(gguf, folder)


def quantize(gguf: Path, file: Path, form: str) -> None:
    """The same model as llama.cpp's own quantiser stores it. It loses quality, coming from 4 bits, but not speed."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = getattr(llama_cpp, FILE_TYPES[form]), True
    status = llama_cpp.llama_model_quantize(str(gguf).encode(), str(file).encode(), params)
    if status:
        raise SystemExit(f"llama.cpp could not quantise {gguf} to {form}: {status}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("form", choices=("hf", *FILE_TYPES))
    parser.add_argument("--gguf", type=Path, required=True, help="SmolLM2's GGUF file")
    parser.add_argument("--to", type=Path, required=True, help="the folder or file to make")
    arguments = parser.parse_args()
    if arguments.to.exists():
        return
    if not arguments.gguf.is_file():
        raise SystemExit(f"{arguments.gguf}: no such file; `make fetch` fetches it")
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    unfinished = arguments.to.with_name(f"{arguments.to.name}.part")
    if arguments.form == "hf":
        write_checkpoint(arguments.gguf, unfinished)
    else:
        quantize(arguments.gguf, unfinished, arguments.form)
    unfinished.rename(arguments.to)


if __name__ == "__main__":
    main()
