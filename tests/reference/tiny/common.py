"""Random weights, saving, and the form of reference.json."""

import json
import math
import pathlib
import shutil
import zlib

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "models"
TOLERANCE = 1e-4


def randomise(model):
    """Weights that make a wrong norm, bias, window or cap show: transformers leaves norms at 1 and biases at 0.

    Matrices are as drawn with the model's `initializer_range`, except Gemma's embedding. Gemma multiplies it by the
    root of the hidden size, so that in a random model nothing else would be heard: every token would follow itself.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.add_(0.3 * torch.randn_like(value))
            if "gemma" in model.config.model_type and "embed_tokens" in name:
                value.mul_(0.3)
            if "gemma" in model.config.model_type and name == "model.norm.weight":
                value.add_(2.0)


def seed(name):
    """A seed that is the same for a name in every run, and different for every name."""
    torch.manual_seed(zlib.crc32(name.encode()))


def rng(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def save_checkpoint(model, name, dtype=torch.float32, shard_size="1GB"):
    """Writes `model` as a checkpoint folder with only configuration and weights in it."""
    folder = ROOT / name / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def write_reference(folder, reference):
    """Writes reference.json with one key or case per line, so that differences are readable."""
    lines = []
    for key, value in reference.items():
        if key == "cases":
            cases = ",\n".join("  " + dump(case) for case in value)
            lines.append(f'"cases": [\n{cases}\n]')
        else:
            lines.append(f"{json.dumps(key)}: {dump(value)}")
    (folder / "reference.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def dump(value):
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def rounded(values):
    """Six decimals: a hundredth of the tolerance."""
    values = [float(value) for value in np.asarray(values).reshape(-1)]
    assert all(math.isfinite(value) for value in values)
    return [round(value, 6) for value in values]
