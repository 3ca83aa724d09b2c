"""Exports of checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Literal

from ._callbacks import export_progress
from ._errors import InvalidArgument, Unsupported
from ._native import Arguments, ffi, lib, owned_text
from ._results import Export

_QUANTIZE = {
    None: lib.FORETURN_QUANTIZE_NONE,
    "int8": lib.FORETURN_QUANTIZE_INT8,
    "int4": lib.FORETURN_QUANTIZE_INT4,
}
_BLOCKS = (32, 64, 128, 256)


def export(
    folder: str | os.PathLike[str],
    to: str | os.PathLike[str],
    quantize: Literal["int8", "int4"] | None = None,
    dtype: Literal["float32"] | None = None,
    *,
    block: int = 32,
    overwrite: bool = False,
    on_progress: Callable[[int, int], object] | None = None,
) -> Export:
    """Converts a checkpoint into a model folder, which an engine loads. The folder appears only when it is complete.

    Args:
        folder: a Hugging Face folder, or a `.gguf` file.
        to: the folder to make.
        quantize: `"int8"`: matrices in 8 bits. `"int4"`: matrices in 4 bits, embedding and head in 8. None: not.
        dtype: the type of weights that are not quantised: float32, which is the only one.
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
    if dtype not in (None, "float32"):
        raise Unsupported(f'dtype is {dtype!r}: exports hold float32 ("float32" or None), or are quantised (quantize)')
    if block not in _BLOCKS:
        raise InvalidArgument(f"block is {block!r}: it is one of {', '.join(map(str, _BLOCKS))}")
    arguments = Arguments()
    options = arguments.struct("foreturn_export_options", quantize=_QUANTIZE[quantize], block=block, overwrite=overwrite)
    options.to = arguments.text(os.fspath(to), "to")
    # The C structure calls it `from`, which is a keyword of Python.
    setattr(options, "from", arguments.text(os.fspath(folder), "folder"))
    calls: list[Any] = [on_progress]
    handle = ffi.new_handle(calls)
    if on_progress is not None:
        options.on_progress, options.user_data = export_progress, handle
    made = json.loads(owned_text(lib.foreturn_export, options))
    if len(calls) > 1:
        raise calls[1]
    files = {file["name"]: file["placement"] for file in made.pop("weights")}
    return Export(files=files, **made)
