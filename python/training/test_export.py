"""Exports of live models, and exports by a trainer's callback: the files are those of `foreturn export`, bit for bit."""

from __future__ import annotations

import filecmp
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import in_two_processes, make_model, make_tokenizer
from datasets import Dataset
from peft import LoraConfig
from test_adapter import CASES, adapted, largest_difference, merged_by_peft
from torch import nn
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

import foreturn
from foreturn.transformers import ExportCallback


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, to the last byte."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir()) and "model.onnx" in names
    _, different, failed = filecmp.cmpfiles(one, other, names, shallow=False)
    assert not failed
    return not different


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [None, "int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_live_model_is_exported_as_its_checkpoint(tmp_path: Path, dtype: torch.dtype, bits: Any, tied: bool) -> None:
    model, tokenizer = make_model(5, tie_word_embeddings=tied).to(dtype), make_tokenizer()
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    by_command = [sys.executable, "-m", "foreturn", "export", "--from", tmp_path / "checkpoint", "--to", tmp_path / "command"]
    subprocess.run([*by_command, "--quantize", bits or "none"], check=True)
    live = foreturn.export(model, tmp_path / "live", bits, tokenizer=tokenizer)
    assert same(tmp_path / "command", tmp_path / "live")
    assert live.architecture == "LlamaForCausalLM" and live.layers == 2
    # Nothing else is left, and everybody may read what others may read.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "command", "live"]
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "command").iterdir()}
    assert {path.name: path.stat().st_mode for path in (tmp_path / "live").iterdir()} == modes


def test_wrappers_and_the_tokenizer_of_the_models_folder(tmp_path: Path) -> None:
    make_model(6).save_pretrained(tmp_path / "checkpoint")
    make_tokenizer().save_pretrained(tmp_path / "checkpoint")
    foreturn.export(tmp_path / "checkpoint", tmp_path / "export")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    for number, wrapped in enumerate((model, nn.DataParallel(model), torch.compile(model, backend="eager"))):
        foreturn.export(wrapped, tmp_path / str(number))
        assert same(tmp_path / "export", tmp_path / str(number))


def test_what_can_not_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(foreturn.InvalidArgument, match="pass `tokenizer`"):
        foreturn.export(make_model(), tmp_path / "to")
    with pytest.raises(foreturn.InvalidArgument, match="Linear"):
        foreturn.export(nn.Linear(2, 2), tmp_path / "to", tokenizer=make_tokenizer())
    with pytest.raises(foreturn.InvalidArgument, match="PEFT model"):
        foreturn.export(make_model(), tmp_path / "to", tokenizer=make_tokenizer(), adapter=tmp_path)
    with pytest.raises(foreturn.InvalidArgument, match="folder has its own"):
        foreturn.export(tmp_path, tmp_path / "to", tokenizer=make_tokenizer())
    broken = make_model()
    with torch.no_grad():
        broken.lm_head.weight[3, 4] = torch.nan
    with pytest.raises(foreturn.InvalidModel, match=r"lm_head\.weight.*NaN"):
        foreturn.export(broken, tmp_path / "to", tokenizer=make_tokenizer())
    assert list(tmp_path.iterdir()) == []


def train(folder: Path, callback: Any, model: Any = None, **changes: Any) -> SFTTrainer:
    text = Dataset.from_list([{"text": text} for text in ("Roses are red.", "Violets are blue.", "Waves.", "Wind.")])
    arguments: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 1e-2}
    args = SFTConfig(
        output_dir=str(folder / "out"), bf16=False, use_cpu=True, per_device_train_batch_size=2, report_to=[],
        disable_tqdm=True, dataset_text_field="text", max_length=32, **arguments | changes,
    )
    trainer = SFTTrainer(
        model=make_model(8) if model is None else model, args=args, train_dataset=text, processing_class=make_tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("bits", [None, "int8"])
def test_each_saved_checkpoint_is_exported(tmp_path: Path, bits: Any) -> None:
    callback = ExportCallback(tmp_path / "export-{step}", on="save", quantize=bits)
    assert isinstance(callback, TrainerCallback) and isinstance(callback, ExportCallback)
    trainer = train(tmp_path, callback)
    assert callback.error is None and callback.exported is not None
    for step in (2, 4):
        foreturn.export(tmp_path / f"out/checkpoint-{step}", tmp_path / "by-hand", bits, overwrite=True)
        assert same(tmp_path / "by-hand", tmp_path / f"export-{step}")
    with foreturn.Engine(models={"policy": tmp_path / "export-4"}) as engine:
        assert trainer.model is not None and engine.refresh("policy", trainer.model)
    assert sorted(path.name for path in tmp_path.glob("export-*")) == ["export-2", "export-4"]


def test_the_end_and_numbers_of_steps(tmp_path: Path) -> None:
    trainer = train(tmp_path, ExportCallback(tmp_path / "end", on="end"), save_strategy="no")
    foreturn.export(trainer.model, tmp_path / "by-hand", tokenizer=make_tokenizer())
    assert same(tmp_path / "by-hand", tmp_path / "end")
    callback = ExportCallback(tmp_path / "steps-{step}", on=3)
    train(tmp_path, callback, save_strategy="no", max_steps=7)
    assert sorted(path.name for path in tmp_path.glob("steps-*")) == ["steps-3", "steps-6"]
    # Without a place for the step, the last one is there.
    last = ExportCallback(str(tmp_path / "last"), on=2)
    trainer = train(tmp_path, last, save_strategy="no")
    foreturn.export(trainer.model, tmp_path / "by-hand", tokenizer=make_tokenizer(), overwrite=True)
    assert same(tmp_path / "by-hand", tmp_path / "last")


def test_a_trainer_with_an_adapter_exports_the_merged_model(tmp_path: Path) -> None:
    """Checkpoints then hold the adapter alone, so the live model is exported."""
    model = adapted(make_model(9), **CASES["plain"])
    callback = ExportCallback(tmp_path / "export", on="save")
    trainer = train(tmp_path, callback, model=model, max_steps=2)
    assert (tmp_path / "out/checkpoint-2/adapter_model.safetensors").exists() and callback.error is None
    assert trainer.model is not None
    assert largest_difference(tmp_path / "export", merged_by_peft(trainer.model)) < 2e-6


def test_a_failed_export_does_not_end_training_unless_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").write_text("not an export")
    callback = ExportCallback(tmp_path / "taken", on=2)
    with caplog.at_level(logging.WARNING, logger="foreturn"):
        trainer = train(tmp_path, callback, save_strategy="no")
    assert trainer.state.global_step == 4
    assert isinstance(callback.error, foreturn.Error) and callback.exported is None
    assert "taken" in caplog.text and "training goes on" in caplog.text
    with pytest.raises(foreturn.Error, match="taken"):
        train(tmp_path, ExportCallback(tmp_path / "taken", on=2, on_error="raise"), save_strategy="no")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.txt"]


def test_settings_that_make_no_sense_are_refused() -> None:
    for on in ("epoch", 0, -1, True, 1.5):
        with pytest.raises(foreturn.InvalidArgument, match="on is"):
            ExportCallback("to", on=on)  # type: ignore[arg-type]
    with pytest.raises(foreturn.InvalidArgument, match="on_error is 'ignore'"):
        ExportCallback("to", on_error="ignore")  # type: ignore[arg-type]
    copied = pickle.loads(pickle.dumps(ExportCallback("to", 3, "int8", "raise", block=64)))
    assert isinstance(copied, TrainerCallback)
    assert (copied.to, copied.on, copied.quantize, copied.on_error, copied.block) == ("to", 3, "int8", "raise", 64)


SHARDED = """
import os, sys, torch, foreturn
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, {here!r})
from conftest import make_model, make_tokenizer
from torch.distributed.fsdp import fully_shard
from foreturn.transformers import ExportCallback
torch.distributed.init_process_group("gloo")
model = make_model(11)
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
rank = torch.distributed.get_rank()
callback = ExportCallback({to!r}, on=1, on_error="raise")
state = SimpleNamespace(global_step=1, is_world_process_zero=rank == 0)
callback.on_step_end(None, state, None, model=model, processing_class=make_tokenizer())
assert (callback.exported is not None) == (rank == 0)
if rank == 0:
    with foreturn.Engine(models={{"policy": {to!r}}}) as engine:
        try:
            engine.refresh("policy", model)
            raise SystemExit("a shard was taken for a tensor")
        except foreturn.InvalidArgument as error:
            assert "sharded" in str(error), error
# Nobody leaves while another one still uses the connection.
torch.distributed.barrier()
# Threads of gloo end some interpreters with an abort on their way out (torch 2.15).
os._exit(0)
"""


def test_shards_are_gathered_and_rank_0_writes(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED.format(here=str(Path(__file__).parent), to=str(tmp_path / "export")))
    in_two_processes(script)
    foreturn.export(make_model(11), tmp_path / "whole", tokenizer=make_tokenizer())
    assert same(tmp_path / "whole", tmp_path / "export")


def test_without_transformers_it_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "from foreturn.transformers import ExportCallback\n"
        "try: ExportCallback('to')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install transformers" in done.stdout


def test_an_adapter_added_by_transformers_itself_is_refused(tmp_path: Path) -> None:
    model = make_model()
    # As `add_adapter` does, which needs a later PEFT than the one that is pinned.
    model.peft_config = {"default": LoraConfig(r=2, target_modules=["q_proj"])}
    with pytest.raises(foreturn.Unsupported, match="get_peft_model"):
        foreturn.export(model, tmp_path / "to", tokenizer=make_tokenizer())
