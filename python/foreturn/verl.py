"""The multiturn-aware reward in verl's reward loop.

A reward manager, which sees the conversation:

    reward.reward_manager.source=importlib reward.reward_manager.name=RewardManager
    reward.reward_manager.module.path=pkg://foreturn.verl
    +reward.reward_kwargs.engine=foreturn.toml +reward.reward_kwargs.samples=3

Or a function, whose `extra_info` has to bring the conversation as `prompt`:

    reward.custom_reward_function.path=pkg://foreturn.verl reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.engine=foreturn.toml

The goal is `extra_info.interaction_kwargs`, as CollabLLM's recipe writes it, or `extra_info.goal`. Arguments that are not
there come from the environment: see `foreturn.trl.reward`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _rewards
from ._errors import InvalidArgument, ModelOutput
from ._rewards import Rewarder, Row

if TYPE_CHECKING:
    RewardManager: type[Any]
    """A reward manager of verl. It is made when it is first asked for, because its base class is verl's."""


@functools.cache
def _configured(arguments: str) -> Rewarder:
    """What computes the rewards in this process, for settings in JSON. Those with equal settings share an engine."""
    given = json.loads(arguments)
    return Rewarder(**(given if "engine" in given else _rewards.from_environment() | given))


def configured(**arguments: Any) -> Rewarder:
    """What computes the rewards in this process. Arguments are those of `Rewarder`; without an engine, the environment's."""
    try:
        return _configured(json.dumps(arguments, sort_keys=True))
    except TypeError as error:
        raise InvalidArgument(f"the reward's arguments can't be used: {error}. They are listed in docs/training.md") from error


async def compute_score(
    data_source: Any, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **arguments: Any
) -> dict[str, float]:
    """The reward of a response, as verl asks a function for it.

    Args:
        data_source: is not used.
        solution_str: the response.
        ground_truth: the goal's reference, if there is one and the goal has none.
        extra_info: has the conversation as `prompt`, and perhaps the goal.
        arguments: `reward_kwargs` of the configuration: the arguments of `foreturn.trl.MultiturnReward` that are no
            functions, `engine` among them.

    Returns:
        `score`, and `std_error` and `tokens`, which verl logs.

    Raises:
        ModelOutput: the response has no reward.
    """
    extra = extra_info or {}
    if extra.get("prompt") is None:
        raise InvalidArgument(
            "extra_info has no `prompt`: compute_score is not shown the conversation otherwise. "
            "The reward manager of foreturn.verl is"
        )
    for name in ("reward_router_address", "reward_model_tokenizer"):
        arguments.pop(name, None)
    return await _score(configured(**arguments), extra["prompt"], solution_str, extra, ground_truth)


async def _score(rewarder: Rewarder, prompt: Any, response: str, extra: Mapping[str, Any], reference: Any) -> dict[str, float]:
    row = Row(_rewards.conversation_of(prompt, "the prompt"), response, _goal(extra, reference))
    (outcome,) = await rewarder.rewards_async([row])
    if outcome.reward is None:
        raise ModelOutput(f"a response has no reward, and verl would not leave it out: {outcome.error}") from outcome.error
    logged = {"tokens": float(outcome.tokens)}
    # verl wants the same keys from every response.
    return {"score": outcome.reward, "std_error": float("nan") if outcome.std_error is None else outcome.std_error} | logged


def _goal(extra: Mapping[str, Any], reference: Any) -> dict[str, Any] | None:
    """The goal of a row. `name` in `interaction_kwargs` is that of verl's interaction."""
    given = extra.get("goal")
    if given is None and extra.get("interaction_kwargs") is not None:
        given = {name: value for name, value in extra["interaction_kwargs"].items() if name != "name"}
    goal = _rewards.goal_of(given, "the goal") or {}
    if isinstance(reference, str) and reference:
        goal.setdefault("reference", reference)
    return goal or None


def __getattr__(name: str) -> Any:
    if name == "RewardManager":
        return _reward_manager()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _reward_manager() -> Any:
    try:
        from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
    except ImportError as error:
        raise ImportError(_rewards.install("verl", "foreturn.verl.RewardManager")) from error

    class RewardManager(RewardManagerBase):  # type: ignore[misc, unused-ignore]
        """Gives verl's reward loop the reward of each response, with the conversation that it answers."""

        def __init__(
            self, config: Any, tokenizer: Any, compute_score: Any, reward_router_address: Any = None,
            reward_model_tokenizer: Any = None,
        ) -> None:
            super().__init__(config, tokenizer, compute_score)
            self._rewarder = configured(**dict(config.reward.get("reward_kwargs") or {}))

        async def run_single(self, data: Any) -> dict[str, Any]:
            """The reward of the last sequence of a sample."""
            item = data[-1:][0]
            tokens = item.batch["responses"]
            count = item.batch["attention_mask"][-tokens.shape[-1] :].sum()
            text = await self.loop.run_in_executor(
                None, lambda: self.tokenizer.decode(tokens[:count], skip_special_tokens=True)
            )
            given = item.non_tensor_batch
            if (turns := int(given.get("__num_turns__", 2))) > 2:
                raise InvalidArgument(
                    f"a sample has {turns} turns: foreturn.verl rewards single responses, because the texts of tools and users "
                    "are among the tokens of this one"
                )
            reference = (given.get("reward_model") or {}).get("ground_truth")
            scored = await _score(self._rewarder, given["raw_prompt"], text, given.get("extra_info") or {}, reference)
            return {"reward_score": scored["score"], "reward_extra_info": scored}

    RewardManager.__qualname__ = "RewardManager"
    return RewardManager
