"""LoRA adapters of PEFT: merged here as PEFT merges them on a copy that is thrown away."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_refresh import said, trainers

import foreturn

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 10, "target_modules": TARGETS},
    "rslora": {"r": 9, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": TARGETS,
        "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 7},
        "alpha_pattern": {"down_proj": 3, "layers.1.self_attn.q_proj": 5, "^model.layers.0.mlp.up_proj": 1},
    },
    "some layers": {"r": 3, "target_modules": ["up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "whole weights": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "embedding": {"r": 5, "lora_alpha": 7, "target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    "all linear": {"r": 4, "target_modules": "all-linear", "fan_in_fan_out": False},
}


def adapted(base: Any, seed: int = 7, **config: Any) -> Any:
    """A PEFT model whose adapter is not zero, and whose whole weights have moved."""
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config)).float()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
            elif "modules_to_save" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def merged_by_peft(model: Any) -> Any:
    """PEFT's own merge, on a copy."""
    return copy.deepcopy(model).merge_and_unload()


def largest_difference(folder: Path, model: Any) -> float:
    """Between an export's weights and a model's."""
    weights = load_file(folder / "model.safetensors")
    state = {name: tensor for name, tensor in model.state_dict().items() if name in weights}
    assert set(weights) == set(state) and len(weights) > 10
    return max(float((weights[name] - tensor).abs().max()) for name, tensor in state.items())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_pefts_merge(tmp_path: Path, base: Path, case: str) -> None:
    model = adapted(make_model(), **CASES[case])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reference = merged_by_peft(model)
    model.save_pretrained(tmp_path / "adapter")
    foreturn.export(base, tmp_path / "folder", adapter=tmp_path / "adapter")
    foreturn.export(model, tmp_path / "live", tokenizer=make_tokenizer())
    assert largest_difference(tmp_path / "folder", reference) < 2e-6
    assert (tmp_path / "folder/model.safetensors").read_bytes() == (tmp_path / "live/model.safetensors").read_bytes()
    # PEFT's own merge would have changed the base by rounding.
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with foreturn.Engine(models={"policy": tmp_path / "folder"}) as engine:
        expected = said(engine)
    assert expected == pytest.approx(trainers(reference), abs=1e-5)
    assert expected == pytest.approx(trainers(model), abs=1e-4)
    foreturn.export(base, tmp_path / "before")
    with foreturn.Engine(models={"policy": tmp_path / "before"}) as engine:
        assert max(abs(a - b) for a, b in zip(said(engine), expected, strict=True)) > 1e-3
        base_state = make_model().state_dict()
        refreshes: list[Callable[[], str]] = [
            lambda: engine.refresh("policy", model),
            lambda: engine.refresh("policy", model.state_dict(), adapter=model.peft_config["default"]),
            lambda: engine.refresh("policy", adapter=tmp_path / "adapter"),
            lambda: engine.refresh("policy", base_state, adapter=str(tmp_path / "adapter")),
        ]
        for refresh in refreshes:
            engine.refresh("policy", tmp_path / "before")
            assert said(engine) != expected
            refresh()
            assert said(engine) == expected


def test_one_of_several_adapters_is_used(tmp_path: Path, base: Path) -> None:
    model = adapted(make_model(), r=4, target_modules=["q_proj"], modules_to_save=["norm"])
    model.add_adapter("second", LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["v_proj"], modules_to_save=["norm"]))
    model.set_adapter("second")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".second." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    foreturn.export(base, tmp_path / "export")
    with foreturn.Engine(models={"policy": tmp_path / "export"}) as engine:
        for name in ("second", "default"):
            model.set_adapter(name)
            engine.refresh("policy", model)
            assert said(engine) == pytest.approx(trainers(model), abs=1e-4)
        with pytest.raises(foreturn.InvalidRequest, match="default.*second"):
            engine.refresh("policy", {
                name: tensor for name, tensor in model.state_dict().items() if "modules_to_save" not in name
            }, adapter=model.peft_config["default"])
        foreturn.export(model, tmp_path / "live", tokenizer=make_tokenizer())
        assert largest_difference(tmp_path / "live", merged_by_peft(model)) < 2e-6


def test_a_base_that_training_changed_first_is_taken_from_the_live_model(tmp_path: Path, base: Path) -> None:
    model = adapted(make_model(), r=4, target_modules=["q_proj", "up_proj"], init_lora_weights="pissa")
    reference = merged_by_peft(model)
    foreturn.export(model, tmp_path / "live", tokenizer=make_tokenizer())
    assert largest_difference(tmp_path / "live", reference) < 2e-6
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(foreturn.Unsupported, match="init_lora_weights.*pissa"):
        foreturn.export(base, tmp_path / "folder", adapter=tmp_path / "adapter")
    with foreturn.Engine(models={"policy": tmp_path / "live"}) as engine:
        engine.refresh("policy", make_model())
        engine.refresh("policy", model)
        assert said(engine) == pytest.approx(trainers(reference), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_merged_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    base = make_model().to(dtype)
    model = adapted(copy.deepcopy(base).float(), **CASES["plain"])
    base.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    foreturn.export(tmp_path / "base", tmp_path / "export", adapter=tmp_path / "adapter")
    assert largest_difference(tmp_path / "export", merged_by_peft(model)) < 2e-6


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "use_dora|magnitude"),
        ({"lora_bias": True}, "lora_bias|lora_B"),
        ({"target_modules": None, "target_parameters": ["model.layers.0.mlp.up_proj.weight"]}, "target_parameters|lora_"),
        ({"trainable_token_indices": [3, 4]}, "trainable_token"),
        ({"alpha_pattern": {".*q_proj": 3}}, "regular expression"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication|base does not have|has no place"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(tmp_path: Path, base: Path, config: dict[str, Any], words: str) -> None:
    model = adapted(make_model(), **{"r": 4, "target_modules": ["q_proj"]} | config)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(foreturn.Error, match=words):
        foreturn.export(base, tmp_path / "folder", adapter=tmp_path / "adapter")
    foreturn.export(base, tmp_path / "export")
    with foreturn.Engine(models={"policy": tmp_path / "export"}) as engine:
        before = said(engine)
        with pytest.raises(foreturn.Error, match=words):
            engine.refresh("policy", model)
        assert said(engine) == before


def test_an_adapter_that_is_merged_already_is_refused(tmp_path: Path, base: Path) -> None:
    model = adapted(make_model(), **CASES["plain"])
    model.merge_adapter()
    with pytest.raises(foreturn.Unsupported, match="unmerge_adapter"):
        foreturn.export(model, tmp_path / "live", tokenizer=make_tokenizer())


def test_tied_embeddings_are_not_changed_twice(tmp_path: Path) -> None:
    tied = make_model(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    foreturn.export(tmp_path / "base", tmp_path / "export")
    for config in ({"target_modules": ["embed_tokens"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}):
        model = adapted(make_model(tie_word_embeddings=True), r=4, **config)
        model.save_pretrained(tmp_path / "adapter")
        with pytest.raises(foreturn.Unsupported, match="tie_word_embeddings"):
            foreturn.export(tmp_path / "base", tmp_path / "refused", adapter=tmp_path / "adapter")
        with foreturn.Engine(models={"policy": tmp_path / "export"}) as engine:
            with pytest.raises(foreturn.Unsupported, match="tie_word_embeddings"):
                engine.refresh("policy", adapter=tmp_path / "adapter")
            with pytest.raises(foreturn.Unsupported, match="tie_word_embeddings"):
                engine.refresh("policy", model)
    # Elsewhere an adapter of a tied model is as any other.
    model = adapted(make_model(tie_word_embeddings=True), **CASES["plain"])
    foreturn.export(model, tmp_path / "live", tokenizer=make_tokenizer())
    with foreturn.Engine(models={"policy": tmp_path / "live"}) as engine:
        assert said(engine) == pytest.approx(trainers(merged_by_peft(model)), abs=1e-5)
        engine.refresh("policy", make_model(tie_word_embeddings=True))
        engine.refresh("policy", model)
        assert said(engine) == pytest.approx(trainers(model), abs=1e-4)


def test_peft_reads_what_was_merged_as_its_own(tmp_path: Path, base: Path) -> None:
    """The folder that PEFT saves, loaded by PEFT, says the same."""
    model = adapted(make_model(), **CASES["patterns"])
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(make_model(), tmp_path / "adapter").eval()
    foreturn.export(base, tmp_path / "folder", adapter=tmp_path / "adapter")
    with foreturn.Engine(models={"policy": tmp_path / "folder"}) as engine:
        assert said(engine) == pytest.approx(trainers(again), abs=1e-4)
