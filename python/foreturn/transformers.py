"""Exports while a trainer of transformers or TRL runs.

    from foreturn.transformers import ExportCallback

    trainer = SFTTrainer(..., callbacks=[ExportCallback("models/policy", on="save", quantize="int8")])

transformers is imported when a callback is made.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any, Literal

from ._errors import InvalidArgument, Unsupported
from ._export import export
from ._live import spread_by
from ._results import Export

_log = logging.getLogger("foreturn")

_INSTALL = "ExportCallback is for trainers of transformers, which is not installed: `pip install transformers`"


class ExportCallback:
    """Exports the model of a trainer: a `transformers.TrainerCallback`.

    The export is that of the saved checkpoint, bit for bit. The process with rank 0 writes it. An earlier export at the same
    place is replaced in one step, so a reader finds the old one or the new one.

    Attributes:
        exported: what the last export was; None before the first.
        error: the failure of the last one; None if it was made.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> ExportCallback:
        """A callback that is one of transformers, too.

        Raises:
            ImportError: transformers is not installed.
        """
        return object.__new__(_of_transformers() if cls is ExportCallback else cls)

    def __init__(
        self,
        to: str | os.PathLike[str],
        on: Literal["save", "end"] | int = "save",
        quantize: Literal["int8", "int4"] | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        *,
        block: int = 32,
    ) -> None:
        """Says when to export, and where to.

        Args:
            to: the folder to make. `{step}` in it stands for the trainer's step; without it, each export replaces the last.
            on: `"save"`: whenever the trainer has saved a checkpoint. `"end"`: at the end of training. A number: after each
                so many steps.
            quantize: as in `foreturn.export`.
            on_error: `"warn"`: a failed export goes to the logger `foreturn`, and training goes on. `"raise"`: it ends
                training.
            block: as in `foreturn.export`.
        """
        if on not in ("save", "end") and (isinstance(on, bool) or not isinstance(on, int) or on < 1):
            raise InvalidArgument(f'on is {on!r}: it is "save", "end" or a number of steps')
        if on_error not in ("warn", "raise"):
            raise InvalidArgument(f'on_error is {on_error!r}: it is "warn" or "raise"')
        self.to, self.on, self.quantize, self.on_error, self.block = os.fspath(to), on, quantize, on_error, block
        self.exported: Export | None = None
        self.error: Exception | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(ExportCallback, block=self.block), (self.to, self.on, self.quantize, self.on_error)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer has saved a checkpoint."""
        if self.on == "save":
            self._export(args, state, kwargs, Path(args.output_dir, f"checkpoint-{state.global_step}"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer has made a step."""
        if isinstance(self.on, int) and state.global_step % self.on == 0:
            self._export(args, state, kwargs, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over."""
        if self.on == "end":
            self._export(args, state, kwargs, None)

    def _export(self, args: Any, state: Any, given: dict[str, Any], checkpoint: Path | None) -> None:
        try:
            model, tokenizer = given.get("model"), given.get("processing_class") or given.get("tokenizer")
            whole = _agreed(checkpoint is not None and (checkpoint / "config.json").exists())
            gathered = None if whole else _gathered(model)
            if not state.is_world_process_zero:
                return
            source, options = (checkpoint, {}) if whole else (model, {"tokenizer": tokenizer, "state_dict": gathered})
            to = self.to.replace("{step}", str(state.global_step))
            self.exported = export(source, to, self.quantize, block=self.block, overwrite=True, **options)
            self.error = None
        except Exception as error:
            self.error = error
            if self.on_error == "raise":
                raise
            message = "the export to %s at step %d failed, and training goes on: %s"
            _log.warning(message, self.to, state.global_step, error)


def _agreed(whole: bool) -> bool:
    """What the process with rank 0 sees: the others may not share its disk, or look while it still writes."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return whole
    answer = [whole]
    distributed.broadcast_object_list(answer, src=0)
    return answer[0]


def _gathered(model: Any) -> Any:
    """The state dict of a model whose parameters are spread over processes, which all call this. None if they are not."""
    spread = spread_by(model)
    if spread == "ZeRO-3":
        raise Unsupported(
            'the parameters are spread over processes by ZeRO-3: use on="save" with `stage3_gather_16bit_weights_on_model_save`'
        )
    if spread is None:
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


@functools.cache
def _of_transformers() -> type[ExportCallback]:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    return type("ExportCallback", (ExportCallback, TrainerCallback), {"__module__": __name__})
