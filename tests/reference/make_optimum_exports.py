#!/usr/bin/env python3
"""Exports the checkpoints of tests/fixtures/models as Optimum and Transformers.js do; records what the files compute.

    python tests/reference/make_optimum_exports.py [--only NAME…]

Makes tests/fixtures/models/<name>/exports/optimum* and transformersjs-*. Run it after make_model_fixtures.py and
make_genai_exports.py, in an environment of requirements-fixtures.txt. Tokenizers are left out, because they are shared.
"""

import argparse
import json
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

from pathlib import Path

import onnx
from onnx import TensorProto, helper
from optimum.exporters.onnx import main_export
from optimum.exporters.onnx.model_configs import LlamaOnnxConfig
from optimum.onnx import merge_decoders
from transformers import AutoConfig

from tiny import exports
from tiny.common import ROOT

WITH_PAST = "text-generation-with-past"
CLASSIFIERS = {
    "bert-labels": "text-classification",
    "bert-token-labels": "token-classification",
    "deberta-v3-reward": "text-classification",
    "llama-reward": "text-classification",
}


class WithoutPositions(LlamaOnnxConfig):
    """The form that Optimum exported before it asked for positions: the graph counts them itself."""

    @property
    def inputs(self):
        return {name: axes for name, axes in super().inputs.items() if name != "position_ids"}


def export(name, task, target, **options):
    """Optimum's export of the checkpoint `name`: the path of its model.onnx."""
    with tempfile.TemporaryDirectory() as source:
        shutil.copytree(ROOT / name / "checkpoint", source, dirs_exist_ok=True)
        tokenizer = json.loads((ROOT / name / "reference.json").read_text(encoding="utf-8"))["tokenizer"]
        shutil.copytree(ROOT / "tokenizers" / tokenizer, source, dirs_exist_ok=True)
        main_export(source, target, task=task, library_name="transformers", do_validation=False, **options)
    return Path(target) / "model.onnx"


def plain(name, work):
    return {"model.onnx": export(name, WITH_PAST, work)}


def without_positions(name, work):
    return {"model.onnx": configured(name, work, WithoutPositions, past=True)}


def configured(name, work, kind, past):
    """Like `plain`, with the exporter's configuration `kind`, with or without inputs for a past."""
    config = AutoConfig.from_pretrained(ROOT / name / "checkpoint")
    onnx_config = kind(config, task="text-generation", use_past=True, use_past_in_inputs=past)
    return export(name, WITH_PAST, work, custom_onnx_configs={"model": onnx_config})


def merged(name, work):
    """Both branches in one file, as Optimum did by default up to 1.13 and Transformers.js does."""
    first, then = configured(name, work / "first", LlamaOnnxConfig, past=False), export(name, WITH_PAST, work / "then")
    merge_decoders(first, then, save_path=work / "decoder_model_merged.onnx")
    return {"decoder_model_merged.onnx": work / "decoder_model_merged.onnx"}


def transformersjs_grouped(name, work):
    """genai's graph under other names, with an input for the number of rows of logits."""
    model = onnx.load(ROOT / name / "exports" / "genai-float32" / "model.onnx")
    graph = model.graph
    head = next(node for node in graph.node if "logits" in node.output)
    graph.input.append(helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []))
    for constant, value in [("zero", [0]), ("one", [1]), ("largest", [2**63 - 1])]:
        graph.initializer.append(helper.make_tensor(f"keep_{constant}", TensorProto.INT64, [1], value))
    keep = [
        helper.make_node("Unsqueeze", ["num_logits_to_keep", "keep_zero"], ["keep_count"]),
        helper.make_node("Neg", ["keep_count"], ["keep_start"]),
        helper.make_node("Slice", [head.input[0], "keep_start", "keep_largest", "keep_one"], ["kept_states"]),
    ]
    head.input[0] = "kept_states"
    at = list(graph.node).index(head)
    for offset, node in enumerate(keep):
        graph.node.insert(at + offset, node)
    onnx.save(model, work / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=64)
    return {f"onnx/{file}": work / file for file in ("model.onnx", "model.onnx_data")}


LANGUAGE_MODELS = {
    "llama": [merged, without_positions, transformersjs_grouped],
    "qwen2": [plain],
    "mistral": [plain],
    "gemma2": [plain],
}
NAMES = {
    plain: "optimum",
    without_positions: "optimum-no-positions",
    merged: "optimum-merged",
    transformersjs_grouped: "transformersjs-grouped",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="checkpoints to export; all unless given")
    wanted = parser.parse_args().only
    for name, makers in LANGUAGE_MODELS.items():
        for maker in makers if not wanted or name in wanted else []:
            target, graph = install(name, NAMES[maker], maker)
            config = json.loads((ROOT / name / "checkpoint" / "config.json").read_text(encoding="utf-8"))
            exports.write(target, exports.Graph(graph, config), exports.prompts(name))
    for name, task in CLASSIFIERS.items():
        if not wanted or name in wanted:
            install(name, "optimum", lambda name, work: {"model.onnx": export(name, task, work)})
            print(f"{name}/exports/optimum")


def install(name, variant, make):
    """Puts the result of `make` and the checkpoint's configuration into the export's folder. Returns it and the graph."""
    target = ROOT / name / "exports" / variant
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        files = make(name, Path(work))
        for file, path in files.items():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / file)
    shutil.copyfile(ROOT / name / "checkpoint" / "config.json", target / "config.json")
    return target, target / next(iter(files))


if __name__ == "__main__":
    main()
