"""Whole conversations over a file of tasks: data sets, evaluations and sweeps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

from ._callbacks import run_progress
from ._errors import InvalidArgument
from ._native import Arguments, ffi, lib, owned_text
from ._refresh import wait

Path: TypeAlias = str | os.PathLike[str]
OnRunProgress: TypeAlias = Callable[[int, int, int], object]
"""Called with the numbers of finished, failed and all conversations."""
DatasetFormat: TypeAlias = Literal["sft", "dpo", "reward", "collabllm_nested", "collabllm_flat"]
"""What `dataset_export` writes: TRL's conversational formats, or the two forms of collabllm's `MultiturnDataset`."""


class Run:
    """A run, as it was asked for. Numbers that are None have the library's defaults."""

    def __init__(
        self, tasks: Path, folder: Path, configuration: str, seed: int | None, shard: tuple[int, int] | None,
        merge: Sequence[Path], on_progress: OnRunProgress | None, **numbers: int | None,
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
        fields["merge"], fields["merge_count"] = self._arguments.texts([os.fspath(path) for path in merge], "merge")
        try:
            self._options = self._arguments.struct("foreturn_run_options", **fields)
        except (OverflowError, TypeError, ValueError) as error:
            raise InvalidArgument(f"an option of the run is wrong: {error}") from error
        self._calls: list[Any] = [on_progress]
        if on_progress is not None:
            self._options.on_progress = run_progress
            self._options.user_data = self._arguments.keep(ffi.new_handle(self._calls))

    def build(self, engine: Any, retry_failed: bool, parquet: bool) -> dict[str, Any]:
        """Builds a data set, and waits. An exception that comes meanwhile cancels it."""
        self._options.parquet = parquet
        return self._wait(retry_failed, lambda: owned_text(lib.foreturn_dataset_build, engine, self._options))

    def evaluate(self, engines: list[Any], names: list[str], retry_failed: bool) -> dict[str, Any]:
        """Evaluates policies, and waits."""
        handles = self._arguments.keep(ffi.new("foreturn_engine *[]", engines))
        texts, count = self._arguments.texts(names, "names")
        return self._wait(
            retry_failed, lambda: owned_text(lib.foreturn_evaluate, handles, texts, count, self._options)
        )

    def sweep(self, engine: Any, kinds: list[str], simulators: list[Any], retry_failed: bool) -> dict[str, Any]:
        """Compares kinds of reward, and waits."""
        names, count = self._arguments.texts(kinds, "kinds")
        others = self._arguments.keep(ffi.new("foreturn_engine *[]", simulators))
        return self._wait(
            retry_failed, lambda: owned_text(lib.foreturn_sweep, engine, names, others, count, self._options)
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


def dataset_export(
    folder: Path, to: Path, format: DatasetFormat, *, minimum_gap: float = 0.0, minimum_probability: float | None = None
) -> dict[str, int]:
    """Writes a data set that was built, in a format that trainers read.

    Args:
        folder: the folder of `Engine.dataset_build`, or its `dataset.jsonl`.
        to: the file to write: Parquet if its name ends with `.parquet`, otherwise JSON Lines. `datasets.load_dataset` reads
            both.
        format: `"sft"`: the last turn of each conversation with its best response, as `messages`. `"dpo"`: the best response
            of each turn against the worst, as `prompt`, `chosen` and `rejected`. `"reward"`: the same with `margin`, the
            difference of their rewards. `"collabllm_nested"` and `"collabllm_flat"`: as collabllm's `MultiturnDataset`.
        minimum_gap: for pairs: the least difference of their rewards.
        minimum_probability: for pairs: the least probability that the better response is better, in [0.5, 1].

    Returns:
        The numbers of `conversations`, `rows`, and turns that gave no pair (`left_out`).

    Raises:
        InvalidRequest: a number is out of range.
        FileError: a file can't be read or written.
    """
    formats = get_args(DatasetFormat)
    if format not in formats:
        raise InvalidArgument(f"format is {format!r}: it is one of {', '.join(formats)}")
    arguments = Arguments()
    texts = [arguments.text(os.fspath(path), name) for name, path in (("folder", folder), ("to", to))]
    number = getattr(lib, f"FORETURN_DATASET_{format.upper()}")
    written: dict[str, int] = json.loads(
        owned_text(lib.foreturn_dataset_export, *texts, number, minimum_gap, minimum_probability or 0.0)
    )
    return written
