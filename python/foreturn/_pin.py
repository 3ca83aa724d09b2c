"""Prefixes that stay in a model's cache."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any

from ._native import call, ffi, lib


class Pin:
    """A prefix that stays in a model's cache until it is released. A context manager.

    Attributes:
        tokens: how many tokens the prefix has.
    """

    def __init__(self, handle: Any) -> None:
        self._release = weakref.finalize(self, lib.foreturn_pin_free, handle)
        self._release.atexit = False
        count = ffi.new("size_t *")
        call(lib.foreturn_pin_tokens, handle, count)
        self.tokens: int = count[0]

    def release(self) -> None:
        """Releases the prefix. Calling it again does nothing."""
        self._release()

    def __enter__(self) -> Pin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
