"""Writes tests/fixtures/models/NAME/model.gguf: the tiny checkpoints as llama.cpp's converter would write them.

    pip install -r tests/reference/requirements-fixtures.txt
    python tests/reference/make_gguf_models.py

Names of tensors and keys are gguf-py's. Settings that GGUF has no field for are folded into the weights, so that the
file still computes what `reference.json` says. The fixtures' Gemmas, for example, scale their scores by an unusual
number.
"""

import json
import math
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

MODELS = Path(__file__).parents[1] / "fixtures/models"
ARCHITECTURES = {
    "llama": ["llama", "llama-biases", "llama-rope-linear", "llama-rope-llama3", "mistral-no-window"],
    "qwen2": ["qwen2"],
    "qwen3": ["qwen3"],
    "gemma2": ["gemma2"],
    "gemma3": ["gemma3", "gemma3-rope-linear"],
    "phi3": ["phi3", "phi3-longrope", "phi3-partial"],
}


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head in the order that llama.cpp's rotary embedding of Llama wants."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def head_size(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def converted(name: str, weight: np.ndarray, architecture: str, config: dict) -> np.ndarray:
    if architecture == "llama" and "q_proj" in name:
        return interleave(weight, config["num_attention_heads"])
    if architecture == "llama" and "k_proj" in name:
        return interleave(weight, config["num_key_value_heads"])
    if architecture.startswith("gemma"):
        # llama.cpp scales by the size of a head.
        fold = np.float32(math.sqrt(head_size(config) / config["query_pre_attn_scalar"]))
        if name.endswith("norm.weight"):
            weight = weight + np.float32(1)
        if name.endswith("q_norm.weight") or (architecture == "gemma2" and name.endswith("q_proj.weight")):
            weight = weight * fold
    return weight


def llama3_factors(config: dict) -> np.ndarray:
    scaling, size = config["rope_scaling"], head_size(config)
    original = scaling["original_max_position_embeddings"]
    low, high, factor = (scaling[key] for key in ["low_freq_factor", "high_freq_factor", "factor"])
    factors = []
    for pair in range(size // 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (2 * pair / size)
        smooth = min(max((original / wavelength - low) / (high - low), 0), 1)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def add_parameters(writer: gguf.GGUFWriter, architecture: str, config: dict) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if architecture != "gemma2":
        writer.add_rope_freq_base(config["rope_theta"])
    if architecture not in ("phi3", "qwen2"):
        writer.add_key_length(head_size(config))
        writer.add_value_length(head_size(config))
    if architecture == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_size(config))
    for key, add in [
        ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
        ("final_logit_softcapping", writer.add_final_logit_softcapping),
        ("sliding_window", writer.add_sliding_window),
    ]:
        if config.get(key):
            add(config[key])
    if architecture == "gemma3":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    add_scaling(writer, architecture, config)


def add_scaling(writer: gguf.GGUFWriter, architecture: str, config: dict) -> None:
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    if architecture == "phi3":
        writer.add_rope_dimension_count(int(head_size(config) * config.get("partial_rotary_factor", 1.0)))
        original = config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        if kind == "longrope":
            stretch = config["max_position_embeddings"] / original
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(stretch) / math.log(original)))
            for length in ["long", "short"]:
                factors = np.array(scaling[f"{length}_factor"], np.float32)
                writer.add_tensor(f"rope_factors_{length}.weight", factors)


def add_tokenizer(writer: gguf.GGUFWriter, config: dict) -> None:
    file = json.loads((MODELS / "tokenizers/bytes/tokenizer.json").read_text())
    special = {token["id"] for token in file["added_tokens"]}
    tokens = {id: token for token, id in file["model"]["vocab"].items()}
    tokens |= {token["id"]: token["content"] for token in file["added_tokens"]}
    count = config["vocab_size"]
    assert sorted(tokens) == list(range(count))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[id] for id in range(count)])
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds[id in special] for id in range(count)])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in file["model"]["merges"]])
    eos = config["eos_token_id"]
    writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
    writer.add_pad_token_id(config["pad_token_id"])


def write(checkpoint: Path, target: Path, architecture: str) -> None:
    """Writes a checkpoint's GGUF, with the tokenizer that the fixtures share."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(target, architecture)
    add_parameters(writer, architecture, config)
    add_tokenizer(writer, config)
    kind = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for theirs, weight in sorted(load_file(checkpoint / "model.safetensors").items()):
        stem, suffix = theirs.rsplit(".", 1)
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", converted(theirs, weight, architecture, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    for architecture, models in ARCHITECTURES.items():
        for model in models:
            write(MODELS / model / "checkpoint", MODELS / model / "model.gguf", architecture)
