"""New weights for a model of an engine: from a folder, from memory, and with an adapter merged into them."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from ._calls import Call
from ._errors import InvalidArgument
from ._live import adapter_of, config_dict, has_adapter, is_live, unwrapped, without_other_adapters
from ._native import Arguments, call, ffi, handle_of, lib, owned_text
from ._pending import SLICE_MS, Relay
from ._requests import limits
from ._tensors import tensor_array

Mode: TypeAlias = Literal["wait", "restart", "abort"]
_MODES = {
    "wait": lib.FORETURN_REFRESH_WAIT,
    "restart": lib.FORETURN_REFRESH_RESTART,
    "abort": lib.FORETURN_REFRESH_ABORT,
}


class Refresh:
    """A refresh, as it was asked for."""

    def __init__(
        self, model: str, weights: Any, adapter: Any, version: str | None, mode: str, shared: bool, timeout: float | None
    ) -> None:
        if mode not in _MODES:
            raise InvalidArgument(f"mode is {mode!r}: it is one of {', '.join(map(repr, _MODES))}")
        if weights is None and adapter is None:
            raise InvalidArgument("there are no new weights: give a state dict, a folder or an adapter")
        self._arguments = Arguments()
        self.model = self._arguments.text(model, "model")
        self.folder = os.fspath(weights) if isinstance(weights, (str, os.PathLike)) else None
        if self.folder is None and weights is not None:
            weights, adapter = _in_memory(weights, adapter)
        self.tensors, self.count = (ffi.NULL, 0)
        if self.folder is None and weights is not None:
            self.tensors, self.count = tensor_array(self._arguments, weights)
            if self.count == 0:
                raise InvalidArgument("the state dict is empty")
        self._settings = {"mode": _MODES[mode], "shared": shared, "limits": limits(timeout, 0)[0]}
        texts = {"version": "" if version is None else version} | _adapter_texts(adapter)
        self._settings |= {name: self._arguments.text(text, name) for name, text in texts.items()}

    def options(self, **more: Any) -> Any:
        """The library's options."""
        return self._arguments.struct("foreturn_refresh_options", **self._settings | more)

    def from_folder(self) -> Call[str]:
        """The call for weights in a folder."""

        def submit(engine: Any, arguments: Arguments, relay: Relay) -> Any:
            options = self.options(on_ready=relay.ready_function, user_data=relay.handle)
            path = arguments.text(self.folder or "", "weights")
            return handle_of(lib.foreturn_refresh_submit, "foreturn_pending", engine, self.model, path, options)

        return Call(submit, lambda pending: owned_text(lib.foreturn_pending_version, pending))

    def from_memory(self, engine: Any, cancel: Any) -> str:
        """Exchanges weights for those in memory, and waits in the library."""
        options = self.options()
        options.limits.cancel = cancel
        return owned_text(lib.foreturn_refresh_tensors, engine, self.model, self.tensors, self.count, options)


def _in_memory(weights: Any, adapter: Any) -> tuple[Mapping[str, Any], Any]:
    """A state dict, and the adapter that is to be merged into it."""
    if is_live(weights):
        model = unwrapped(weights)
        if not has_adapter(model):
            return model.state_dict(), adapter
        if adapter is not None:
            raise InvalidArgument("adapter: the model has an adapter of its own. Give the base, or leave out `adapter`")
        active, config = adapter_of(model)
        return without_other_adapters(model, model.state_dict(), active), config
    if not isinstance(weights, Mapping):
        raise InvalidArgument(
            f"weights is a {type(weights).__name__}: it is a folder, a model in memory, or a dict of tensors by name"
        )
    return weights, adapter


def _adapter_texts(adapter: Any) -> dict[str, str]:
    if adapter is None:
        return {}
    if isinstance(adapter, (str, os.PathLike)):
        return {"adapter": os.fspath(adapter)}
    return {"adapter_config": json.dumps(config_dict(adapter))}


class _Cancel:
    """A token that cancels a call, while it lives."""

    def __init__(self) -> None:
        self.handle = handle_of(lib.foreturn_cancel_new, "foreturn_cancel")

    def cancel(self) -> None:
        call(lib.foreturn_cancel_cancel, self.handle)

    def free(self) -> None:
        lib.foreturn_cancel_free(self.handle)


def wait(work: Callable[[Any], str]) -> str:
    """Runs `work`, which waits in the library and takes a token. An exception that comes in between cancels it.

    Signals come to the main thread alone, so there the work has a thread of its own.
    """
    token = _Cancel()
    try:
        if threading.current_thread() is not threading.main_thread():
            return work(token.handle)
        outcome = _Outcome()
        thread = threading.Thread(target=outcome.run, args=(work, token.handle), name="foreturn-refresh", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(SLICE_MS / 1000)
        except BaseException:
            token.cancel()
            thread.join()
            raise
        return outcome.get()
    finally:
        token.free()


async def wait_on_loop(work: Callable[[Any], str]) -> str:
    """As `wait`, on an event loop. Cancelling the task cancels the work."""
    token, outcome = _Cancel(), _Outcome()
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            outcome.run(work, token.handle)
        finally:
            token.free()
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="foreturn-refresh", daemon=True).start()
    try:
        await done.wait()
    except BaseException:
        if not done.is_set():
            lib.foreturn_cancel_cancel(token.handle, ffi.NULL)
        raise
    return outcome.get()


class _Outcome:
    """What a thread came to."""

    def __init__(self) -> None:
        self._version: str | None = None
        self._error: BaseException | None = None

    def run(self, work: Callable[[Any], str], token: Any) -> None:
        try:
            self._version = work(token)
        except BaseException as error:
            self._error = error

    def get(self) -> str:
        if self._error is not None:
            raise self._error
        assert self._version is not None
        return self._version
