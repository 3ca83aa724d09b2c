"""Writes tests/fixtures/gguf/llama-TYPE.gguf: a tiny random Llama whose rows fill K-quant blocks, quantised by llama.cpp.

    python tests/reference/make_gguf_quantised.py FOLDER      the folder of llama.cpp's libraries, see llama_cpp.py

Next to each, `llama-TYPE.json` holds what transformers computes with the file's weights, widened by gguf-py.
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from llama_cpp import LlamaCpp
from make_gguf_models import write
from transformers import LlamaConfig, LlamaForCausalLM

FIXTURES = Path(__file__).parents[1] / "fixtures/gguf"
# Mixtures of Q4_K and Q6_K, Q5_K and Q6_K, Q3_K and Q4_K and Q5_K; Q5_1 with Q6_K.
TYPES = ["Q4_K_M", "Q5_K_M", "Q3_K_M", "Q5_1"]
CONFIG = LlamaConfig(
    vocab_size=320,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=1,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=0,
    initializer_range=0.1,
)


def widened(path: Path) -> dict[str, torch.Tensor]:
    """A file's weights in transformers' form."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG.num_hidden_layers)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    print(path.name, sorted({tensor.tensor_type.name for tensor in tensors.values()}))
    weights = {}
    for name in LlamaForCausalLM(CONFIG).state_dict():
        if name == "lm_head.weight":
            continue
        tensor = tensors[names.get_name(name, try_suffixes=(".weight",))]
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        heads = {"q_proj": CONFIG.num_attention_heads, "k_proj": CONFIG.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            halves = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
            weight = halves.swapaxes(1, 2).reshape(weight.shape)
        weights[name] = torch.tensor(weight)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def case(model: LlamaForCausalLM, tokens: list[int]) -> dict:
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
        greedy = model.generate(torch.tensor([tokens]), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    return {
        "tokens": tokens,
        "logprobs": [round(logprobs[at, token].item(), 6) for at, token in enumerate(tokens[1:])],
        "greedy": greedy[0, len(tokens) :].tolist(),
    }


def main() -> None:
    llama = LlamaCpp(Path(sys.argv[1]))
    torch.manual_seed(31)
    model = LlamaForCausalLM(CONFIG).eval()
    random = np.random.default_rng(31)
    prompts = [random.integers(5, 320, length).tolist() for length in (6, 40)]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        plain = Path(folder) / "plain.gguf"
        write(Path(folder), plain, "llama")
        for kind in TYPES:
            path = FIXTURES / f"llama-{kind}.gguf"
            llama.quantize(plain, path, kind)
            model.load_state_dict(widened(path))
            cases = {"cases": [case(model, tokens) for tokens in prompts]}
            path.with_suffix(".json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
