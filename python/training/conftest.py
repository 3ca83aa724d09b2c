"""A tiny random Llama with a byte-level tokenizer, its export, and a configuration in which it plays the policy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import foreturn

SMOLLM2 = Path(__file__).resolve().parents[2] / "target" / "models" / "smollm2-135m-instruct"


def pytest_configure() -> None:
    """Interrupts arrive, also where the tests run in the background of a shell, which has them ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
# Judges answer with one token, and these become one.
MERGES = [("Y", "e"), ("Ye", "s"), ("N", "o")]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, each control text, and the answers of judges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *SPECIAL, *(first + second for first, second in MERGES)]
    inner = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(vocabulary)}, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>", chat_template=TEMPLATE, padding_side="left"
    )


def make_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A Llama with 2 layers and random weights."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192, "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
        "dtype": torch.float32,
    }
    return LlamaForCausalLM(LlamaConfig(**shape | changes)).float()


def save(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint in `folder`."""
    make_model(seed, **changes).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _version() -> None:
    """The version of transformers is the one that was asked for."""
    assert transformers.__version__.startswith(os.environ.get("FORETURN_TRANSFORMERS", "5") + ".")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the tiny Llama. The checkpoint is beside it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    foreturn.export(save(checkpoint_of(folder)), folder)
    return folder


def smollm2() -> LlamaForCausalLM:
    """SmolLM2-135M in float32, from the weights of its export."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, rms_norm_eps=1e-5, rope_theta=100000.0, max_position_embeddings=8192, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2,
    )
    model = LlamaForCausalLM(config).float()
    left = model.load_state_dict(load_file(SMOLLM2 / "model.safetensors"), strict=False)
    assert left.missing_keys == ["lm_head.weight"] and not left.unexpected_keys
    return model.eval()


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of SmolLM2-135M, and its checkpoint beside it."""
    folder = tmp_path_factory.mktemp("real") / "smollm2"
    folder.symlink_to(SMOLLM2)
    smollm2().save_pretrained(checkpoint_of(folder))
    AutoTokenizer.from_pretrained(SMOLLM2).save_pretrained(checkpoint_of(folder))
    return folder


def in_two_processes(program: Path, *arguments: str | Path, **environment: str) -> None:
    """Runs a program in two processes of PyTorch, and fails with what they said where they fail."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(program), *map(str, arguments)]
    changed = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=changed)
    assert done.returncode == 0, done.stderr[-4000:]


def checkpoint_of(exported: Path) -> Path:
    """The checkpoint behind an export."""
    return exported.with_name(f"{exported.name}-checkpoint")


def load(exported: Path) -> LlamaForCausalLM:
    """The checkpoint's model. Trainers that need a reference model read it from the same folder."""
    return LlamaForCausalLM.from_pretrained(checkpoint_of(exported), dtype=torch.float32)


def echo(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
    """A user without a model: it repeats the last words."""
    return [f"And {request.messages[-1].content[-8:]}?" for request in batch]


def length(batch: Sequence[foreturn.MetricInput]) -> list[float]:
    """A metric that depends on the whole future, to the last letter."""
    return [float(sum(sum(message.content.encode()) for message in given.messages) % 1009) / 1009 for given in batch]


def config(exported: Path, **changes: Any) -> dict[str, Any]:
    """A configuration: the tiny Llama is the policy, `echo` the user."""
    return {
        "models": {"policy": {"path": str(exported)}},
        "roles": {"policy": "policy", "user": "echo"},
        "rollout": {"window": 1, "samples": 2, "max_policy_tokens": 8, "max_user_tokens": 8},
        "runtime": {"threads": 1},
    } | changes


OPTIONS: dict[str, Any] = {"chat_models": {"echo": echo}, "metrics": [length]}
PROMPTS = [[{"role": "user", "content": text}] for text in ("Write a poem.", "What is 2 + 2?", "Hello", "Sort a list.")]
GOALS = [{"task": "poetry"}, {"task": "sums", "reference": "4"}, None, {"prompt": "Sort a list in Python."}]


@pytest.fixture
def small_config(exported: Path, tmp_path: Path) -> Path:
    """A `foreturn.toml` with short futures, which the tiny model plays."""
    file = tmp_path / "foreturn.toml"
    file.write_text(
        f'[models.policy]\npath = "{exported}"\n[[metrics]]\nkind = "token_amount"\n'
        "[rollout]\nwindow = 1\nsamples = 2\nmax_policy_tokens = 8\nmax_user_tokens = 8\n"
    )
    return file


@pytest.fixture(scope="session")
def unpacked() -> Path:
    """Packages that can't be installed beside the others; `make test-training` unpacks them."""
    folder = os.environ.get("FORETURN_UNPACKED")
    assert folder and Path(folder, "verl").exists(), "FORETURN_UNPACKED is not set: run `make test-training`"
    return Path(folder)
