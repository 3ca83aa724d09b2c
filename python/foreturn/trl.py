"""Rewards for TRL's trainers: GRPO, RLOO, online DPO, asynchronous GRPO, and whatever else speaks their protocol.

    from foreturn.trl import MultiturnReward

    reward = MultiturnReward("foreturn.toml", goal="goal", samples=4, refresh="policy")
    trainer = GRPOTrainer(model, reward_funcs=reward, callbacks=[reward.callback()], …)

docs/training.md of the project has a whole program. This module imports no framework.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from . import _rewards
from ._engine import Engine
from ._errors import InvalidArgument, ModelOutput
from ._rewards import EngineLike, Outcome, PolicyLike, Rewarder, Row
from ._server import Server
from ._trl_weights import Follower

GoalLike: TypeAlias = str | Callable[[dict[str, Any]], Mapping[str, Any] | str | None]
"""The column that holds the goal, or a function of a row: its prompt, its completion and its columns."""
OnFailure: TypeAlias = Literal["auto", "none", "raise"]

_log = logging.getLogger("foreturn")


class MultiturnReward:
    """The multiturn-aware reward as a reward function of TRL. Pass it to a trainer as one of `reward_funcs`.

    Each completion is ranked alone, with random draws that come from its prompt. So its reward does not depend on the
    batch, its place there, or the process, and a group that several processes share gets the rewards of one process.

    Prompts are conversational or plain: a plain prompt is what the user says. Completions are taken as text, also where
    the trainer gives their tokens, because futures continue a conversation of texts.

    It pickles if what it was given does, and opens its engine at the first use in each process.
    """

    def __init__(
        self,
        engine: EngineLike,
        goal: GoalLike | None = None,
        *,
        samples: int | None = None,
        window: int | None = None,
        seed: int = 0,
        policy: PolicyLike | None = None,
        refresh: str | None = None,
        shared: bool = False,
        empty: float | None = None,
        on_failure: OnFailure = "auto",
        timeout: float | None = None,
        priority: int = 0,
        name: str = "multiturn",
        **options: Any,
    ) -> None:
        """
        Args:
            engine: the path of a `foreturn.toml`, a dict with its keys, the address of a `foreturn serve`, a `Server`, or an
                engine (which does not pickle).
            goal: the column of the dataset that holds the user's goal, or a function of a row. A goal is a dict with the
                fields of a request's goal, or a text: the user's full request. Rows where it is None have no goal.
            samples: futures for each completion, 1 to 1024; the configuration's if None.
            window: turns to sample ahead, 0 to 32; the configuration's if None.
            seed: makes other random draws.
            policy: who plays the policy in the futures: a model's name, or a function that replies to a batch of requests
                (`ChatModel`). The configuration's if None.
            refresh: the model of the engine that gets the trainer's weights whenever the trainer has made a step. Its
                `callback` then has to be among the trainer's callbacks.
            shared: allows this to change a model that plays several roles, in all of them.
            empty: the reward of a completion without text, which can't be ranked. If None, that is a failure.
            on_failure: `"none"`: a completion whose ranking failed gets None. `"raise"`: its error is raised. `"auto"`: None
                where the trainer leaves such completions out (GRPO, RLOO), the error where it would count them as 0
                (online DPO).
            timeout: seconds for each ranking.
            priority: higher goes first.
            name: the name in the trainer's logs.
            options: further arguments of `Engine`, such as `metrics`.
        """
        if on_failure not in ("auto", "none", "raise"):
            raise InvalidArgument(f'on_failure is {on_failure!r}: it is "auto", "none" or "raise"')
        self._rewarder = Rewarder(
            engine, policy=policy, samples=samples, window=window, seed=seed, empty=empty, timeout=timeout,
            priority=priority, **options,
        )
        self._goal, self._on_failure = goal, on_failure
        if refresh is not None and isinstance(self._rewarder.given(), Server):
            raise InvalidArgument(
                "refresh: a server does not get the trainer's weights. Export them (`foreturn.transformers.ExportCallback`) "
                "to a folder that the server sees, and call `Server.refresh`"
            )
        self._follower = Follower(refresh, shared)
        self.__name__ = name

    @property
    def engine(self) -> Engine | Server:
        """The engine of this process, or the server. The first use makes it."""
        return self._rewarder.open()

    def close(self) -> None:
        """Closes the engine, if this made it."""
        self._rewarder.close()

    def callback(self) -> Any:
        """A `TrainerCallback` that tells this where the trainer's model is. It is for `callbacks` of one trainer.

        Raises:
            ImportError: transformers is not installed.
        """
        return self._follower.callback()

    def weight_transfer(self, inner: Any) -> Any:
        """What AsyncGRPOTrainer sends weights to, so that the reward in its child process gets them as well.

            trainer.weight_transfer = reward.weight_transfer(trainer.weight_transfer)

        Args:
            inner: the trainer's own, to which everything is passed on.
        """
        return self._follower.transfer(inner)

    def refresh(self) -> None:
        """Gives the engine the trainer's weights now, if the trainer has made a step. Calls of the reward do it, too.

        Raises:
            InvalidArgument: there is no `refresh` model, or its trainer is not known.
            Error: the weights do not fit the engine's model, or are not finite. The old ones stay.
        """
        self._follower.check_named()
        self._follower.follow(self.engine, None)

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """The rewards of a batch, as TRL calls it.

        Args:
            prompts: texts or lists of messages.
            completions: texts or lists of messages, as many as there are prompts.
            columns: the other columns of the dataset, and `completion_ids`, `trainer_state`, `log_metric` and the like.
        """
        rows = self._rows(prompts, completions, columns)
        self._follower.follow(self.engine, columns.get("trainer_state"))
        return self._answer(self._rewarder.rewards(rows), columns)

    def _rows(self, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]) -> list[Row]:
        if len(prompts) != len(completions):
            raise InvalidArgument(f"there are {len(prompts)} prompts and {len(completions)} completions: give as many")
        return [
            self._row(at, prompt, completion, columns)
            for at, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]

    def _row(self, at: int, prompt: Any, completion: Any, columns: Mapping[str, Any]) -> Row:
        goal = _rewards.goal_of(self._goal_at(at, prompt, completion, columns), f"the goal of row {at}")
        return _rewards.row_of(prompt, completion, goal, f"prompts[{at}]", f"completions[{at}]")

    def _goal_at(self, at: int, prompt: Any, completion: Any, columns: Mapping[str, Any]) -> Any:
        if self._goal is None:
            return None
        if isinstance(self._goal, str):
            if self._goal not in columns:
                there = ", ".join(sorted(name for name, column in columns.items() if isinstance(column, list))) or "none"
                raise InvalidArgument(f"the goal's column {self._goal!r} is not in the dataset: its columns are {there}")
            return columns[self._goal][at]
        row = {name: column[at] for name, column in columns.items() if isinstance(column, list) and at < len(column)}
        return self._goal(row | {"prompt": prompt, "completion": completion})

    def _answer(self, outcomes: Sequence[Outcome], columns: Mapping[str, Any]) -> list[float | None]:
        failed = [(at, outcome.error) for at, outcome in enumerate(outcomes) if outcome.error is not None]
        if log_metric := columns.get("log_metric"):
            self._log(log_metric, outcomes, len(failed))
        if failed and not self._forgives(columns):
            at, error = failed[0]
            raise ModelOutput(f"completion {at} has no reward, and the trainer would count it as 0: {error}") from error
        for at, error in failed:
            _log.warning("completion %d has no reward: %s", at, error)
        return [outcome.reward for outcome in outcomes]

    def _forgives(self, columns: Mapping[str, Any]) -> bool:
        """Whether None is left out by whoever calls. Trainers that pass their state but no `log_metric` sum it as 0."""
        if self._on_failure != "auto":
            return self._on_failure == "none"
        return "log_metric" in columns or "trainer_state" not in columns

    def _log(self, log_metric: Callable[[str, float], object], outcomes: Sequence[Outcome], failed: int) -> None:
        errors = [outcome.std_error for outcome in outcomes if outcome.std_error is not None]
        if errors:
            log_metric(f"{self.__name__}/std_error", math.fsum(errors) / len(errors))
        log_metric(f"{self.__name__}/tokens", float(sum(outcome.tokens for outcome in outcomes)))
        log_metric(f"{self.__name__}/failed", failed / max(1, len(outcomes)))
        log_metric(f"{self.__name__}/excluded", math.fsum(outcome.excluded for outcome in outcomes) / max(1, len(outcomes)))
        log_metric(f"{self.__name__}/version", float(self._follower.step))


class AsyncMultiturnReward(MultiturnReward):
    """As `MultiturnReward`, but a coroutine function. Trainers run those of several rewards at once."""

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """As `MultiturnReward.__call__`, on the trainer's event loop."""
        rows = self._rows(prompts, completions, columns)
        engine = await asyncio.to_thread(self._rewarder.open)
        await asyncio.to_thread(self._follower.follow, engine, columns.get("trainer_state"))
        return self._answer(await self._rewarder.rewards_async(rows), columns)


@functools.cache
def configured() -> MultiturnReward:
    """The reward that `reward` uses. The first call makes it from the environment."""
    return MultiturnReward(**_rewards.from_environment("goal", "refresh", "on_failure"))


def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """A reward function by name, for trainers that are configured by a file. The environment configures it:

    FORETURN_CONFIG is the path of a `foreturn.toml`. FORETURN_GOAL, FORETURN_SAMPLES, FORETURN_WINDOW, FORETURN_SEED,
    FORETURN_POLICY, FORETURN_REFRESH, FORETURN_EMPTY, FORETURN_ON_FAILURE and FORETURN_TIMEOUT are the arguments of
    `MultiturnReward`.
    """
    return configured()(prompts, completions, **columns)
