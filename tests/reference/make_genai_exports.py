#!/usr/bin/env python3
"""Exports the checkpoints of tests/fixtures/models with onnxruntime-genai's builder; records what the files compute.

    python tests/reference/make_genai_exports.py [--only NAME…]

Makes tests/fixtures/models/<name>/exports/genai-<variant>. Run it after make_model_fixtures.py, in an environment of
requirements-genai-builder.txt. Gemma 3 alone needs an older builder (requirements-fixtures.txt has one): the script
makes those exports whose builder it finds. Tokenizers are left out, because they are shared.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

from tiny import decoders, exports
from tiny.common import ROOT, rng
from tiny.tokenizers import VOCABULARY

OLD, NEW = "0.11", "0.18"
BUILDERS = {"gemma3": OLD}
FLOAT16 = ("-p", "fp16", "-e", "cuda")
VARIANTS = {
    "float32": ("-p", "fp32", "-e", "cpu"),
    "int4": ("-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4"),
    "int8": ("-p", "int8", "-e", "cpu", "--extra_options", "int4_accuracy_level=4"),
    "float16": FLOAT16,
    "paged": (*FLOAT16, "--extra_options", "use_paged_attention=true", "paged_block_size=256"),
}
EXPORTS = {
    "llama": ["float32"],
    "llama-float16": ["float16", "paged"],
    "mistral": ["float32"],
    "qwen2": ["float32"],
    "qwen3": ["float32"],
    "gemma2": ["float32"],
    "gemma3": ["float32"],
    "phi3": ["float32"],
    "phi3-longrope": ["float32"],
    "llama-deep": ["int4", "int8"],
    "qwen2-deep": ["int4"],
}
# Rounding of activations now and then falls the other way. In the two layers of the other models hardly ever, and the
# noise would be that of a coin; in these at most positions. Their checkpoints are made for the export alone.
DEEP = dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=8)
DEEP_MODELS = {
    "llama-deep": decoders.Model("llama", DEEP),
    "qwen2-deep": decoders.Model("qwen2", dict(tie_word_embeddings=True, **DEEP)),
}
DEEP_PROMPTS = 4
DEEP_LENGTH = 120


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="checkpoints to export; all unless given")
    arguments = parser.parse_args()
    version = importlib.metadata.version("onnxruntime-genai")
    for name, variants in EXPORTS.items():
        if arguments.only and name not in arguments.only:
            continue
        if not version.startswith(BUILDERS.get(name, NEW)):
            print(f"{name}: left to the builder of onnxruntime-genai {BUILDERS.get(name, NEW)}")
            continue
        for variant in variants:
            export(name, variant)


def export(name, variant):
    target = ROOT / name / "exports" / f"genai-{variant}"
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        built = build(name, variant, Path(work))
        target.mkdir(parents=True)
        for path in [*built.glob("*.onnx*"), built / "genai_config.json"]:
            shutil.copyfile(path, target / path.name)
        record(name, variant, target, Path(work))


def build(name, variant, work):
    """Runs the builder on the checkpoint and its tokenizer. Returns the folder that it wrote."""
    source, built = work / "source", work / variant
    if name in DEEP_MODELS:
        decoders.random(name, DEEP_MODELS[name]).save_pretrained(source)
    else:
        shutil.copytree(ROOT / name / "checkpoint", source, dirs_exist_ok=True)
    shutil.copytree(ROOT / "tokenizers" / "bytes", source, dirs_exist_ok=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", source, "-i", source, "-o", built]
    log = subprocess.run([*command, "-c", work / "cache", *VARIANTS[variant]], capture_output=True, text=True)
    if log.returncode:
        raise SystemExit(f"{name} {variant}: the builder failed\n{log.stdout[-2000:]}{log.stderr[-4000:]}")
    return built


def record(name, variant, target, work):
    """Records results. Float16 is computed in float32 with the file's weights, and a paged graph as its unpaged twin."""
    path = target / "model.onnx"
    if variant in ("float16", "paged"):
        twin = build(name, "float16", work) / "model.onnx" if variant == "paged" else path
        path = work / "widened.onnx"
        exports.widened(twin, path)
    config = json.loads((work / "source" / "config.json").read_text(encoding="utf-8"))
    graph = exports.Graph(path, config)
    if name in DEEP_MODELS:
        exports.write(target, graph, deep_prompts(name), quantised=True)
    else:
        switch = config.get("original_max_position_embeddings") if config.get("rope_scaling") else None
        exports.write(target, graph, exports.prompts(name), switch=switch)


def deep_prompts(name):
    random = rng(name)
    return {f"prompt {i}": random.integers(5, VOCABULARY, DEEP_LENGTH).tolist() for i in range(DEEP_PROMPTS)}


if __name__ == "__main__":
    main()
