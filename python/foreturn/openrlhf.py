"""The multiturn-aware reward as OpenRLHF's `reward_func`.

    --reward.remote_url "$(python -c 'import foreturn.openrlhf as it; print(it.__file__)')" --data.label_key label

A label is JSON: `{"messages": […], "goal": {…}}`. The messages are the conversation that the prompt was rendered from, because
the prompt itself is text with control tokens. The environment configures the reward: see `foreturn.trl.reward`.
"""

from __future__ import annotations

# OpenRLHF runs this file outside of its package, so imports are absolute.
import functools
import json
import logging
import re
from collections.abc import Sequence
from typing import Any

from foreturn import _rewards
from foreturn._errors import InvalidArgument, ModelOutput
from foreturn._rewards import Rewarder, Row

_CONTROL_AT_END = re.compile(r"(?:\s|<\|[^<>|]+\|>|<｜[^<>｜]+｜>|</s>|<eos>|<pad>|<end_of_turn>)+$")

_log = logging.getLogger("foreturn")


@functools.cache
def configured() -> Rewarder:
    """What computes the rewards. The first call makes it from the environment."""
    return Rewarder(**_rewards.from_environment())


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """The rewards of responses, as OpenRLHF asks for them.

    Args:
        queries: prompts with their responses, as the model's tokens read.
        prompts: the prompts alone.
        labels: JSON, or a dict, with `messages` and perhaps `goal`.

    Returns:
        `rewards`, `scores`, and `extra_logs` with `std_error` and `tokens`: tensors with a number for each query.

    Raises:
        ImportError: torch is not installed.
        ModelOutput: a response has no reward. OpenRLHF logs what is raised as information only, so it is logged here as well.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(_rewards.install("torch", "foreturn.openrlhf")) from error
    try:
        rows = [_row(*each) for each in zip(queries, prompts, labels, strict=True)]
        outcomes = configured().rewards(rows)
        failed = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
        if failed is not None:
            raise ModelOutput(f"a response has no reward: {failed}") from failed
    except Exception as error:
        _log.error("foreturn.openrlhf: no reward: %s", error)
        raise
    rewards = torch.tensor([outcome.reward for outcome in outcomes])
    errors = [float("nan") if outcome.std_error is None else outcome.std_error for outcome in outcomes]
    logs = {"std_error": torch.tensor(errors), "tokens": torch.tensor([float(outcome.tokens) for outcome in outcomes])}
    return {"rewards": rewards, "scores": rewards, "extra_logs": logs}


def _row(query: str, prompt: str, label: Any) -> Row:
    if not query.startswith(prompt):
        raise InvalidArgument(f"the query does not begin with its prompt, which was cut or changed: {query[:80]!r}")
    try:
        given = json.loads(label) if isinstance(label, str) else label
        messages = given["messages"]
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidArgument(
            f'the label is {str(label)[:80]!r}: it has to be JSON, {{"messages": […], "goal": {{…}}}}'
        ) from error
    response = _CONTROL_AT_END.sub("", query[len(prompt) :])
    return Row(_rewards.conversation_of(messages, "messages"), response, _rewards.goal_of(given.get("goal"), "goal"))
