#!/usr/bin/env python3
"""Checks `foreturn export` against transformers, gguf and onnxruntime-genai.

    tests/reference/check_export.py [--foreturn COMMAND] [--gguf FILE]

Makes tiny random checkpoints of every architecture and kind (tied and untied, sharded, float16 and bfloat16, biases,
explicit head size, windows, each rotary scaling), exports each, and compares the logits that ONNX Runtime computes on
the export with those of transformers, over a prompt and then token by token over the cache. With --gguf it also exports that
file (SmolLM2-135M-Instruct), holds its weights to gguf's own dequantisation, and lets onnxruntime-genai answer a question.

Needs: torch, transformers, tokenizers, onnx, onnxruntime; with --gguf also gguf and onnxruntime-genai.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnxruntime as ort
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

TOLERANCE = 1e-4

BASE = dict(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
    initializer_range=0.2,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
GEMMA = dict(head_dim=32, query_pre_attn_scalar=24, sliding_window=40, pad_token_id=0)
WINDOW = dict(use_sliding_window=True, sliding_window=40)
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
SCALED = dict(final_logit_softcapping=5.0, rope_scaling=dict(rope_type="linear", factor=8.0))
LONG = dict(
    original_max_position_embeddings=128,
    rope_scaling=dict(
        type="longrope",
        short_factor=[1.0 + 0.1 * pair for pair in range(8)],
        long_factor=[1.5 + 0.7 * pair for pair in range(8)],
    ),
)
PARTIAL = dict(partial_rotary_factor=0.5, num_attention_heads=2)
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# Name, model type, changes to the configuration, type of the saved weights, shard size.
CASES = [
    ("tied", "llama", dict(tie_word_embeddings=True), F32, "1GB"),
    ("untied", "llama", dict(tie_word_embeddings=False), F32, "1GB"),
    ("sharded", "llama", dict(tie_word_embeddings=False), F32, "100KB"),
    ("bfloat16", "llama", dict(tie_word_embeddings=False), BF16, "100KB"),
    ("float16", "llama", dict(tie_word_embeddings=True), F16, "1GB"),
    ("biases", "llama", dict(attention_bias=True, mlp_bias=True), F32, "1GB"),
    ("head-size", "llama", dict(head_dim=32, num_key_value_heads=4), F32, "1GB"),
    ("llama3", "llama", dict(rope_scaling=LLAMA3, rope_theta=500000.0), F32, "1GB"),
    ("linear", "llama", dict(rope_scaling=dict(rope_type="linear", factor=4.0)), F32, "1GB"),
    ("smollm3", "smollm3", dict(num_hidden_layers=5), F32, "1GB"),
    ("smollm3-list", "smollm3", dict(no_rope_layers=[0, 1, 1], **WINDOW), F32, "1GB"),
    ("mistral", "mistral", dict(sliding_window=40), F32, "1GB"),
    ("mistral-null", "mistral", dict(sliding_window=None, head_dim=32), F32, "1GB"),
    ("qwen2", "qwen2", dict(tie_word_embeddings=True), F32, "1GB"),
    ("qwen2-window", "qwen2", dict(**WINDOW, max_window_layers=1), F32, "1GB"),
    ("qwen3", "qwen3", dict(head_dim=32), F32, "1GB"),
    ("qwen3-window", "qwen3", dict(head_dim=16, layer_types=ALTERNATING, **WINDOW, attention_bias=True), BF16, "1GB"),
    ("gemma2", "gemma2", GEMMA, F32, "1GB"),
    ("gemma2-caps", "gemma2", dict(GEMMA, final_logit_softcapping=None, attn_logit_softcapping=2.0), F32, "1GB"),
    ("gemma3", "gemma3_text", dict(GEMMA, num_hidden_layers=7), F32, "1GB"),
    ("gemma3-scaled", "gemma3_text", dict(GEMMA, sliding_window_pattern=2, **SCALED), F16, "1GB"),
    ("phi3", "phi3", dict(sliding_window=40), F32, "1GB"),
    ("phi3-long", "phi3", dict(LONG), F32, "1GB"),
    ("phi3-partial", "phi3", dict(LONG, **PARTIAL, tie_word_embeddings=True), F32, "1GB"),
]


def save_tokenizer(folder):
    """A byte-level tokenizer without merges, whose first three tokens are special."""
    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def save_checkpoint(folder, kind, changes, dtype, shard_size):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**BASE, **changes})).to(dtype)
    with torch.no_grad():
        # Fresh biases are zero and fresh norms one, as if they did not exist.
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits_of_export(folder, ids, config, step):
    """Logits of `ids` (one row each), fed `step` tokens at a time over the cache."""
    session = ort.InferenceSession(os.path.join(folder, "model.onnx"), providers=["CPUExecutionProvider"])
    batch, length = ids.shape
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (batch, config.num_key_value_heads, 0, head_size)
    names = [f"{layer}.{kind}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]
    past = {f"past_key_values.{name}": np.zeros(shape, np.float32) for name in names}
    parts = []
    for start in range(0, length, step):
        feed = {"input_ids": ids[:, start : start + step]}
        feed["attention_mask"] = np.ones((batch, start + feed["input_ids"].shape[1]), np.int64)
        outputs = session.run(["logits"] + [f"present.{name}" for name in names], {**feed, **past})
        parts.append(outputs[0])
        past = {f"past_key_values.{name}": value for name, value in zip(names, outputs[1:])}
    return np.concatenate(parts, axis=1)


def check_case(command, name, kind, changes, dtype, shard_size):
    with tempfile.TemporaryDirectory() as root:
        source, target = os.path.join(root, "hf"), os.path.join(root, "onnx")
        model = save_checkpoint(source, kind, changes, dtype, shard_size)
        run_export(command, source, target)
        ids = np.random.default_rng(0).integers(3, BASE["vocab_size"], (2, 200))
        # LongRoPE starts over when a sequence outgrows its short tables. The graph can't do that.
        runs = [(200, 200), (100, 1)] if "rope_scaling" in changes and kind == "phi3" else [(200, 200), (200, 1)]
        worst = 0.0
        for length, step in runs:
            part = ids[:, :length]
            with torch.no_grad():
                expected = model(torch.tensor(part)).logits.log_softmax(-1).numpy()
            logits = torch.tensor(logits_of_export(target, part, model.config, step))
            worst = max(worst, float(np.abs(logits.log_softmax(-1).numpy() - expected).max()))
        shared = os.path.join(target, "model.safetensors")
        links = os.stat(shared).st_nlink if os.path.exists(shared) else "-"
        print(f"{name:14} largest difference in log-probability {worst:.1e}, links to model.safetensors: {links}")
        assert worst < TOLERANCE, (name, worst)
        assert AutoTokenizer.from_pretrained(target)("a").input_ids == AutoTokenizer.from_pretrained(source)("a").input_ids


def run_export(command, source, target):
    subprocess.run([*command, "--from", source, "--to", target], check=True, stdout=subprocess.DEVNULL)


MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def check_gguf_weights(path, folder):
    """Checks that every weight equals gguf's dequantisation, with the query and key rows put back into order."""
    import gguf
    from safetensors.numpy import load_file

    weights = load_file(os.path.join(folder, "model.safetensors"))
    reader = gguf.GGUFReader(path)
    heads = {
        "attn_q": reader.fields["llama.attention.head_count"].contents(),
        "attn_k": reader.fields["llama.attention.head_count_kv"].contents(),
    }
    for tensor in reader.tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
        name = NAMES.get(tensor.name)
        if name is None:
            _, layer, module, kind = tensor.name.split(".")
            name = f"model.layers.{layer}.{MODULES[module]}.{kind}"
            if module in heads:
                rows, columns = value.shape
                split = value.reshape(heads[module], rows // heads[module] // 2, 2, columns)
                value = split.swapaxes(1, 2).reshape(rows, columns)
        assert np.array_equal(weights.pop(name), value), name
    assert not weights, list(weights)
    print(f"{len(reader.tensors)} tensors equal gguf's dequantisation, to the last bit")


def check_answer(folder):
    """Checks that onnxruntime-genai loads the export, tokenizes like transformers, and gives the known answer."""
    import onnxruntime_genai as og

    messages = '[{"role": "user", "content": "What is the capital of France?"}]'
    reference = AutoTokenizer.from_pretrained(folder)
    prompt = reference.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    assert len(prompt) == 37 and prompt[:4] == [1, 9690, 198, 2683], prompt
    digits = [216, 34, 32, 34, 36]  # a space, then each digit alone; no BOS before
    assert reference(" 2024").input_ids == digits, reference(" 2024").input_ids
    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    assert list(tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))) == prompt
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=100, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    tokens = []
    while not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    assert tokens == [504, 3575, 282, 4649, 314, 7042, 30, 2], tokens
    print(f"onnxruntime-genai answers {tokenizer.decode(tokens)!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foreturn", default="target/release/foreturn export", help="the command that exports")
    parser.add_argument("--cases", default="", help="only the cases whose names begin so")
    parser.add_argument("--gguf", help="SmolLM2-135M-Instruct in GGUF")
    arguments = parser.parse_args()
    command = shlex.split(arguments.foreturn)
    for case in CASES:
        if case[0].startswith(arguments.cases):
            check_case(command, *case)
    if arguments.gguf:
        with tempfile.TemporaryDirectory() as root:
            folder = os.path.join(root, "model")
            run_export(command, arguments.gguf, folder)
            check_gguf_weights(arguments.gguf, folder)
            check_answer(folder)


if __name__ == "__main__":
    sys.exit(main())
