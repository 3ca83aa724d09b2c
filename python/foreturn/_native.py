"""The library: libforeturn, its functions, and what passes between it and Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from ._bindings import ffi as ffi
from ._errors import Error, error_of

_NAME = "libforeturn.dylib" if sys.platform == "darwin" else "libforeturn.so"
# The only state of the package. Loading it starts nothing: threads begin with the first engine.
lib: Any = ffi.dlopen(str(Path(__file__).with_name(_NAME)))

_KINDS: dict[int, str] = {
    number: name.removeprefix("FORETURN_ERROR_").lower()
    for name, number in ffi.typeof("enum foreturn_status").relements.items()
}


def read(text: Any) -> str:
    """The text of a `foreturn_str`."""
    return bytes(ffi.buffer(text.data, text.size)).decode() if text.size else ""


def failure(status: int, error: Any = ffi.NULL) -> Error:
    """The exception for a status. `error` is the library's error object, which is freed."""
    kind = _KINDS.get(status, "internal")
    if error == ffi.NULL:
        return error_of(kind, _WITHOUT_OBJECT.get(kind, f"foreturn failed with status {status}"))
    try:
        causes = [read(lib.foreturn_error_cause(error, at)) for at in range(lib.foreturn_error_cause_count(error))]
        return error_of(kind, read(lib.foreturn_error_message(error)), causes)
    finally:
        lib.foreturn_error_free(error)


_WITHOUT_OBJECT = {
    # The library makes no objects in a child, so the words are ours.
    "forked": "this process is a child, made by fork(), of a process that uses foreturn: use it in only one of them. "
    "Fork before its first use, or start workers with multiprocessing's method `spawn` or `forkserver`",
}


def call(function: Any, *arguments: Any) -> None:
    """Calls a function whose last parameter takes an error object.

    Raises:
        Error: the library's failure, of the class for its kind.
    """
    error = ffi.new("foreturn_error **")
    status = function(*arguments, error)
    if status != lib.FORETURN_OK:
        raise failure(status, error[0])


def callback(kind: str, error: int | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function that the library can call. `error` is returned if an exception leaves it."""
    return cast("Callable[[Callable[..., Any]], Any]", ffi.callback(kind, error=error))


def handle_of(function: Any, kind: str, *arguments: Any) -> Any:
    """Calls a function that gives out a handle of the type `kind`."""
    out = ffi.new(f"{kind} **")
    try:
        call(function, *arguments, out)
    except BaseException:
        # An interrupt that came during the call shows after it. Then the handle is there, and nobody gets it.
        if kind == "foreturn_pending":
            lib.foreturn_pending_cancel(out[0], ffi.NULL)
        getattr(lib, f"{kind}_free")(out[0])
        raise
    return out[0]


def owned_text(function: Any, *arguments: Any) -> str:
    """Calls a function that gives out a `foreturn_string`, and takes its text."""
    string = handle_of(function, "foreturn_string", *arguments)
    try:
        text = ffi.new("foreturn_str *")
        call(lib.foreturn_string_read, string, text)
        return read(text)
    finally:
        lib.foreturn_string_free(string)


class Arguments:
    """Makes what the library reads during a call, and keeps it alive as long as this object."""

    def __init__(self) -> None:
        self._alive: list[Any] = []

    def keep(self, value: Any) -> Any:
        """Keeps something else that the library reads."""
        self._alive.append(value)
        return value

    def text(self, text: str, what: str) -> Any:
        """A `foreturn_str`. `what` names the text in the error that it is no text.

        Raises:
            InvalidArgument: not a string, or one with a lone surrogate, which UTF-8 can't express.
        """
        if not isinstance(text, str):
            raise error_of("invalid_argument", f"{what} is {text!r}: it has to be a text")
        try:
            data = self.keep(ffi.from_buffer(text.encode()))
        except UnicodeEncodeError as error:
            message = f"{what} has a lone surrogate at character {error.start}, which is not text: remove it"
            raise error_of("invalid_argument", message) from error
        return self.keep(ffi.new("foreturn_str *", {"data": data, "size": len(data)}))[0]

    def texts(self, texts: Iterable[str], what: str) -> tuple[Any, int]:
        """An array of `foreturn_str`, and its length."""
        made = [self.text(text, f"{what}[{at}]") for at, text in enumerate(texts)]
        return self.keep(ffi.new("foreturn_str[]", made)), len(made)

    def struct(self, kind: str, **fields: Any) -> Any:
        """A struct that begins with its size."""
        made = self.keep(ffi.new(f"{kind} *"))
        made.size = ffi.sizeof(kind)
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    def array(self, kind: str, items: Sequence[Any]) -> Any:
        """An array of numbers, or of copies of structs.

        Raises:
            InvalidArgument: a number that is not of the type.
        """
        try:
            return self.keep(ffi.new(f"{kind}[]", [item[0] if _is_pointer(item) else item for item in items]))
        except (OverflowError, TypeError) as error:
            raise error_of("invalid_argument", f"a list of {kind} is wrong: {error}") from error


def _is_pointer(item: Any) -> bool:
    return isinstance(item, ffi.CData) and ffi.typeof(item).kind == "pointer"


call(lib.foreturn_abi_check, lib.FORETURN_ABI_VERSION)
version: str = read(lib.foreturn_version())
