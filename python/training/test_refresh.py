"""`Engine.refresh` with live models of PyTorch: the engine says what the trainer's model says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMOLLM2, load, make_model, make_tokenizer, smollm2
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoTokenizer

import foreturn

TOKENS = [256, *b"user", 10, *b"Write a poem about the sea.", 257, 256, *b"assistant", 10, *b"Waves, waves."]


def said(engine: foreturn.Engine) -> list[float]:
    return list(engine.logprobs("policy", tokens=TOKENS).logprobs)


def trainers(model: Any) -> list[float]:
    """What the model itself gives the same tokens."""
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, :-1].float()
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0].tolist()


@pytest.fixture
def engine(exported: Path) -> Iterator[foreturn.Engine]:
    with foreturn.Engine(models={"policy": exported}) as engine:
        yield engine


def test_after_each_step_the_engine_is_the_trainers_model(engine: foreturn.Engine, exported: Path) -> None:
    model = load(exported)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = said(engine)
    assert before == pytest.approx(trainers(model), abs=1e-4)
    for step in range(3):
        loss = model(torch.tensor([TOKENS]), labels=torch.tensor([TOKENS])).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        # The parameters themselves, which need gradients; and the model.
        weights = model.state_dict() if step % 2 else model
        assert engine.refresh("policy", weights, version=f"step {step}") == f"step {step}"
        after = said(engine)
        assert after == pytest.approx(trainers(model), abs=1e-4)
        assert max(abs(a - b) for a, b in zip(after, before, strict=True)) > 1e-2
        before = after


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bits", [None, "int8"])
def test_the_bits_are_those_of_an_export(tmp_path: Path, dtype: torch.dtype, bits: Any) -> None:
    model, tokenizer = make_model(1).to(dtype), make_tokenizer()
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    foreturn.export(tmp_path / "checkpoint", tmp_path / "after", bits)
    foreturn.export(make_model(0), tmp_path / "before", bits, tokenizer=tokenizer)
    with foreturn.Engine(models={"policy": tmp_path / "after"}) as engine:
        expected = said(engine)
    with foreturn.Engine(models={"policy": tmp_path / "before"}) as engine:
        assert said(engine) != expected
        engine.refresh("policy", model.state_dict())
        assert said(engine) == expected


def test_tied_heads_and_wrappers(tmp_path: Path) -> None:
    model = make_model(2, tie_word_embeddings=True)
    foreturn.export(model, tmp_path / "tied", tokenizer=make_tokenizer())
    with foreturn.Engine(models={"policy": tmp_path / "tied"}) as engine:
        before = said(engine)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.7)
        assert "lm_head.weight" in model.state_dict() and "lm_head.weight" not in dict(model.named_parameters())
        engine.refresh("policy", dict(model.named_parameters()))
        after = said(engine)
        assert after != before and after == pytest.approx(trainers(model), abs=1e-4)
        for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
            for weights in (wrapped, wrapped.state_dict()):
                engine.refresh("policy", make_state(before_of=model, factor=0.5))
                assert said(engine) != after
                engine.refresh("policy", weights)
                assert said(engine) == after
        # Two values for one tensor have no place.
        state = dict(model.state_dict())
        state["lm_head.weight"] = state["lm_head.weight"] + 1
        with pytest.raises(foreturn.InvalidRequest, match="lm_head.weight"):
            engine.refresh("policy", state)


def make_state(before_of: Any, factor: float) -> dict[str, Any]:
    return {name: tensor * factor for name, tensor in before_of.named_parameters()}


def test_tensors_are_read_where_they_are(engine: foreturn.Engine) -> None:
    from foreturn import _tensors
    from foreturn._native import Arguments, ffi

    model = make_model(3)
    array, count = _tensors.tensor_array(Arguments(), model.state_dict())
    addresses = {int(ffi.cast("uintptr_t", array[at].data)) for at in range(count)}
    assert addresses == {tensor.data_ptr() for tensor in model.parameters()}
    turned = {name: tensor.t().contiguous().t() for name, tensor in model.state_dict().items() if tensor.ndim == 2}
    transposed = model.state_dict() | turned
    assert not transposed["lm_head.weight"].is_contiguous()
    engine.refresh("policy", transposed)
    assert said(engine) == pytest.approx(trainers(model), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lm_head.weight", torch.zeros(262, 64, dtype=torch.float64), "holds float64"),
        ("lm_head.weight", torch.zeros(262, 64, device="meta"), "no values in memory"),
        ("lm_head.weight", torch.zeros(262, 64).to_sparse(), "no values in memory"),
        ("lm_head.weight", torch.zeros(262, 64, dtype=torch.uint8), "holds uint8"),
        ("lm_head.weight", torch.full((262, 64), torch.inf), "lm_head.weight"),
        ("model.norm.weight", torch.zeros(65), "model.norm.weight"),
        ("model.new.weight", torch.zeros(65), "model.new.weight"),
    ],
)
def test_tensors_that_are_no_weights_are_refused_by_name(
    engine: foreturn.Engine, exported: Path, name: str, value: torch.Tensor, words: str
) -> None:
    before = said(engine)
    with pytest.raises(foreturn.Error, match=words) as refused:
        engine.refresh("policy", load(exported).state_dict() | {name: value})
    assert name in str(refused.value) and said(engine) == before


@pytest.mark.parametrize("lora", [False, True])
def test_a_real_model_follows_its_trainer(tmp_path: Path, lora: bool) -> None:
    model: Any = smollm2()
    with foreturn.Engine(models={"policy": SMOLLM2}) as engine:
        before = said(engine)
        assert before == pytest.approx(trainers(model), abs=1e-3)
        if lora:
            model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", use_rslora=True)).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not lora:
                    parameter.add_(parameter.std() * 0.02 * torch.randn_like(parameter))
                elif "lora_B" in name:
                    parameter.normal_(0, 0.01)
        engine.refresh("policy", model)
        after = said(engine)
        assert max(abs(a - b) for a, b in zip(after, before, strict=True)) > 0.1
        assert after == pytest.approx(trainers(model), abs=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    foreturn.export(model, tmp_path / "export", tokenizer=tokenizer)
    with foreturn.Engine(models={"policy": tmp_path / "export"}) as engine:
        assert said(engine) == after


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_tensors_on_a_gpu_are_copied(engine: foreturn.Engine) -> None:
    model = make_model(4)
    engine.refresh("policy", copy.deepcopy(model).cuda())
    assert said(engine) == pytest.approx(trainers(model), abs=1e-4)
