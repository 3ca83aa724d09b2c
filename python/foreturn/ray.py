"""foreturn on a Ray cluster: rewards of a Ray data set, engines as actors, data sets and evaluations over shards.

    import foreturn.ray

    rewarded = foreturn.ray.rewards(dataset, "foreturn.toml", workers=4, num_gpus=0.25, log="/shared/rewards")
    foreturn.ray.dataset_build("foreturn.toml", "tasks.jsonl", "/shared/built", shards=8, candidates=4)

Ray spreads the work and starts it again where a worker ends. What is finished is in logs of our own, so nothing is computed
twice and no row is there twice. docs/scale.md of the project is the guide. Ray is imported when something here is used.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _command, _rewards
from ._engine import Engine, RankRequestLike
from ._errors import InvalidArgument, InvalidConfig, InvalidRequest
from ._reward_log import RewardLog
from ._rewards import EngineLike, Outcome, Rewarder, Row
from ._results import Generation, LogProbs, Ranking, Score, Statistics
from ._server import Server

if TYPE_CHECKING:
    EngineActor: Any
    """An engine as an actor of Ray. `EngineActor.options(num_cpus=2, num_gpus=0.25).remote("foreturn.toml")` starts one, and
    `ray.get(actor.rank.remote(request))` asks it; the methods are those of `Engine`. See `_Actor`."""

_ROW = "row 0 of the batch: "
_ADDED = ("reward", "std_error", "tokens", "error")
_RESERVED = ("config", "tasks", "to", "shard", "merge", "json", "estimate")


class Rewards:
    """The multiturn-aware reward of each row, for `map_batches` of a Ray data set: one engine in each worker.

        dataset.map_batches(
            foreturn.ray.Rewards, fn_constructor_kwargs={"engine": "foreturn.toml", "goal": "goal"}, batch_size=64,
            compute=ray.data.ActorPoolStrategy(size=4), num_cpus=1, num_gpus=0.25,
        )

    It adds the columns `reward` and `std_error` (NaN where unknown), `tokens`, and `error` (empty where there is a reward). All
    other columns stay, so a row keeps its key. A row that makes no sense, or whose ranking failed, has its reason in `error`,
    and the others go on. Each row is ranked alone, with random draws that come from its prompt: its reward does not depend on
    the batch or the worker.
    """

    def __init__(
        self,
        engine: EngineLike,
        *,
        prompt: str = "prompt",
        completion: str = "completion",
        goal: str | None = None,
        log: str | os.PathLike[str] | None = None,
        concurrency: int = 64,
        **arguments: Any,
    ) -> None:
        """
        Args:
            engine: the path of a `foreturn.toml` that all workers see, a dict with its keys, or the address of a server that
                all of them share. Where the configuration has no `threads`, an engine takes as many as its worker has
                processors.
            prompt: the column of the conversations: texts, or lists of messages.
            completion: the column of the responses: texts, or lists of messages.
            goal: the column of the goals: dicts, texts, or None.
            log: a folder that all workers see, where each reward is noted at once. A job that begins again, or a batch that is
                retried, takes from there what is known. A reward counts as known if its row and the configuration are the
                same. A server's configuration, weights under an old path, and functions are not looked at: give each a folder.
            concurrency: rows that are under way at once in a worker.
            arguments: those of `foreturn.trl.MultiturnReward` that are no functions of the trainer: `samples`, `window`, `seed`,
                `policy`, `empty`, `timeout`, `priority`; and those of `Engine`, such as `metrics`.
        """
        if concurrency < 1:
            raise InvalidArgument(f"concurrency is {concurrency}: at least one row has to be under way")
        self._given = _fingerprint(engine, arguments) if log is not None else ""
        self._rewarder = Rewarder(engine, **_threads(engine) | arguments)
        # Mistakes show when the worker starts, and models load before the first batch.
        self._rewarder.open()
        self._columns = (prompt, completion, goal)
        self._log = None if log is None else RewardLog(log)
        self._pool = ThreadPoolExecutor(concurrency, "foreturn-ray")

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with its rewards. Batches are dicts of columns of equal length (`batch_format="numpy"`).

        Raises:
            InvalidArgument: a column is missing, or there already.
            FileError: a server can't be reached, or the log can't be written.
        """
        import numpy

        if self._log is not None:
            self._log.update()
        outcomes = list(self._pool.map(self._one, self._rows(batch)))
        nan = float("nan")
        numbers = {
            "reward": [nan if outcome.reward is None else outcome.reward for outcome in outcomes],
            "std_error": [nan if outcome.std_error is None else outcome.std_error for outcome in outcomes],
        }
        made = {name: numpy.array(column, dtype=numpy.float64) for name, column in numbers.items()}
        made["tokens"] = numpy.array([outcome.tokens for outcome in outcomes], dtype=numpy.int64)
        made["error"] = numpy.array([_reason(outcome) for outcome in outcomes], dtype=object)
        return {**batch, **made}

    def _rows(self, batch: Mapping[str, Any]) -> list[tuple[Any, Any, Any]]:
        missing = [name for name in self._columns if name is not None and name not in batch]
        if missing:
            raise InvalidArgument(f"there is no column {missing[0]!r}: the data set has {', '.join(sorted(batch)) or 'none'}")
        taken = next((name for name in _ADDED if name in batch), None)
        if taken is not None:
            raise InvalidArgument(f"there is a column {taken!r} already, which would be replaced: rename it first")
        prompt, completion, goal = self._columns
        prompts, completions = batch[prompt or ""], batch[completion or ""]
        goals = [None] * len(prompts) if goal is None else batch[goal]
        return list(zip(prompts, completions, goals, strict=True))

    def _one(self, given: tuple[Any, Any, Any]) -> Outcome:
        prompt, completion, goal = given
        try:
            row = _rewards.row_of(prompt, completion, _rewards.goal_of(goal, "the goal"), "the prompt", "the completion")
            return self._outcome(row)
        except (InvalidRequest, InvalidArgument) as error:
            return Outcome(None, error=error)

    def _outcome(self, row: Row) -> Outcome:
        if self._log is None:
            return self._rewarder.rewards([row])[0]
        asked = json.dumps([self._given, self._rewarder.request(row)], sort_keys=True)
        key = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()
        known = self._log.get(key)
        if known is None:
            known = self._rewarder.rewards([row])[0]
            self._log.put(key, known)
        return known


def rewards(
    dataset: Any,
    engine: EngineLike,
    *,
    workers: int | tuple[int, int] = 1,
    batch_size: int = 64,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **arguments: Any,
) -> Any:
    """A Ray data set with the rewards of its rows: `dataset.map_batches(Rewards, …)`.

    Args:
        dataset: a `ray.data.Dataset` with a column of prompts and one of completions.
        engine: what `Rewards` takes.
        workers: engines, or the least and the most of them.
        batch_size: rows in a batch. A worker that ends loses at most those of its batch that are not in the log.
        num_cpus: processors of a worker.
        num_gpus: GPUs of a worker; 0.25 lets four share one. Ray shows each worker the device that it was given. Memory is for
            the configuration to divide (`gpu_mem_limit` among the provider's options).
        arguments: those of `Rewards`.

    Raises:
        ImportError: Ray is not installed.
    """
    from_ray = _ray("rewards").data
    least, most = (workers, workers) if isinstance(workers, int) else workers
    return dataset.map_batches(
        Rewards, fn_constructor_kwargs={"engine": engine, **arguments}, batch_size=batch_size, batch_format="numpy",
        compute=from_ray.ActorPoolStrategy(min_size=least, max_size=most), num_cpus=num_cpus, num_gpus=num_gpus or None,
    )


def dataset_build(
    config: str | os.PathLike[str],
    tasks: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    shards: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
    retries: int = 10,
    **options: Any,
) -> dict[str, Any]:
    """Builds a data set by `foreturn dataset build --shard I/N` in workers of the cluster, merges the shards, and waits.

    A worker that ends is started again, and goes on with the journal in its folder. The same call goes on after the whole
    cluster was ended. The result has the rows of a build in one process, to the last bit where models are local.

    Args:
        config: the path of a `foreturn.toml`; it, the tasks and the folder are seen by all workers.
        tasks: JSON Lines of tasks.
        folder: where the data set is written; the shards are below it, in `shards`.
        shards: parts of the tasks, each with engines of its own. Keep their number when a build goes on.
        num_cpus: processors of a shard. Give its engine as many, by `threads` in `[runtime]`.
        num_gpus: GPUs of a shard, such as 0.25.
        retries: how often a shard whose worker ended is begun again.
        options: those of the command, such as `candidates=4`, `turns=4`, `seed=1`, `max_tokens=…` (for each shard),
            `price=["big=0.15/0.6"]`, `retry_failed=True`.

    Returns:
        The summary of the merged data set, as `foreturn dataset merge --json` prints it.

    Raises:
        ImportError: Ray is not installed.
        Error: what the command said.
    """
    run = _Sharded(["dataset", "build"], config, tasks, folder, shards, options, num_cpus, num_gpus, retries)
    made = run.shards()
    return run.last(["dataset", "merge", "--tasks", run.tasks, "--to", run.folder, *made])


def evaluate(
    config: str | os.PathLike[str],
    tasks: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    shards: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
    retries: int = 10,
    **options: Any,
) -> dict[str, Any]:
    """Evaluates policies by `foreturn evaluate --shard I/N` in workers of the cluster, merges the shards, and waits.

    Args:
        config, tasks, folder, shards, num_cpus, num_gpus, retries: as in `dataset_build`.
        options: those of the command, such as `policy=["small", "careful=small"]`, `system=["careful=ask.txt"]`, `turns=5`,
            `samples=2`.

    Returns:
        The content of `evaluation.json`: columns by policy, and differences between policies.

    Raises:
        ImportError: Ray is not installed.
        Error: what the command said.
    """
    run = _Sharded(["evaluate"], config, tasks, folder, shards, options, num_cpus, num_gpus, retries)
    merged = [part for shard in run.shards() for part in ("--merge", shard)]
    return run.last([*run.begin(run.folder), *merged])


class _Sharded:
    """A command over shards."""

    def __init__(
        self, command: Sequence[str], config: str | os.PathLike[str], tasks: str | os.PathLike[str],
        folder: str | os.PathLike[str], shards: int, options: Mapping[str, Any], num_cpus: float, num_gpus: float, retries: int,
    ) -> None:
        if shards < 1:
            raise InvalidArgument(f"shards is {shards}: there is at least one")
        wrong = next((name for name in options if name in _RESERVED), None)
        if wrong is not None:
            raise InvalidArgument(f"{wrong} can't be given: it is decided here, or makes no sense over shards")
        self._ray = _ray(command[-1] if len(command) == 1 else f"{command[0]}_{command[1]}")
        # Workers have other working directories.
        self.config, self.tasks, self.folder = (os.path.abspath(os.fspath(path)) for path in (config, tasks, folder))
        self._command, self._count, self._options = list(command), shards, _command.flags(options)
        self._remote = self._ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries)(_command.run)

    def begin(self, folder: str) -> list[str]:
        return [*self._command, "--config", self.config, "--tasks", self.tasks, "--to", folder, *self._options]

    def shards(self) -> list[str]:
        """Runs them. Returns their folders."""
        folders = [str(Path(self.folder, "shards", f"{number}-of-{self._count}")) for number in range(1, self._count + 1)]
        for folder in folders:
            Path(folder).parent.mkdir(parents=True, exist_ok=True)
        self._get([
            self._remote.remote([*self.begin(folder), "--shard", f"{number}/{self._count}"])
            for number, folder in enumerate(folders, 1)
        ])
        return folders

    def last(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Runs the command that puts them together."""
        (made,) = self._get([self._remote.remote(list(arguments))])
        return dict(made)

    def _get(self, under_way: list[Any]) -> list[Any]:
        """Waits for all. Where one fails, the others go on to their end, because nothing of their work is lost."""
        try:
            self._ray.wait(under_way, num_returns=len(under_way), fetch_local=False)
        except BaseException:
            # An interrupt. Those under way write what is finished. Ray 2.60 can abort where a finished one is cancelled.
            _, left = self._ray.wait(under_way, num_returns=len(under_way), timeout=0, fetch_local=False)
            for each in left:
                self._ray.cancel(each)
            raise
        return list(self._ray.get(under_way))


class _Actor:
    """An engine in a process of its own. Requests that several callers send share it, as threads share an engine.

    A process that ends is started again, and what it was asked is asked again: the same request has the same answer. So it has
    no `refresh`: an engine that is started again would have the old weights. Start new actors, or share a `Server`.
    """

    def __init__(self, engine: str | os.PathLike[str] | Mapping[str, Any], **options: Any) -> None:
        """
        Args:
            engine: the path of a `foreturn.toml` that the worker sees, or a dict with its keys.
            options: further arguments of `Engine`.
        """
        self._engine = Engine(engine, **_threads(engine) | options)

    def rank(self, request: RankRequestLike, **limits: Any) -> Ranking:
        """See `Engine.rank`."""
        return self._engine.rank(request, **limits)

    def rank_many(self, requests: Sequence[RankRequestLike], on_error: Any = "raise", **limits: Any) -> list[Any]:
        """See `Engine.rank_many`."""
        made: list[Any] = self._engine.rank_many(requests, on_error, **limits)
        return made

    def rescore(self, request: RankRequestLike, ranking: Ranking | Mapping[str, Any], **limits: Any) -> Ranking:
        """See `Engine.rescore`."""
        return self._engine.rescore(request, ranking, **limits)

    def score(self, model: str, inputs: Any, **options: Any) -> Score | list[Score]:
        """See `Engine.score`."""
        made: Score | list[Score] = self._engine.score(model, inputs, **options)
        return made

    def embed(self, model: str, texts: Any, **limits: Any) -> Any:
        """See `Engine.embed`."""
        return self._engine.embed(model, texts, **limits)

    def generate(self, model: str, messages: Any, **options: Any) -> Generation:
        """See `Engine.generate`."""
        return self._engine.generate(model, messages, **options)

    def logprobs(self, model: str, messages: Any = None, **options: Any) -> LogProbs:
        """See `Engine.logprobs`."""
        return self._engine.logprobs(model, messages, **options)

    def statistics(self) -> Statistics:
        """See `Engine.statistics`."""
        return self._engine.statistics()


def __getattr__(name: str) -> Any:
    if name == "EngineActor":
        return _actor()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _actor() -> Any:
    # As many callers at once as an engine runs rankings at once, and those that wait behind them.
    return _ray("EngineActor").remote(max_restarts=-1, max_task_retries=-1, max_concurrency=64)(_Actor)


def _ray(what: str) -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(_rewards.install("ray[data]", f"foreturn.ray.{what}")) from error
    return ray


def _reason(outcome: Outcome) -> str:
    return "" if outcome.error is None else outcome.error.message.removeprefix(_ROW)


def _is_server(engine: EngineLike) -> bool:
    return isinstance(engine, Server) or (isinstance(engine, str) and engine.startswith(("http://", "https://", "unix:")))


def _threads(engine: EngineLike) -> dict[str, Any]:
    """The threads of an engine whose configuration does not say how many there are: the processors that Ray gave its worker."""
    if _is_server(engine) or isinstance(engine, Engine) or _runtime_of(engine).get("threads") is not None:
        return {}
    try:
        import ray
    except ImportError:
        return {}
    # The driver was given nothing.
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return {}
    return {"threads": max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))}


def _runtime_of(engine: EngineLike) -> Mapping[str, Any]:
    """The section `[runtime]` of a configuration. What can't be read is the engine's to report."""
    try:
        runtime = _rewards.table_of(engine)[0].get("runtime")
    except InvalidConfig:
        return {}
    return runtime if isinstance(runtime, Mapping) else {}


def _fingerprint(engine: EngineLike, arguments: Mapping[str, Any]) -> str:
    """A hash of what rewards depend on beside their row, as far as it can be seen from here."""
    if isinstance(engine, Engine):
        raise InvalidArgument("a log needs the configuration of its engine: pass that, and each worker makes an engine of it")
    table = {"server": True} if _is_server(engine) else dict(_rewards.table_of(engine)[0])
    # How it runs changes no bit.
    table.pop("runtime", None)
    seen = {name: value for name, value in arguments.items() if isinstance(value, (str, int, float, bool))}
    for name in ("timeout", "priority", "threads"):
        seen.pop(name, None)
    return hashlib.sha256(json.dumps([table, seen], sort_keys=True, default=str).encode()).hexdigest()
