#!/usr/bin/env python3
"""Puts a score head with made-up weights onto the demo's model, so that there is a reward model to measure.

    python3 benches/score_head.py --gguf MODEL.gguf --model EXPORTED --to CHECKPOINT
    foreturn export --from CHECKPOINT --to SCORE_MODEL

EXPORTED is the float32 export of MODEL.gguf: its weights are taken, and from the GGUF what an export doesn't keep. The
checkpoint is a LlamaForSequenceClassification of one label. Its scores mean nothing, but they take the time that those
of a trained head would. The weights of the head are the same on every machine. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

WEIGHTS = "model.safetensors"
HEAD = "score.weight"
COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""GGUF's types of values that struct reads."""
FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
"""Fields of config.json, and the GGUF's keys for them after `llama.`."""


class HeadError(Exception):
    """What is wrong with which file, and what to do about it."""


def take(file: BinaryIO, form: str) -> Any:
    """Reads one number."""
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def value(file: BinaryIO, kind: int) -> Any:
    """Reads a value of GGUF's metadata; lists are read, but not kept."""
    if kind == 8:
        return file.read(take(file, "<Q")).decode()
    if kind == 9:
        element, count = take(file, "<I"), take(file, "<Q")
        for _ in range(count):
            value(file, element)
        return None
    return take(file, NUMBERS[kind])


def metadata(path: Path) -> dict[str, Any]:
    """A GGUF's metadata without its lists."""
    with path.open("rb") as file:
        magic, version = file.read(4), take(file, "<I")
        if magic != b"GGUF" or version not in (2, 3):
            raise HeadError(f"{path} is no GGUF of version 2 or 3: give the file that the model was exported from")
        _tensors, count = take(file, "<Q"), take(file, "<Q")
        found = {}
        for _ in range(count):
            key = value(file, 8)
            found[key] = value(file, take(file, "<I"))
        return found


def config(gguf: Path, model: Path) -> dict[str, Any]:
    """The checkpoint's config.json."""
    known = metadata(gguf)
    if known.get("general.architecture") != "llama" or known.get("llama.rope.scaling.type", "none") != "none":
        raise HeadError(f"{gguf} is no plain Llama: this script knows only those; use the demo's model")
    missing = [key for key in FIELDS.values() if f"llama.{key}" not in known]
    if missing:
        raise HeadError(f"{gguf} lacks {', '.join(missing)}: use the demo's model")
    exported = json.loads((model / "genai_config.json").read_text())["model"]
    return {
        "architectures": ["LlamaForSequenceClassification"],
        "model_type": "llama",
        **{field: known[f"llama.{key}"] for field, key in FIELDS.items()},
        "hidden_act": "silu",
        "head_dim": exported["decoder"]["head_size"],
        "vocab_size": exported["vocab_size"],
        "bos_token_id": exported["bos_token_id"],
        "eos_token_id": exported["eos_token_id"],
        "pad_token_id": exported["pad_token_id"],
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def add_head(source: Path, target: Path, hidden: int, seed: int) -> None:
    """Copies a safetensors file, with the weights of a head behind its own."""
    with source.open("rb") as weights, target.open("wb") as out:
        header = json.loads(weights.read(take(weights, "<Q")))
        kinds = {info["dtype"] for name, info in header.items() if name != "__metadata__"}
        if HEAD in header or kinds != {"F32"}:
            raise HeadError(f"{source} has a head already, or is not float32: give --model the demo's float32 export")
        end = max(info["data_offsets"][1] for name, info in header.items() if name != "__metadata__")
        header[HEAD] = {"dtype": "F32", "shape": [1, hidden], "data_offsets": [end, end + 4 * hidden]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(weights, out, 1 << 20)
        numbers = random.Random(seed)
        out.write(struct.pack(f"<{hidden}f", *(numbers.uniform(-0.05, 0.05) for _ in range(hidden))))


def make(gguf: Path, model: Path, to: Path, seed: int) -> None:
    """Makes the checkpoint; it gets its name when it is whole."""
    if to.exists():
        raise HeadError(f"{to} exists already: remove it or give --to another name")
    for path in (gguf, model / WEIGHTS, model / "genai_config.json"):
        if not path.exists():
            raise HeadError(f"{path} is missing: `make model` makes what this script reads")
    settings = config(gguf, model)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for name in COPIED:
        if (model / name).exists():
            shutil.copyfile(model / name, partial / name)
    add_head(model / WEIGHTS, partial / WEIGHTS, settings["hidden_size"], seed)
    partial.rename(to)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True, help="the GGUF that the model was exported from")
    parser.add_argument("--model", type=Path, required=True, help="its float32 export")
    parser.add_argument("--to", type=Path, required=True, help="the checkpoint to make")
    parser.add_argument("--seed", type=int, default=0, help="names the head's weights")
    arguments = parser.parse_args()
    try:
        make(arguments.gguf, arguments.model, arguments.to, arguments.seed)
    except (HeadError, OSError) as error:
        print(f"score_head.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
