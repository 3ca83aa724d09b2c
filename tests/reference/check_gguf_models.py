#!/usr/bin/env python3
"""Checks that llama.cpp reads tests/fixtures/models/*/model.gguf and computes what `reference.json` has.

    tests/reference/check_gguf_models.py FOLDER      the folder of llama.cpp's libraries, see llama_cpp.py

llama.cpp keeps keys and values as float16, so its log-probabilities are only near: a mistake in the files (a norm's
one, a window, a factor) shows as tenths. It ignores Phi-3's window and chooses LongRoPE's factors by the room it has,
not by the sequence; such files are compared as far as neither matters.
"""

import json
import sys
from pathlib import Path

from llama_cpp import LlamaCpp

TOLERANCE = 0.05


def main() -> None:
    llama = LlamaCpp(Path(sys.argv[1]))
    failed = False
    for path in sorted((Path(__file__).parents[1] / "fixtures/models").glob("*/model.gguf")):
        config = json.loads((path.parent / "checkpoint/config.json").read_text())
        phi3 = config["model_type"] == "phi3"
        if phi3 and config["rope_scaling"]:
            print(f"{path.parent.name:24} not comparable")
            continue
        window = config["sliding_window"] - 1 if phi3 and config["sliding_window"] else None
        worst = 0.0
        for case in json.loads((path.parent / "reference.json").read_text())["cases"]:
            found = llama.logprobs(path, case["tokens"], config["vocab_size"])
            pairs = list(zip(found, case["logprobs"], strict=True))[:window]
            worst = max([worst, *(abs(a - b) for a, b in pairs)])
        failed |= worst > TOLERANCE
        print(f"{path.parent.name:24} {worst:.1e}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
