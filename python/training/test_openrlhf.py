"""`foreturn.openrlhf` in OpenRLHF's executor, which runs from its own wheel."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import GOALS, PROMPTS, make_tokenizer

import foreturn
import foreturn.openrlhf
from foreturn.trl import MultiturnReward

COMPLETIONS = ["Roses are red.", "4, of course.", "Hello! What would you like to do?", "Use sorted()."]


@pytest.fixture
def executor(small_config: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """OpenRLHF's executor with our file as its reward."""
    monkeypatch.syspath_prepend(str(unpacked))
    monkeypatch.setenv("FORETURN_CONFIG", str(small_config))
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    made = SingleTurnAgentExecutor(foreturn.openrlhf.__file__)
    assert made.reward_func.__module__ == "reward_func", "the file is run outside of its package"
    yield made
    made.reward_func.__globals__["configured"]().close()


class Model:
    """Stands in for vLLM: says what it was told to."""

    def __init__(self, reply: str) -> None:
        self.reply = reply

    async def generate(self, prompt: list[int], params: Any, multi_modal_data: Any) -> Any:
        tokens = list(make_tokenizer()(self.reply + "<|im_end|>")["input_ids"])
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens, finish_reason="stop", logprobs=None)])


def run(executor: Any, prompt: list[dict[str, str]], label: Any, reply: str) -> dict[str, Any]:
    tokenizer = make_tokenizer()
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    params = SimpleNamespace(max_tokens=64, logprobs=None)
    made: dict[str, Any] = asyncio.run(executor.execute(text, label, params, 512, tokenizer, Model(reply)))
    return made


def test_the_executor_gets_the_rewards_of_the_conversation(executor: Any, small_config: Path) -> None:
    """The same as TRL gets for the same messages, goals and responses: no control token has come in between."""
    wanted = MultiturnReward(small_config, goal="goal")(PROMPTS, COMPLETIONS, goal=GOALS)
    for prompt, goal, reply, reward in zip(PROMPTS, GOALS, COMPLETIONS, wanted, strict=True):
        made = run(executor, prompt, json.dumps({"messages": prompt, "goal": goal}), reply)
        assert made["reward"].tolist() == [pytest.approx(reward, rel=1e-6)]
        assert made["scores"].tolist() == made["reward"].tolist()
        assert made["extra_logs"]["tokens"].item() > 0 and made["extra_logs"]["std_error"].item() >= 0


def test_the_reward_reaches_the_experience(executor: Any, unpacked: Path) -> None:
    """OpenRLHF makes tensors of one number from it."""
    import torch

    made = run(executor, PROMPTS[0], json.dumps({"messages": PROMPTS[0]}), "Roses.")
    # As `openrlhf/trainer/ppo_utils/samples_generator.py` does.
    assert torch.tensor([made["reward"]]).shape == (1,)
    assert torch.tensor([made["scores"]]).shape == (1,)


@pytest.mark.parametrize(
    ("label", "reply", "reason"),
    [
        ("poetry", "Roses.", "the label is 'poetry'"),
        (json.dumps({"goal": {}}), "Roses.", "it has to be JSON"),
        (json.dumps({"messages": PROMPTS[0], "goal": {"colour": "red"}}), "Roses.", "colour"),
        (json.dumps({"messages": PROMPTS[0]}), " ", "the response is empty"),
    ],
)
def test_what_fails_is_logged_where_the_user_sees_it(
    label: str, reply: str, reason: str, executor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenRLHF swallows the exception and goes on without a reward."""
    assert run(executor, PROMPTS[0], label, reply)["reward"] is None
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1 and reason in errors[0]


def test_a_query_that_was_cut_is_refused() -> None:
    with pytest.raises(foreturn.InvalidArgument, match="does not begin with its prompt"):
        foreturn.openrlhf.reward_func(["tail"], ["a prompt"], ["{}"])
