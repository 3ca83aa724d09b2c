"""The command line as a child of this process."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import _runtime
from ._errors import Cancelled, Error, InvalidArgument

_INTERRUPTED = 130
_PR_SET_PDEATHSIG = 1


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs a command that prints JSON, and waits. It ends when this process does, however that ends.

    Raises:
        InvalidArgument: the command does not know an option.
        Cancelled: it was interrupted; what is finished is written.
        Error: what it said.
    """
    command, environment = _runtime.command()
    with subprocess.Popen(
        [command, *arguments, "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, preexec_fn=_dies_with(os.getpid()),
    ) as child:
        try:
            out, err = child.communicate()
        except BaseException:
            # It writes what is finished.
            child.send_signal(signal.SIGINT)
            raise
    if child.returncode == 0:
        made: dict[str, Any] = json.loads(out)
        return made
    said = err.strip().rpartition("foreturn: ")[2] or f"the command ended with {child.returncode} and said nothing"
    if child.returncode == 2:
        raise InvalidArgument(err.strip())
    raise (Cancelled if child.returncode == _INTERRUPTED else Error)(said)


def _dies_with(parent: int) -> Callable[[], None] | None:
    """Makes a child that is killed with the thread that starts it. (Elsewhere than on Linux it lives on, and the folder that it
    writes to stays locked until it ends.)"""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options as the command line has them: `max_tokens=9` is `--max-tokens 9`, a list repeats its option, and True has no
    value."""
    flags: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif isinstance(value, (list, tuple)):
            flags += [part for each in value for part in (flag, str(each))]
        elif value is not None and value is not False:
            flags += [flag, str(value)]
    return flags
