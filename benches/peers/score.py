#!/usr/bin/env python3
"""The scores of `foreturn bench --score`, computed by ONNX Runtime alone: every candidate with its whole history.

    python benches/peers/score.py --model target/models/smollm2-135m-score [--foreturn RESULT.json] [--repeat 30]

The candidates of one conversation are one batch without padding; nothing is kept from one request to the next. It is
what a host gets from the same file without a cache of prefixes. --foreturn takes what `foreturn bench --score --json`
printed for the same model: token counts are taken from it, and the first scores have to agree within --tolerance. An
int8 export needs a wide one: rotary tables that are off by one part in 1e7 move its scores by up to 0.07, those of the
float32 export by 1e-6 (measured on this model), because what is rounded to 8 bits may then be rounded the other way.

Needs onnxruntime and numpy. The model is an export with a score head (`make score-model`).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

COUNTS = {"candidates": 4, "candidate_tokens": 64, "history_tokens": 1000}


def words(vocabulary: int, tokens: int, salt: int) -> list[int]:
    """The texts that foreturn's benches use."""
    first = min(1000, vocabulary // 2)
    count = max(1, min(vocabulary - first, 10_000))
    return [first + (at * 7919 + salt * 104_729) % count for at in range(tokens)]


class Model:
    """An exported decoder with a score head."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.config = json.loads((folder / "genai_config.json").read_text())["model"]
        decoder = self.config["decoder"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self.session = ort.InferenceSession(str(folder / decoder["filename"]), options, providers=providers)
        self.logits = decoder["outputs"]["logits"]
        head = json.loads((folder / "foreturn.json").read_text())["head"]
        if head["kind"] != "sequence_classification":
            raise SystemExit(f"score.py: {folder} gives {head['kind']}, not a score for a text: see `make score-model`")

    def scores(self, texts: np.ndarray) -> list[float]:
        """The first label's score of each text; all have the same length, and none ends in padding."""
        decoder = self.config["decoder"]
        feeds = {"input_ids": texts, "attention_mask": np.ones_like(texts)}
        empty = np.zeros((len(texts), decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        for layer in range(decoder["num_hidden_layers"]):
            for name in ("past_key_names", "past_value_names"):
                feeds[decoder["inputs"][name] % layer] = empty
        (logits,) = self.session.run([self.logits], feeds)
        return [float(score) for score in logits[:, -1, 0]]


def percentile(seconds: list[float], percent: int) -> float:
    """A time that this share of the requests did not exceed (nearest rank), as foreturn has it."""
    return sorted(seconds)[max(math.ceil(len(seconds) * percent / 100) - 1, 0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of an export with a score head")
    parser.add_argument("--foreturn", type=Path, help="what `foreturn bench --score --json` printed, to agree with")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="most that scores may differ from foreturn's")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime, within an operator")
    parser.add_argument("--repeat", type=int, default=30, help="requests to measure")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat is below 1; measure at least one request")

    known = json.loads(arguments.foreturn.read_text()) if arguments.foreturn else {}
    counts = {name: known.get(name, default) for name, default in COUNTS.items()}
    clients = known.get("clients", 1)
    model = Model(arguments.model, arguments.threads)
    vocabulary = model.config["vocab_size"]

    def texts(request: int) -> np.ndarray:
        history = words(vocabulary, counts["history_tokens"], request)
        candidates = (words(vocabulary, counts["candidate_tokens"], salt) for salt in range(counts["candidates"]))
        return np.array([history + candidate for candidate in candidates], np.int64)

    model.scores(texts(0))
    seconds, first = [], []
    for request in range(clients, clients + arguments.repeat):
        batch = texts(request)
        start = time.perf_counter()
        scores = model.scores(batch)
        seconds.append(time.perf_counter() - start)
        first = first or scores

    if known:
        difference = max(abs(one - other) for one, other in zip(first, known["first_scores"], strict=True))
        if not difference <= arguments.tolerance:
            print(f"score.py: {first} and foreturn's {known['first_scores']} differ by {difference}", file=sys.stderr)
            return 1
        counts["difference"] = difference
    times = {f"p{percent}": percentile(seconds, percent) for percent in (50, 95, 99)}
    print(json.dumps({"cold": times, **counts, "repetitions": arguments.repeat, "onnxruntime": ort.__version__}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
