"""A live `transformers` model as a checkpoint on the disk, which an export is made from and which is gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._errors import FileError, InvalidArgument, Unsupported
from ._live import adapter_of, has_adapter, split_adapter, unwrapped, without_other_adapters

_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "vocab.json", "vocab.txt", "merges.txt",
)


@contextmanager
def saved(model: Any, tokenizer: Any, to: Path, state: Mapping[str, Any] | None) -> Iterator[tuple[Path, Path | None]]:
    """The folder of a checkpoint beside `to`, and that of its adapter if it has one. Both are removed at the end.

    It lies beside `to` so that the export can take over files of weights instead of copying them.

    Args:
        model: the model.
        tokenizer: its tokenizer, or None if the model came from a folder that has one.
        to: where the export goes.
        state: the model's gathered state dict, if the model itself has only parts of it.
    """
    if not hasattr(unwrapped(model), "save_pretrained"):
        raise InvalidArgument(f"the model is a {type(model).__name__}: it is one of transformers or PEFT, or a folder")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent)
    except OSError as error:
        raise FileError(f"the checkpoint of the live model can't be written beside {to}: {error}") from error
    with folder as made:
        base, adapter = Path(made, "base"), Path(made, "adapter")
        base.mkdir()
        model = unwrapped(model)
        if has_adapter(model):
            _save_adapted(model, state, base, adapter)
        else:
            model.save_pretrained(base, **({} if state is None else {"state_dict": dict(state)}))
        _save_tokenizer(model, tokenizer, base)
        # safetensors makes files that only their owner may read.
        for weights in base.glob("*.safetensors"):
            shutil.copymode(base / "config.json", weights)
        yield base, adapter if adapter.exists() else None


def _save_adapted(model: Any, state: Mapping[str, Any] | None, base: Path, adapter: Path) -> None:
    """Saves the base and the adapter of a PEFT model, each for itself."""
    if not hasattr(model, "get_base_model"):
        raise Unsupported("the model's adapter was added by `model.add_adapter`: make a PEFT model of it (`get_peft_model`)")
    active, config = adapter_of(model)
    tensors = without_other_adapters(model, model.state_dict() if state is None else state, active)
    of_base, of_adapter = split_adapter(tensors)
    model.get_base_model().save_pretrained(base, state_dict=of_base)
    from safetensors.torch import save_file

    adapter.mkdir()
    # The base that was saved is the one that the adapter belongs to, also where training began by changing it.
    config["init_lora_weights"] = True
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    # Each with memory of its own, which safetensors asks for.
    apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in of_adapter.items()}
    save_file(apart, adapter / "adapter_model.safetensors")


def _save_tokenizer(model: Any, tokenizer: Any, folder: Path) -> None:
    if tokenizer is not None:
        # A processor of several kinds of input has the tokenizer inside.
        getattr(tokenizer, "tokenizer", tokenizer).save_pretrained(folder)
        return
    origin = getattr(model, "name_or_path", "") or ""
    if not os.path.isfile(os.path.join(origin, "tokenizer.json")):
        raise InvalidArgument("a live model has no tokenizer: pass `tokenizer`, which is exported with it")
    for name in _TOKENIZER:
        if os.path.isfile(os.path.join(origin, name)):
            shutil.copy(os.path.join(origin, name), folder)
