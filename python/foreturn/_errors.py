"""Exceptions. Each carries the library's message, which says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class Error(Exception):
    """A failure of foreturn. Subclasses tell the kinds apart.

    Attributes:
        kind: the kind of failure in one word, such as `"invalid_request"` or `"overloaded"`: the name of the status in
            `foreturn.h`, in lower case.
        message: what was wrong, where, and what to do.
        causes: the messages of the failures behind it, the nearest first. An exception that a Python metric or chat
            model raised is `__cause__` instead, where it is known.
    """

    kind = "internal"

    def __init__(self, message: str, causes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.causes = tuple(causes)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.causes)


class InvalidArgument(Error, ValueError):
    """An argument of a call makes no sense."""

    kind = "invalid_argument"


class InvalidRequest(Error, ValueError):
    """The request is wrong."""

    kind = "invalid_request"


class InvalidConfig(Error, ValueError):
    """The configuration is wrong."""

    kind = "invalid_config"


class InvalidModel(Error):
    """A model folder or checkpoint is incomplete, damaged or inconsistent."""

    kind = "invalid_model"


class Unsupported(Error):
    """The input is well-formed, but this version can't handle it."""

    kind = "unsupported"


class ContextLength(Error, ValueError):
    """A prompt is longer than the model's context."""

    kind = "context_length"


class ModelOutput(Error):
    """A model, a metric or a callback failed or gave an unusable result."""

    kind = "model_output"


class FileError(Error):
    """A file could not be read or written."""

    kind = "io"


class RuntimeMissing(Error):
    """ONNX Runtime was not found or failed."""

    kind = "runtime"


class MemoryBudget(Error):
    """The key-value cache can't hold the request."""

    kind = "memory_budget"


class Cancelled(Error):
    """The caller cancelled the request."""

    kind = "cancelled"


class DeadlineExceeded(Error):
    """The timeout passed before there was a result."""

    kind = "deadline_exceeded"


class Overloaded(Error):
    """The queue is full. Try again later, or use `Engine.rank_many`, which waits for places."""

    kind = "overloaded"


class Closed(Error):
    """The engine is closed."""

    kind = "closed"


class Forked(Error):
    """This process is a child, made by `fork()`, of the process that uses the library."""

    kind = "forked"


class Reentrant(Error):
    """A function that waits for an engine was called from a chat model that the engine waits for."""

    kind = "reentrant"


class Internal(Error):
    """A defect in foreturn. Please report it."""


_CLASSES: dict[str, type[Error]] = {kind.kind: kind for kind in Error.__subclasses__()}


def error_of(kind: str, message: str, causes: Sequence[str] = ()) -> Error:
    """The exception for a kind."""
    error = _CLASSES.get(kind, Internal)(message, causes)
    error.kind = kind
    return error
