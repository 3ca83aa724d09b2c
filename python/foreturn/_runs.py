"""Whole conversations over a file of tasks: data sets and evaluations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeAlias

from ._callbacks import run_progress
from ._errors import InvalidArgument
from ._native import Arguments, ffi, lib, owned_text
from ._refresh import wait

Path: TypeAlias = str | os.PathLike[str]
OnRunProgress: TypeAlias = Callable[[int, int, int], object]
"""Called with the numbers of finished, failed and all conversations."""


class Run:
    """A run, as it was asked for. Numbers that are None have the library's defaults."""

    def __init__(
        self, tasks: Path, folder: Path, configuration: str, seed: int | None, shard: tuple[int, int] | None,
        on_progress: OnRunProgress | None, **numbers: int | None,
    ) -> None:
        self._arguments = Arguments()
        texts = {"tasks_path": os.fspath(tasks), "folder": os.fspath(folder), "configuration": configuration}
        fields: dict[str, Any] = {name: self._arguments.text(text, name) for name, text in texts.items()}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise InvalidArgument(f"{name} is {number}: it is at least 1, or None for the default")
            fields[name] = number or 0
        if seed is not None:
            fields |= {"has_seed": True, "seed": seed}
        if shard is not None:
            fields["shard"], fields["shard_count"] = shard
        try:
            self._options = self._arguments.struct("foreturn_run_options", **fields)
        except (OverflowError, TypeError, ValueError) as error:
            raise InvalidArgument(f"an option of the run is wrong: {error}") from error
        self._calls: list[Any] = [on_progress]
        if on_progress is not None:
            self._options.on_progress = run_progress
            self._options.user_data = self._arguments.keep(ffi.new_handle(self._calls))

    def build(self, engine: Any, retry_failed: bool) -> dict[str, Any]:
        """Builds a data set, and waits. An exception that comes meanwhile cancels it."""
        return self._wait(retry_failed, lambda: owned_text(lib.foreturn_dataset_build, engine, self._options))

    def evaluate(self, engines: list[Any], names: list[str], retry_failed: bool) -> dict[str, Any]:
        """Evaluates policies, and waits."""
        handles = self._arguments.keep(ffi.new("foreturn_engine *[]", engines))
        texts, count = self._arguments.texts(names, "names")
        return self._wait(
            retry_failed, lambda: owned_text(lib.foreturn_evaluate, handles, texts, count, self._options)
        )

    def _wait(self, retry_failed: bool, work: Callable[[], str]) -> dict[str, Any]:
        def within(token: Any) -> str:
            self._options.cancel = token
            return work()

        self._options.retry_failed = retry_failed
        result: dict[str, Any] = json.loads(wait(within))
        if len(self._calls) > 1:
            raise self._calls[1]
        return result
