"""Prefixes that stay in a model's cache."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ._native import call, ffi, lib


class Pin:
    """A prefix that stays in a model's cache until it is released. A context manager.

    Attributes:
        tokens: how many tokens the prefix has.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._release = weakref.finalize(self, lib.foreturn_pin_free, handle)
        self._release.atexit = False
        count = ffi.new("size_t *")
        call(lib.foreturn_pin_tokens, handle, count)
        self.tokens: int = count[0]

    @property
    def is_released(self) -> bool:
        """Whether the prefix was released."""
        return not self._release.alive

    def replies(self, texts: Iterable[str]) -> list[PinnedReply]:
        """Each text as the assistant's reply to the pinned conversation, for `Engine.score`. The conversation is not passed
        again, and its tokens are not made again."""
        return [PinnedReply(self, text) for text in texts]

    def release(self) -> None:
        """Releases the prefix. Calling it again does nothing."""
        self._release()

    def __enter__(self) -> Pin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class PinnedReply:
    """The assistant's reply to the conversation in a pin, to be scored by the model that keeps it.

    Attributes:
        pin: what `Engine.warm` returned for the conversation.
        text: the reply.
    """

    pin: Pin
    text: str
