"""What becomes of failures in `foreturn.trl`: None where the trainer leaves a completion out, otherwise one clear error."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import GOALS, OPTIONS, PROMPTS, config, load, make_model
from test_trl import COMPLETIONS, STEPS, engines_logprobs, grpo, online_dpo, reward_of, rloo, trainers_logprobs
from transformers import LlamaForCausalLM

import foreturn
from foreturn.trl import AsyncMultiturnReward, MultiturnReward

STATE = SimpleNamespace(global_step=0)


class Moody:
    """A metric that raises for some responses."""

    def __init__(self, raises_for: Any) -> None:
        self.raises_for = raises_for

    def __call__(self, batch: Any) -> list[float]:
        for given in batch:
            if self.raises_for(given.messages[given.response].content):
                raise ZeroDivisionError("moody")
        return [1.0] * len(batch)


def moody(exported: Path, raises_for: Any = lambda text: text.startswith("Four"), **arguments: Any) -> MultiturnReward:
    options = {"chat_models": OPTIONS["chat_models"], "metrics": {"moody": Moody(raises_for)}}
    settings = config(exported, on_metric_failure="error")
    return MultiturnReward(settings, goal="goal", **options | arguments)


def test_a_metric_that_raises_gives_none_where_it_is_left_out(exported: Path) -> None:
    logged: dict[str, float] = {}
    reward = moody(exported)
    masked = {"log_metric": logged.__setitem__, "trainer_state": STATE}
    assert reward(PROMPTS, COMPLETIONS, goal=GOALS, **masked) == [1.0, 1.0, None, 1.0]
    assert logged["multiturn/failed"] == 0.25
    assert reward(PROMPTS, COMPLETIONS, goal=GOALS) == [1.0, 1.0, None, 1.0]
    reward.close()


def test_a_metric_that_raises_is_an_error_where_none_would_be_summed(exported: Path) -> None:
    for reward, columns in [
        (moody(exported), {"trainer_state": STATE}),
        (moody(exported, on_failure="raise"), {"log_metric": lambda name, value: None}),
    ]:
        with pytest.raises(foreturn.ModelOutput, match="completion 2 has no reward.*moody") as caught:
            reward(PROMPTS, COMPLETIONS, goal=GOALS, **columns)
        assert isinstance(caught.value.__cause__, foreturn.ModelOutput)
        assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)
        reward.close()
    reward = moody(exported, on_failure="none")
    assert reward(PROMPTS, COMPLETIONS, goal=GOALS, trainer_state=STATE)[2] is None
    reward.close()


@pytest.mark.parametrize("make", [grpo, rloo])
def test_training_goes_on_without_the_completions_that_failed(make: Any, exported: Path, tmp_path: Path) -> None:
    reward = moody(exported, lambda text: len(text) % 2 == 0, refresh="policy")
    trainer = make(reward, exported, tmp_path)
    trainer.train()
    failed = [entry["multiturn/failed"] for entry in trainer.state.log_history if "multiturn/failed" in entry]
    assert trainer.state.global_step == STEPS and 0 < sum(failed) < STEPS
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters())
    reward.close()


def test_online_dpo_ends_where_a_reward_failed(exported: Path, tmp_path: Path) -> None:
    """It would count the completion as 0. The model is as it was."""
    reward = moody(exported, lambda text: True, refresh="policy")
    trainer = online_dpo(reward, exported, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(foreturn.ModelOutput, match="the trainer would count it as 0"):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    reward.close()


def test_an_empty_completion_is_a_failure_or_has_a_reward_of_its_own(exported: Path) -> None:
    reward = reward_of(exported, refresh=None)
    assert reward(PROMPTS[:2], ["Yes.", " \n"], goal=GOALS[:2])[1] is None
    with pytest.raises(foreturn.ModelOutput, match="the response is empty"):
        reward(PROMPTS[:2], ["Yes.", " \n"], goal=GOALS[:2], trainer_state=STATE)
    reward.close()
    reward = reward_of(exported, refresh=None, empty=-1.0)
    assert reward(PROMPTS[:2], ["Yes.", ""], goal=GOALS[:2], trainer_state=STATE)[1] == -1.0
    reward.close()


@pytest.mark.parametrize("kind", [MultiturnReward, AsyncMultiturnReward])
def test_a_closed_engine_is_an_error(kind: Any, exported: Path) -> None:
    engine = foreturn.Engine(config(exported), **OPTIONS)
    reward = kind(engine)
    engine.close()
    with pytest.raises(foreturn.Closed):
        call(reward)


def call(reward: Any, prompts: Any = None, completions: Any = None, **columns: Any) -> Any:
    import asyncio

    given = reward(PROMPTS if prompts is None else prompts, COMPLETIONS if completions is None else completions, **columns)
    return asyncio.run(given) if asyncio.iscoroutine(given) else given


WRONG: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({"goal": "aim"}, {"goal": GOALS}, foreturn.InvalidArgument, "column 'aim' is not in the dataset: its columns are goal"),
    ({}, {"goal": [None, {"colour": "red"}, None, None]}, foreturn.InvalidRequest, "row 1 of the batch.*colour"),
    ({}, {"goal": [None, 3, None, None]}, foreturn.InvalidArgument, "the goal of row 1 is 3"),
    ({}, {"goal": [None, "{", None, None]}, foreturn.InvalidArgument, "looks like JSON"),
    ({}, {"goal": GOALS, "completions": COMPLETIONS[:3]}, foreturn.InvalidArgument, "4 prompts and 3 completions"),
    ({}, {"goal": GOALS, "prompts": [3] * 4}, foreturn.InvalidArgument, r"prompts\[0\] is 3"),
    ({}, {"goal": GOALS, "prompts": [[{"role": "assistant", "content": "x"}]] * 4}, foreturn.InvalidRequest, "row 0"),
    ({}, {"goal": GOALS, "prompts": [[{"role": "user", "content": [{"type": "image"}]}]] * 4}, foreturn.InvalidArgument,
     "only texts"),
    ({}, {"goal": GOALS, "completions": [[]] * 4}, foreturn.InvalidArgument, r"completions\[0\]"),
    ({"refresh": "policy"}, {"goal": GOALS}, foreturn.InvalidArgument, r"callbacks=\[reward.callback\(\)\]"),
]


@pytest.mark.parametrize("kind", [MultiturnReward, AsyncMultiturnReward])
@pytest.mark.parametrize(("arguments", "columns", "error", "reason"), WRONG)
def test_what_the_caller_gets_wrong_is_an_error_in_every_trainer(
    kind: Any, arguments: dict[str, Any], columns: dict[str, Any], error: Any, reason: str, exported: Path
) -> None:
    reward = kind(config(exported), **{"goal": "goal"} | OPTIONS | arguments)
    with pytest.raises(error, match=reason):
        call(reward, log_metric=lambda name, value: None, **columns)
    reward.close()


def test_arguments_that_make_no_sense_are_refused(exported: Path) -> None:
    with foreturn.Engine(config(exported), **OPTIONS) as engine:
        with pytest.raises(foreturn.InvalidArgument, match="policy, metrics"):
            MultiturnReward(engine, policy="policy", metrics=[])
    with pytest.raises(foreturn.InvalidArgument, match="on_failure is 'zero'"):
        MultiturnReward(config(exported), on_failure="zero")  # type: ignore[arg-type]
    for call_it in (MultiturnReward.callback, MultiturnReward.refresh):
        with pytest.raises(foreturn.InvalidArgument, match="refresh is None"):
            call_it(MultiturnReward(config(exported), **OPTIONS))


def test_a_trainer_that_sends_no_weights_is_refused(exported: Path) -> None:
    """AsyncGRPOTrainer has no transfer where vLLM loads adapters from files."""
    with pytest.raises(foreturn.InvalidArgument, match="--enable-lora"):
        reward_of(exported).weight_transfer(None)


def follow(reward: MultiturnReward, model: Any, step: int = 1) -> Any:
    """A call of the reward by a trainer whose model this is."""
    state = SimpleNamespace(global_step=step)
    reward.callback().on_train_begin(None, state, None, model=model)
    return reward(PROMPTS, COMPLETIONS, goal=GOALS, trainer_state=state, log_metric=lambda name, value: None)


class Renamed(LlamaForCausalLM):
    def state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        return {name.replace("layers.1.", "blocks.1."): value for name, value in super().state_dict(*arguments).items()}


def poisoned() -> Any:
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = math.nan
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (poisoned, "model.layers.1.mlp.up_proj.weight"),
        (lambda: Renamed(make_model().config), "layers.1."),
        (lambda: make_model(vocab_size=300), "262|300|vocab"),
        (lambda: make_model(num_hidden_layers=1), "layers.1."),
    ],
)
def test_weights_that_do_not_fit_are_an_error_and_the_old_ones_stay(model: Any, reason: str, exported: Path) -> None:
    reward = reward_of(exported)
    before = follow(reward, load(exported))
    held = engines_logprobs(reward)
    with pytest.raises(foreturn.Error, match=reason):
        follow(reward, model(), step=2)
    assert torch.equal(engines_logprobs(reward), held)
    assert follow(reward, load(exported), step=3) == before
    reward.close()


def test_a_model_with_several_roles_is_not_refreshed_by_accident(exported: Path) -> None:
    settings = config(exported, roles={"policy": "policy", "user": "policy"})
    settings["rollout"]["max_user_tokens"] = 8
    reward = MultiturnReward(settings, goal="goal", refresh="policy", **OPTIONS)
    with pytest.raises(foreturn.InvalidRequest, match="role"):
        follow(reward, make_model(seed=1))
    reward.close()
    reward = MultiturnReward(settings, goal="goal", refresh="policy", shared=True, **OPTIONS)
    follow(reward, make_model(seed=1))
    assert (engines_logprobs(reward) - trainers_logprobs(make_model(seed=1))).abs().max() < 1e-4
    reward.close()


def test_an_interrupt_in_the_middle_leaves_everything_usable(exported: Path) -> None:
    """Ctrl-C while futures are sampled. The engine, the reward and the model go on afterwards."""
    begun = threading.Event()

    def slow(batch: Any) -> list[str]:
        if not begun.is_set():
            begun.set()
            os.kill(os.getpid(), signal.SIGINT)
        return ["And?"] * len(batch)

    reward = reward_of(exported, chat_models={"echo": slow})
    model = load(exported)
    with pytest.raises(KeyboardInterrupt):
        follow(reward, model)
    assert begun.is_set()
    again = follow(reward, model)
    reward.close()
    fresh = reward_of(exported, chat_models={"echo": lambda batch: ["And?"] * len(batch)})
    assert again == follow(fresh, model)
    fresh.close()


def test_no_framework_is_imported_and_each_absent_one_is_named() -> None:
    """In a process in which nothing else is imported."""
    program = """
import sys
import foreturn, foreturn.trl, foreturn.verl, foreturn.openrlhf
loaded = {"torch", "transformers", "trl", "verl", "openrlhf", "safetensors", "ray", "numpy"} & set(sys.modules)
assert not loaded, loaded
for name in ("torch", "transformers", "verl"):
    sys.modules[name] = None
for use in (
    lambda: foreturn.trl.MultiturnReward({}, refresh="policy").callback(),
    lambda: foreturn.verl.RewardManager,
    lambda: foreturn.openrlhf.reward_func([], [], []),
):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 3
    for line, package in zip(said, ("transformers", "verl", "torch"), strict=True):
        assert f"pip install {package}" in line
