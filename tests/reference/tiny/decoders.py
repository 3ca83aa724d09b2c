"""Language models: one checkpoint for everything that an architecture computes differently."""

from dataclasses import dataclass, field

import torch
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from . import tokenizers
from .common import TOLERANCE, randomise, rng, rounded, save_checkpoint, seed, write_reference

NEW_TOKENS = 24
# Greedy decoding is only a test if the best two tokens differ by more than two programs may differ.
MARGIN = 2e-3

BASE = dict(
    vocab_size=tokenizers.VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=256,
    initializer_range=0.3,
    bos_token_id=tokenizers.PAD,
    eos_token_id=tokenizers.END,
    pad_token_id=tokenizers.PAD,
    tie_word_embeddings=False,
)
WIDE_HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
SHORT, LONGER, LONG = 6, 23, 70
LONG_ROPE = dict(max_position_embeddings=256, original_max_position_embeddings=64, sliding_window=None)


def long_rope(pairs):
    """Factors for `pairs` pairs of coordinates; both lists differ clearly from each other and from 1."""
    short = [round(1.0 + 0.15 * index, 2) for index in range(pairs)]
    long = [round(1.5 + 0.7 * index, 2) for index in range(pairs)]
    return dict(rope_scaling=dict(type="longrope", short_factor=short, long_factor=long), **LONG_ROPE)


@dataclass
class Model:
    """A checkpoint to make: the model type, what differs from BASE, and how it is saved."""

    kind: str
    changes: dict = field(default_factory=dict)
    lengths: tuple = (SHORT, LONGER, LONG)
    dtype: torch.dtype = torch.float32
    shard_size: str = "1GB"


GEMMA = dict(num_hidden_layers=3, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, **WIDE_HEADS)
GEMMA2 = dict(
    sliding_window=16, query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=8.0, **GEMMA
)
GEMMA3 = dict(
    sliding_window=16,
    query_pre_attn_scalar=24,
    rope_theta=1e6,
    rope_local_base_freq=1e4,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    **GEMMA,
)
MODELS = {
    "llama": Model("llama", dict(num_key_value_heads=2)),
    "llama-rope-llama3": Model(
        "llama",
        dict(rope_scaling=LLAMA3, rope_theta=5e5, tie_word_embeddings=True, eos_token_id=[tokenizers.END, 5]),
    ),
    "llama-rope-linear": Model("llama", dict(rope_scaling=dict(rope_type="linear", factor=4.0))),
    "llama-biases": Model("llama", dict(attention_bias=True, mlp_bias=True, **WIDE_HEADS)),
    "llama-float16": Model("llama", dtype=torch.float16),
    "llama-bfloat16-sharded": Model("llama", dtype=torch.bfloat16, shard_size="40KB"),
    "smollm2": Model("llama", dict(tie_word_embeddings=True, rope_theta=1e5)),
    "smollm3": Model(
        "smollm3", dict(num_hidden_layers=3, tie_word_embeddings=True, no_rope_layers=[1, 0, 1], rope_theta=2e6)
    ),
    "mistral": Model("mistral", dict(sliding_window=16, head_dim=16)),
    "mistral-no-window": Model("mistral", dict(sliding_window=None, **WIDE_HEADS)),
    "qwen2": Model("qwen2", dict(tie_word_embeddings=True, rope_theta=1e6)),
    "qwen2.5": Model("qwen2", dict(rope_theta=1e6, rms_norm_eps=1e-6), dtype=torch.bfloat16),
    "qwen2-window": Model(
        "qwen2", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=16, max_window_layers=1)
    ),
    "qwen3": Model("qwen3", dict(tie_word_embeddings=True, rope_theta=1e6, **WIDE_HEADS)),
    "gemma2": Model("gemma2", GEMMA2),
    "gemma3": Model("gemma3_text", GEMMA3),
    "gemma3-rope-linear": Model("gemma3_text", {**GEMMA3, "rope_scaling": dict(rope_type="linear", factor=8.0)}),
    "phi3": Model("phi3", dict(sliding_window=16, original_max_position_embeddings=256)),
    # Prompts on both sides of 64 tokens, and one that crosses it while it is continued.
    "phi3-longrope": Model("phi3", long_rope(8), (SHORT, 30, 55, 64, 65, 100)),
    # As in Phi-4-mini, only part of each head is rotated. ONNX Runtime rotates multiples of 16.
    "phi3-partial": Model(
        "phi3",
        dict(hidden_size=64, partial_rotary_factor=0.5, tie_word_embeddings=True, **long_rope(8)),
        (SHORT, 55, 100),
    ),
}


def configuration(model):
    return CONFIG_MAPPING[model.kind](**{**BASE, **model.changes})


def random(name, model):
    seed(name)
    made = AutoModelForCausalLM.from_config(configuration(model), attn_implementation="eager")
    randomise(made)
    return made


def make(only):
    for name, model in MODELS.items():
        if only and name not in only:
            continue
        folder = save_checkpoint(random(name, model), name, model.dtype, model.shard_size)
        (folder / "generation_config.json").unlink(missing_ok=True)
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        cases = [case(loaded, name, length) for length in model.lengths]
        reference = dict(kind="decoder", architecture=loaded.config.architectures[0], tokenizer="bytes")
        write_reference(folder.parent, dict(**reference, tolerance=TOLERANCE, cases=cases))
        print(f"{name:24} margin of greedy tokens {min(c['margin'] for c in cases):.3f}")


def case(model, name, length):
    """A random prompt of `length` tokens, with its log-probabilities and its greedy continuation."""
    for attempt in range(100):
        prompt = rng(f"{name} {length} {attempt}").integers(5, tokenizers.VOCABULARY, length).tolist()
        tokens, margin = greedy(model, prompt)
        if margin > MARGIN and len(set(tokens)) > 4:
            return dict(
                name=f"{length} tokens",
                tokens=prompt,
                logprobs=rounded(logprobs(model, prompt)),
                greedy=tokens,
                margin=round(margin, 6),
            )
    raise SystemExit(f"{name}: no prompt of {length} tokens has clear and varied greedy tokens; try another seed")


@torch.no_grad()
def logprobs(model, tokens):
    """Log-probabilities of tokens[1:], each given those before it."""
    rows = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    return rows.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


@torch.no_grad()
def greedy(model, prompt):
    """The tokens that `generate` appends, past ends of sequence too, and the smallest margin between the best two.

    Where LongRoPE changes its factors within a sequence, transformers 4.57 recomputes the cache with a mask of one
    row, so every token sees all others; without a cache it does what the model means.
    """
    model.generation_config.eos_token_id = None
    result = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=(getattr(model.config, "rope_scaling", None) or {}).get("type") != "longrope",
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack([row[0] for row in result.logits]).topk(2).values
    return result.sequences[0, len(prompt) :].tolist(), float((best[:, 0] - best[:, 1]).min())
