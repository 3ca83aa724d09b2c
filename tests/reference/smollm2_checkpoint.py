"""Turns the SmolLM2 GGUF into a float32 Hugging Face checkpoint, for reference runs.

transformers can read a GGUF itself, but for this model its tokenizer conversion adds a beginning-of-sequence token,
takes the wrong end-of-turn token and doesn't split digits. So everything here is made from the file's own metadata:
weights, config, and a tokenizer built from its vocabulary and merges.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2TokenizerFast

CONTROL_TOKEN = 3
"""`tokenizer.ggml.token_type` of tokens that are structure, not text."""

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Metadata:
    """The key-value part of a GGUF file; a missing key is an error that names it."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise KeyError(f"the GGUF has no `{key}`")
        return self._fields[key].contents()


def write_checkpoint(source: Path, folder: Path) -> None:
    """Writes `config.json`, `generation_config.json`, `model.safetensors` and the tokenizer files into `folder`."""
    reader = gguf.GGUFReader(source)
    metadata = Metadata(reader)
    for key, expected in (("general.architecture", "llama"), ("tokenizer.ggml.pre", "smollm")):
        if metadata[key] != expected:
            raise ValueError(f"{source}: `{key}` is {metadata[key]!r}, this script only knows {expected!r}")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = read_tensors(reader, metadata)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write_json(folder / "config.json", model_config(metadata, tied="lm_head.weight" not in tensors))
    write_json(folder / "generation_config.json", token_ids(metadata))
    build_tokenizer(metadata).save_pretrained(folder, save_jinja_files=False)


def read_tensors(reader: gguf.GGUFReader, metadata: Metadata) -> dict[str, np.ndarray]:
    """All weights as float32, under their Hugging Face names and in their Hugging Face row order."""
    heads = {
        "attn_q": metadata["llama.attention.head_count"],
        "attn_k": metadata["llama.attention.head_count_kv"],
    }
    tensors = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if kind in heads:
            weight = undo_rotary_permutation(weight, heads[kind])
        tensors[hugging_face_name(tensor.name)] = np.ascontiguousarray(weight)
    return tensors


def undo_rotary_permutation(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF keeps rows that rotate together side by side (0, 1), (2, 3), …; Hugging Face half a head apart."""
    rows, columns = weight.shape
    pairs = rows // heads // 2
    return weight.reshape(heads, pairs, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def hugging_face_name(name: str) -> str:
    """`blk.3.attn_q.weight` becomes `model.layers.3.self_attn.q_proj.weight`."""
    whole = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in whole:
        return whole[name]
    _, layer, kind, suffix = name.split(".")
    return f"model.layers.{layer}.{LAYER_TENSORS[kind]}.{suffix}"


def model_config(metadata: Metadata, tied: bool) -> dict[str, Any]:
    """`config.json` of a LlamaForCausalLM."""
    # The GGUF stores this as float32; the shortest decimal with the same float32 value is the 1e-05 that was meant.
    epsilon = float(str(np.float32(metadata["llama.attention.layer_norm_rms_epsilon"])))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "head_dim": metadata["llama.rope.dimension_count"],
        "max_position_embeddings": metadata["llama.context_length"],
        "rope_theta": float(metadata["llama.rope.freq_base"]),
        "rms_norm_eps": epsilon,
        "vocab_size": metadata["llama.vocab_size"],
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        **token_ids(metadata),
    }


def token_ids(metadata: Metadata) -> dict[str, int]:
    """The special tokens that both config files name."""
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {f"{ours}_token_id": metadata[f"tokenizer.ggml.{theirs}_token_id"] for ours, theirs in names.items()}


def build_tokenizer(metadata: Metadata) -> GPT2TokenizerFast:
    """Byte-level BPE that takes every digit as its own word, as `tokenizer.ggml.pre = smollm` means."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return GPT2TokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[metadata["tokenizer.ggml.padding_token_id"]],
        chat_template=metadata["tokenizer.chat_template"],
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
