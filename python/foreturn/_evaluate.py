"""Policies compared over a file of tasks, and kinds of reward compared on the same conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._engine import Engine
from ._native import ffi
from ._runs import OnRunProgress, Path, Run


def evaluate(
    policies: Mapping[str, Engine], tasks: Path, folder: Path, *, turns: int | None = None,
    samples: int | None = None, concurrency: int | None = None, seed: int | None = None, max_tokens: int | None = None,
    shard: tuple[int, int] | None = None, merge: Sequence[Path] = (), configuration: str = "",
    retry_failed: bool = False, on_progress: OnRunProgress | None = None,
) -> dict[str, Any]:
    """Holds conversations about tasks between policies and the simulated user, and compares the policies. It waits.

    The folder then has the files that docs/evaluation.md of the project describes. What is there goes on.

    Args:
        policies: by name, engines whose policy is evaluated. An engine may stand for several names.
        tasks: JSON Lines of `{"id", "prompt", "reference", "metadata"}`.
        folder: the folder to write to.
        turns: most turns of the policy in a conversation; 5 if None.
        samples: conversations about each task with each policy; 1 if None.
        concurrency: conversations at the same time; 8 if None.
        seed: decides all random draws; 0 if None.
        max_tokens: no conversation begins that would probably take the run beyond so many tokens.
        shard: the number of the part of the tasks to take, from 1, and how many there are.
        merge: folders of other runs with the same settings, such as shards. Their conversations are taken over first.
        configuration: a hash or version of the configuration. A folder that was begun with another one is refused.
        retry_failed: holds conversations again that failed.
        on_progress: as in `Engine.dataset_build`.

    Returns:
        The content of `evaluation.json`: columns by policy, and differences between policies.
    """
    run = Run(
        tasks, folder, configuration, seed, shard, merge, on_progress,
        turns=turns, samples=samples, concurrency=concurrency, max_tokens=max_tokens,
    )
    return run.evaluate([engine._open() for engine in policies.values()], list(policies), retry_failed)


def sweep(
    engine: Engine, tasks: Path, folder: Path, *, kinds: Sequence[str] | Mapping[str, Engine | None] = (),
    candidates: int | None = None, samples: int | None = None, turns: int | None = None, concurrency: int | None = None,
    seed: int | None = None, max_tokens: int | None = None, shard: tuple[int, int] | None = None,
    merge: Sequence[Path] = (), configuration: str = "", retry_failed: bool = False,
    on_progress: OnRunProgress | None = None,
) -> dict[str, Any]:
    """Compares kinds of reward on the same conversations about tasks. It waits.

    The folder then has the files that docs/evaluation.md of the project describes. What is there goes on.

    Args:
        engine: its policy writes the responses, and its simulated user and metrics value them.
        tasks: JSON Lines of `{"id", "prompt", "reference", "metadata"}`.
        folder: the folder to write to.
        kinds: such as `"w=2"`, `"returns=0.9"`, `"preference=judge"` or `"w=2,metrics=accuracy,samples=1"`; windows up to 3,
            returns and preferences if empty. One with `user` or `style` has a simulator of its own: give a dict, in which it
            has the engine where that simulator plays the user, and the others None.
        candidates: responses to each task; 4 if None.
        samples: conversations from each response; 4 if None.
        turns: most turns of the policy in a conversation, with the response; 4 if None.
        concurrency: conversations at the same time; 8 if None.
        seed: decides all random draws; 0 if None.
        max_tokens: no conversation begins that would probably take the run beyond so many tokens.
        shard: the number of the part of the tasks to take, from 1, and how many there are.
        merge: folders of other runs with the same settings, such as shards. Their conversations are taken over first.
        configuration: a hash or version of the configuration. A folder that was begun with another one is refused.
        retry_failed: holds conversations again that failed.
        on_progress: as in `Engine.dataset_build`.

    Returns:
        The content of `sweep.json`: what each kind chose, and how kinds differ.
    """
    run = Run(
        tasks, folder, configuration, seed, shard, merge, on_progress,
        candidates=candidates, samples=samples, turns=turns, concurrency=concurrency, max_tokens=max_tokens,
    )
    simulators = kinds.values() if isinstance(kinds, Mapping) else [None] * len(kinds)
    others = [ffi.NULL if other is None else other._open() for other in simulators]
    return run.sweep(engine._open(), list(kinds), others, retry_failed)
