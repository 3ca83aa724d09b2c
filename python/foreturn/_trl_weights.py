"""Keeps a model of the engine at the weights of TRL's trainer."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ._engine import Engine
from ._errors import FileError, InvalidArgument, Unsupported
from ._live import adapter_of, has_adapter, is_live, spread_by, unwrapped, without_other_adapters
from ._rewards import install
from ._server import Server

_UNKNOWN = (
    "refresh: where the trainer's weights are is not known. Pass `callbacks=[reward.callback()]` to the trainer; to "
    "AsyncGRPOTrainer, whose reward runs in another process, `trainer.weight_transfer = "
    "reward.weight_transfer(trainer.weight_transfer)` before it trains"
)

_OTHER = (
    "refresh: this trainer is not the one whose weights the reward follows: pass it `callbacks=[reward.callback()]`, or make a "
    "reward of its own"
)


class Follower:
    """Gives the trainer's weights to a model of the engine when the trainer has made a step.

    Attributes:
        step: the trainer's step from which the weights are; -1 if none were given.
    """

    def __init__(self, name: str | None, shared: bool) -> None:
        self._name, self._shared = name, shared
        self._model: Any = None
        self._state: Any = None
        self._folder: Path | None = None
        self._forget()

    def _forget(self) -> None:
        self.step = -1
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Another process has another engine, and not the model.
        left = {"_model": None, "_state": None, "step": -1, "_engine": None, "_lock": None}
        return self.__dict__ | left

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def check_named(self) -> None:
        """Refuses what makes no sense where there is no model to refresh."""
        if self._name is None:
            raise InvalidArgument("refresh is None: it names the model of the engine that gets the trainer's weights")

    def callback(self) -> Any:
        """See `MultiturnReward.callback`."""
        self.check_named()
        try:
            from transformers import TrainerCallback
        except ImportError as error:
            raise ImportError(install("transformers", "the callback of a reward")) from error
        follower = self

        class WeightsCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
            """Tells a reward where the trainer's model is."""

            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
                follower._model, follower._state = model, state

            def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                self.on_step_end(args, state, control, **kwargs)
                # Another trainer, another run or the best checkpoint: other weights at the same step.
                follower._engine = None

            on_train_begin = on_train_end = on_init_end

        return WeightsCallback()

    def transfer(self, inner: Any) -> Any:
        """See `MultiturnReward.weight_transfer`."""
        self.check_named()
        if inner is None:
            raise InvalidArgument(
                "this trainer sends vLLM its adapter alone, which the reward can't take: start vLLM without --enable-lora"
            )
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="foreturn-weights-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return WeightTransfer(inner, self._folder)

    def follow(self, engine: Engine | Server, state: Any) -> None:
        """Refreshes the engine's model if the trainer's weights are newer. `state` is the trainer's; the last one if None.

        Raises:
            Error: the weights can't be used. The old ones stay.
        """
        # A server follows nobody: the reward refuses that when it is made.
        if self._name is None or isinstance(engine, Server):
            return
        with self._lock:
            if self._folder is not None:
                self._follow_folder(engine, self._folder)
            elif self._model is None:
                raise InvalidArgument(_UNKNOWN)
            elif state is not None and state is not self._state:
                raise InvalidArgument(_OTHER)
            else:
                step = (state or self._state).global_step
                if self._is_behind(engine, step):
                    self._give(engine, self._model, step)

    def _is_behind(self, engine: Engine, step: int) -> bool:
        return self._engine is not engine or self.step != step

    def _give(self, engine: Engine, weights: Any, step: int) -> None:
        assert self._name is not None
        weights, adapter = _whole(weights)
        engine.refresh(self._name, weights, adapter=adapter, version=f"step {step}", shared=self._shared)
        self._engine, self.step = engine, step

    def _follow_folder(self, engine: Engine, folder: Path) -> None:
        """Takes the newest weights that the trainer's process has written. Before it wrote any, those of the export hold."""
        from safetensors.torch import load_file

        for attempt in range(5):
            newest = max(folder.glob("*.safetensors"), key=_number, default=None)
            if newest is None or not self._is_behind(engine, _number(newest)):
                return
            try:
                weights = load_file(newest)
            except FileNotFoundError:
                continue  # A newer one has just taken its place.
            self._give(engine, weights, _number(newest))
            return
        raise FileError(f"the trainer's weights in {folder} change faster than they can be read")


def _whole(weights: Any) -> tuple[Any, Any]:
    """Weights with no part in other processes, and the configuration of an adapter that is among them.

    Where FSDP spreads them, every process gathers them at once. Each has an engine, so each needs all of them.
    """
    if not is_live(weights):
        return weights, None
    model, spread = unwrapped(weights), spread_by(weights)
    if spread == "ZeRO-3":
        raise Unsupported("refresh: the trainer's parameters are spread over processes by ZeRO-3: use ZeRO-2, or FSDP2")
    if spread == "FSDP1":
        raise Unsupported("refresh: the trainer's parameters are spread over processes by FSDP1: use FSDP2, or ZeRO-2")
    if spread is None:
        return model, None
    state = {
        name: part.full_tensor().cpu() if hasattr(part, "full_tensor") else part for name, part in model.state_dict().items()
    }
    if not has_adapter(model):
        return state, None
    active, config = adapter_of(model)
    return without_other_adapters(model, state, active), config


def _number(file: Path) -> int:
    return int(file.stem)


class WeightTransfer:
    """What TRL's AsyncGRPOTrainer sends weights to. It passes them on, and leaves a copy for the reward's process."""

    def __init__(self, inner: Any, folder: Path) -> None:
        self._inner, self._folder = inner, folder
        # Numbers go on where an earlier transfer of the same reward ended.
        self._sent = 1 + max((_number(file) for file in folder.glob("*.safetensors")), default=-1)

    def init_weight_transfer(self) -> None:
        """Before training."""
        self._inner.init_weight_transfer()

    def pause(self) -> None:
        """Before weights are sent."""
        self._inner.pause()

    def send_weights(self, iterator: Iterable[tuple[str, Any]]) -> None:
        """All weights by name, as the trainer gathers them."""
        kept: dict[str, Any] = {}

        def keep() -> Iterator[tuple[str, Any]]:
            for name, tensor in iterator:
                kept[name] = tensor.detach().to("cpu", copy=True).contiguous()
                yield name, tensor

        passed = keep()
        self._inner.send_weights(passed)
        for _ in passed:
            pass  # Whoever sends nothing has not read them.
        self._write(kept)

    def _write(self, weights: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        before = list(self._folder.glob("*.safetensors"))
        partial = self._folder / "partial"
        save_file(weights, partial)
        os.replace(partial, self._folder / f"{self._sent}.safetensors")
        self._sent += 1
        for file in before:
            file.unlink(missing_ok=True)

    def resume(self) -> None:
        """After weights were sent."""
        self._inner.resume()

    def destroy(self) -> None:
        """After training."""
        self._inner.destroy()
