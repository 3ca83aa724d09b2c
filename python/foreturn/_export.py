"""Exports of checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ._callbacks import export_progress
from ._errors import InvalidArgument
from ._live import is_live
from ._native import Arguments, ffi, lib, owned_text
from ._results import Export
from ._saved import saved

_QUANTIZE = {
    None: lib.FORETURN_QUANTIZE_NONE,
    "int8": lib.FORETURN_QUANTIZE_INT8,
    "int4": lib.FORETURN_QUANTIZE_INT4,
}
_DTYPES = {
    None: lib.FORETURN_DTYPE_FLOAT32,
    "float32": lib.FORETURN_DTYPE_FLOAT32,
    "bfloat16": lib.FORETURN_DTYPE_BFLOAT16,
    "float16": lib.FORETURN_DTYPE_FLOAT16,
}
_BLOCKS = (32, 64, 128, 256)


def export(
    model: Any,
    to: str | os.PathLike[str],
    quantize: Literal["int8", "int4"] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    *,
    adapter: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    state_dict: Mapping[str, Any] | None = None,
    block: int = 32,
    overwrite: bool = False,
    on_progress: Callable[[int, int], object] | None = None,
) -> Export:
    """Converts a checkpoint into a model folder, which an engine loads. The folder appears only when it is complete.

    Args:
        model: a Hugging Face folder; a `.gguf` file; or a live model of transformers or PEFT, which may be wrapped by DDP or
            `torch.compile`. A live model is saved beside `to` for the time of the export, and the export is that of the saved
            checkpoint, bit for bit. The LoRA adapter of a PEFT model is merged; the model stays as it is.
        to: the folder to make.
        quantize: `"int8"`: matrices in 8 bits. `"int4"`: matrices in 4 bits, embedding and head in 8. None: not.
        dtype: the type of matrices that are not quantised; None: float32. In half precision they take half the space. Decoders
            on the CPU compute products with matrices in bfloat16 in bfloat16.
        adapter: the folder of a LoRA adapter that PEFT saved, to merge into a folder's weights, in float32.
        tokenizer: the tokenizer of a live model. None: that of the folder which the model was loaded from.
        state_dict: all tensors of a live model that has only parts of them in this process.
        block: how many weights share a scale, if they are quantised: 32, 64, 128 or 256.
        overwrite: allows an earlier export at `to` to be replaced. Other folders are never replaced.
        on_progress: called with the bytes of weights that are written, and with those of all. What it raises is raised when
            the export has ended. (An export can't be cancelled; KeyboardInterrupt comes then, too.)

    Raises:
        InvalidModel: the checkpoint is incomplete, damaged or inconsistent.
        Unsupported: its architecture or one of its settings is not supported.
        FileError: a file could not be read or written.
    """
    if quantize not in _QUANTIZE:
        raise InvalidArgument(f'quantize is {quantize!r}: it is "int8", "int4" or None')
    if dtype not in _DTYPES:
        raise InvalidArgument(f'dtype is {dtype!r}: it is "float32", "bfloat16", "float16" or None')
    if block not in _BLOCKS:
        raise InvalidArgument(f"block is {block!r}: it is one of {', '.join(map(str, _BLOCKS))}")
    how = _How(quantize, dtype, block, overwrite, on_progress)
    if not is_live(model):
        if tokenizer is not None or state_dict is not None:
            raise InvalidArgument("tokenizer and state_dict are for live models: a folder has its own")
        return _export(os.fspath(model), os.fspath(to), adapter, False, how)
    if adapter is not None:
        raise InvalidArgument("adapter is for folders: load it with PEFT, and pass the PEFT model")
    with saved(model, tokenizer, Path(to).absolute(), state_dict) as (folder, own_adapter):
        return _export(str(folder), os.fspath(to), own_adapter, True, how)


class _How(NamedTuple):
    quantize: Literal["int8", "int4"] | None
    dtype: Literal["float32", "bfloat16", "float16"] | None
    block: int
    overwrite: bool
    on_progress: Callable[[int, int], object] | None


def _export(folder: str, to: str, adapter: str | os.PathLike[str] | None, hard_link: bool, how: _How) -> Export:
    quantize, dtype, block, overwrite, on_progress = how
    arguments = Arguments()
    options = arguments.struct("foreturn_export_options", quantize=_QUANTIZE[quantize], block=block, overwrite=overwrite)
    options.dtype = _DTYPES[dtype]
    options.to, options.hard_link = arguments.text(to, "to"), hard_link
    # The C structure calls it `from`, which is a keyword of Python.
    setattr(options, "from", arguments.text(folder, "model"))
    if adapter is not None:
        options.adapter = arguments.text(os.fspath(adapter), "adapter")
    calls: list[Any] = [on_progress]
    handle = ffi.new_handle(calls)
    if on_progress is not None:
        options.on_progress, options.user_data = export_progress, handle
    made = json.loads(owned_text(lib.foreturn_export, options))
    if len(calls) > 1:
        raise calls[1]
    files = {file["name"]: file["placement"] for file in made.pop("weights")}
    return Export(files=files, **made)
