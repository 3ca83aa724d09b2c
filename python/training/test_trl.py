"""`foreturn.trl` with TRL's trainers, on a tiny Llama."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import GOALS, OPTIONS, PROMPTS, checkpoint_of, config, load, make_model, make_tokenizer
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

import foreturn
from foreturn.trl import AsyncMultiturnReward, MultiturnReward

STEPS = 3
SETTINGS: dict[str, Any] = {
    # bfloat16 would hide small differences, and the default learning rate a policy that was never refreshed.
    "bf16": False, "learning_rate": 1e-2, "max_steps": STEPS, "logging_steps": 1, "report_to": [], "use_cpu": True,
    "save_strategy": "no", "disable_tqdm": True, "seed": 3,
}


def dataset(**columns: Any) -> Dataset:
    return Dataset.from_list([
        {"prompt": prompt, "goal": goal} | {name: column[at] for name, column in columns.items()}
        for at, (prompt, goal) in enumerate(zip(PROMPTS, GOALS, strict=True))
    ])


def tokenizer_of(exported: Path) -> Any:
    return AutoTokenizer.from_pretrained(checkpoint_of(exported), padding_side="left")


def reward_of(exported: Path, **arguments: Any) -> MultiturnReward:
    return MultiturnReward(config(exported), **{"goal": "goal", "refresh": "policy"} | OPTIONS | arguments)


def grpo(
    reward: Any, exported: Path, folder: Path, kind: Any = GRPOTrainer, settings: Any = GRPOConfig, peft_config: Any = None,
    **changes: Any,
) -> Any:
    arguments: dict[str, Any] = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8}
    args = settings(output_dir=str(folder), **SETTINGS | arguments | changes)
    return kind(
        model=load(exported), reward_funcs=reward, args=args, train_dataset=dataset(), processing_class=tokenizer_of(exported),
        callbacks=[reward.callback()], peft_config=peft_config,
    )


def rloo(reward: Any, exported: Path, folder: Path, **changes: Any) -> Any:
    return grpo(reward, exported, folder, RLOOTrainer, RLOOConfig, **changes)


def online_dpo(reward: Any, exported: Path, folder: Path, peft_config: Any = None, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"per_device_train_batch_size": 4, "max_new_tokens": 8, "remove_unused_columns": False}
    args = OnlineDPOConfig(output_dir=str(folder), **SETTINGS | arguments | changes)
    return OnlineDPOTrainer(
        model=load(exported), reward_funcs=reward, args=args, train_dataset=dataset(), processing_class=tokenizer_of(exported),
        callbacks=[reward.callback()], peft_config=peft_config,
    )


TOKENS = list(make_tokenizer()("The engine has the weights of the trainer.")["input_ids"])


def trainers_logprobs(model: Any) -> torch.Tensor:
    """The log-probabilities of `TOKENS`, as the trainer's model has them."""
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, :-1]
    return torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


def engines_logprobs(reward: MultiturnReward) -> torch.Tensor:
    return torch.tensor(reward.engine.logprobs("policy", tokens=TOKENS).logprobs, dtype=torch.float64)


class Watch(TrainerCallback):
    """After each step, the engine's policy is the trainer's, and was not before."""

    def __init__(self, reward: MultiturnReward) -> None:
        self.reward = reward
        self.seen: list[torch.Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        wanted = trainers_logprobs(model)
        assert (engines_logprobs(self.reward) - wanted).abs().max() > 1e-2, "the step changed nothing"
        self.reward.refresh()
        assert (engines_logprobs(self.reward) - wanted).abs().max() < 1e-4
        self.seen.append(wanted)


@pytest.mark.parametrize("make", [grpo, rloo, online_dpo])
def test_the_policy_in_the_engine_is_the_trainers_after_every_step(make: Any, exported: Path, tmp_path: Path) -> None:
    reward = reward_of(exported, empty=0.0)
    trainer = make(reward, exported, tmp_path)
    watch = Watch(reward)
    trainer.add_callback(watch)
    trainer.train()
    assert len(watch.seen) == STEPS
    assert (watch.seen[0] - watch.seen[-1]).abs().max() > 1e-2
    reward.close()


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (grpo, {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 4}),
        (rloo, {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 4}),
        (online_dpo, {"per_device_train_batch_size": 1, "max_new_tokens": 4}),
    ],
)
def test_a_real_model_trains_with_its_reward(
    make: Any, changes: dict[str, Any], real: Path, tmp_path: Path
) -> None:
    """SmolLM2-135M, with steps that change it without destroying it."""
    reward = reward_of(real, empty=0.0)
    trainer = make(reward, real, tmp_path, learning_rate=1e-4, gradient_checkpointing=False, **changes)
    watch = Watch(reward)
    trainer.add_callback(watch)
    trainer.train()
    assert len(watch.seen) == STEPS
    reward.close()


@pytest.mark.parametrize("make", [grpo, online_dpo])
def test_an_adapter_in_training_is_merged_for_the_engine(make: Any, exported: Path, tmp_path: Path) -> None:
    """And the base below it stays as it was."""
    reward = reward_of(exported, empty=0.0)
    adapter = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    trainer = make(reward, exported, tmp_path, peft_config=adapter)
    watch = Watch(reward)
    trainer.add_callback(watch)
    trainer.train()
    assert len(watch.seen) == STEPS
    base = load(exported).state_dict()
    for name, value in trainer.model.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        assert ".lora_" in name or torch.equal(base[plain], value)
    reward.close()


@pytest.mark.parametrize("adapted", [False, True])
def test_sharded_weights_are_gathered(adapted: bool, exported: Path, tmp_path: Path) -> None:
    """FSDP2, with one process that has all shards: its tensors are of the same kind as with many."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model: Any = make_model(seed=5)
        if adapted:
            model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        wanted = trainers_logprobs(model)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        assert all(hasattr(parameter, "full_tensor") for parameter in model.parameters())
        reward = reward_of(exported)
        reward.callback().on_train_begin(None, SimpleNamespace(global_step=1), None, model=model)
        reward.refresh()
        assert (engines_logprobs(reward) - wanted).abs().max() < 1e-4
        reward.close()
    finally:
        torch.distributed.destroy_process_group()


class Spy:
    """Notes what a reward does at each of its calls, before anything else changes."""

    def __init__(self, reward: MultiturnReward) -> None:
        self.reward, self.model, self.__name__ = reward, None, "spy"
        self.steps: list[int] = []
        self.rewards: list[list[float | None]] = []

    def callback(self) -> Any:
        return self.reward.callback()

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        given = self.reward(prompts, completions, **columns)
        assert (engines_logprobs(self.reward) - trainers_logprobs(self.model)).abs().max() < 1e-4
        self.steps.append(columns["trainer_state"].global_step)
        self.rewards.append(given)
        return given


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [0, 1, 2]),
        ({"num_iterations": 2}, [0, 2]),
        ({"steps_per_generation": 2, "gradient_accumulation_steps": 1}, [0, 2]),
        ({"gradient_accumulation_steps": 2}, [0, 1, 2]),
    ],
)
def test_a_call_refreshes_by_itself(changes: dict[str, Any], steps: list[int], exported: Path, tmp_path: Path) -> None:
    spy = Spy(reward_of(exported, empty=0.0))
    trainer = grpo(spy, exported, tmp_path, **changes)
    spy.model = trainer.model
    trainer.train()
    assert spy.steps == steps
    spy.reward.close()


def test_rewards_and_metrics_reach_the_trainers_log(exported: Path, tmp_path: Path) -> None:
    reward = reward_of(exported, empty=0.0, name="future")
    trainer = grpo(reward, exported, tmp_path)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "rewards/future/mean" in entry]
    assert [entry["future/version"] for entry in logs] == [0.0, 1.0, 2.0]
    for entry in logs:
        assert 0 < entry["rewards/future/mean"] < 1
        assert entry["future/std_error"] > 0 and entry["future/tokens"] > 0 and entry["future/failed"] == 0.0
    reward.close()


def test_the_asynchronous_reward_gives_the_same_rewards(exported: Path, tmp_path: Path) -> None:
    """TRL runs it on an event loop of its own."""
    reward = AsyncMultiturnReward(config(exported), goal="goal", refresh="policy", empty=0.0, **OPTIONS)
    trainer = grpo(reward, exported, tmp_path / "async")
    trainer.train()
    waiting = reward_of(exported, empty=0.0)
    other = grpo(waiting, exported, tmp_path / "sync")
    other.train()
    means = [[entry["reward"] for entry in made.state.log_history if "reward" in entry] for made in (trainer, other)]
    assert means[0] == means[1] and len(means[0]) == STEPS
    reward.close()
    waiting.close()


COMPLETIONS = ["Roses are red.", "What about?", "Four.", "I can't say that in a few words."]


def messages(completion: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": completion}]


def test_a_group_gets_the_same_rewards_whole_and_in_pieces(exported: Path) -> None:
    """Bit for bit, in any order, whatever else is in the batch."""
    reward = reward_of(exported, refresh=None)
    prompts = [PROMPTS[at // 4] for at in range(8)]
    goals = [GOALS[at // 4] for at in range(8)]
    completions = [messages(COMPLETIONS[at % 4]) for at in range(8)]
    whole = reward(prompts, completions, goal=goals)
    halves = [reward(prompts[a:b], completions[a:b], goal=goals[a:b]) for a, b in ((0, 3), (3, 8))]
    assert whole == halves[0] + halves[1]
    assert whole == reward(prompts[::-1], completions[::-1], goal=goals[::-1])[::-1]
    assert whole == asyncio.run(run_async(exported, prompts, completions, goals))
    assert len(set(whole)) == 8
    reward.close()
    with reward_of(exported, refresh=None).engine as fresh:
        assert MultiturnReward(fresh, goal="goal")(prompts[5:6], completions[5:6], goal=goals[5:6]) == [whole[5]]


def test_a_thousand_completions_share_their_prefixes_and_fit_any_queue(exported: Path) -> None:
    """A batch of 125 groups of 8, where only 4 rankings may wait. What a group shares is computed once."""
    prompts = [[{"role": "user", "content": f"Question {at // 8}. {'What then? ' * 40}"}] for at in range(1000)]
    completions = [f"Answer {at}." for at in range(1000)]
    settings = config(exported, runtime={"threads": 1, "max_queued": 4})
    logged: dict[str, float] = {}
    reward = MultiturnReward(settings, samples=1, **OPTIONS)
    given = reward(prompts, completions, log_metric=logged.__setitem__)
    reward.close()
    assert logged["multiturn/failed"] == 0.0 and all(value is not None for value in given)
    alone: list[float] = []
    for at in range(496, 504):
        fresh = MultiturnReward(settings, samples=1, **OPTIONS)
        assert fresh([prompts[at]], [completions[at]], log_metric=logged.__setitem__) == [given[at]]
        alone.append(logged["multiturn/tokens"])
        fresh.close()
    # The prompt has about 500 tokens, an answer and its future about 100.
    together = MultiturnReward(settings, samples=1, **OPTIONS)
    together(prompts[496:504], completions[496:504], log_metric=logged.__setitem__)
    assert logged["multiturn/tokens"] < 0.6 * sum(alone)
    together.close()


async def run_async(exported: Path, prompts: Any, completions: Any, goals: Any) -> list[float | None]:
    reward = AsyncMultiturnReward(config(exported), goal="goal", **OPTIONS)
    rewards = await reward(prompts, completions, goal=goals)
    reward.close()
    return rewards


def test_plain_prompts_are_what_the_user_says(exported: Path) -> None:
    reward = reward_of(exported, refresh=None, goal=None)
    plain = reward([prompt[0]["content"] for prompt in PROMPTS], COMPLETIONS)
    assert plain == reward(PROMPTS, [messages(completion) for completion in COMPLETIONS])
    parts = [[{"role": "user", "content": [{"type": "text", "text": prompt[0]["content"]}]}] for prompt in PROMPTS]
    assert plain == reward(parts, COMPLETIONS)
    reward.close()


SEEN: list[dict[str, Any]] = []


def note_goals(batch: Any) -> list[float]:
    SEEN.extend(given.goal for given in batch)
    return [0.0] * len(batch)


def test_goals_come_from_a_column_or_a_function(exported: Path) -> None:
    """`datasets` fills in None where other rows have a field, and those must not reach the engine."""
    options = {"chat_models": OPTIONS["chat_models"], "metrics": [note_goals]}
    filled = dataset()["goal"][:]
    assert filled[0] == {"task": "poetry", "reference": None, "prompt": None}
    cases: list[tuple[Any, dict[str, Any], list[dict[str, Any]]]] = [
        ("goal", {"goal": filled}, [goal or {} for goal in GOALS]),
        ("goal", {"goal": ["Write.", None, '{"task": "t"}', {"task_desc": "d", "single_turn_prompt": "p"}]},
         [{"prompt": "Write."}, {}, {"task": "t"}, {"task": "d", "prompt": "p"}]),
        (lambda row: {"reference": row["answer"]}, {"answer": list("1234")}, [{"reference": at} for at in "1234"]),
    ]
    for goal, columns, wanted in cases:
        SEEN.clear()
        reward = MultiturnReward(config(exported), goal=goal, samples=1, **options)
        reward(PROMPTS, COMPLETIONS, **columns)
        assert sorted(SEEN, key=str) == sorted(wanted, key=str)
        reward.close()


def test_the_policy_can_be_a_model_or_a_function(exported: Path) -> None:
    def shout(batch: Any) -> list[str]:
        return ["LOUD"] * len(batch)

    without = reward_of(exported, refresh=None)(PROMPTS, COMPLETIONS, goal=GOALS)
    assert reward_of(exported, refresh=None, policy="policy")(PROMPTS, COMPLETIONS, goal=GOALS) == without
    assert reward_of(exported, refresh=None, policy=shout)(PROMPTS, COMPLETIONS, goal=GOALS) != without
    with pytest.raises(foreturn.InvalidConfig, match="nobody"):
        reward_of(exported, refresh=None, policy="nobody")(PROMPTS, COMPLETIONS, goal=GOALS)


def test_the_named_reward_is_configured_by_the_environment(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainers that are configured by a file import it: `trl.reward_funcs: ["foreturn.trl.reward"]`."""
    import foreturn.trl

    foreturn.trl.configured.cache_clear()
    with pytest.raises(foreturn.InvalidConfig, match="FORETURN_CONFIG"):
        foreturn.trl.reward(PROMPTS, COMPLETIONS)
    file = tmp_path / "foreturn.toml"
    file.write_text(
        f'[models.policy]\npath = "{exported}"\n[[metrics]]\nkind = "token_amount"\n[rollout]\nmax_policy_tokens = 8\n'
        "max_user_tokens = 8\n"
    )
    for name, value in {"CONFIG": str(file), "GOAL": "goal", "SAMPLES": "2", "WINDOW": "1", "EMPTY": "0.5"}.items():
        monkeypatch.setenv(f"FORETURN_{name}", value)
    given = foreturn.trl.reward(PROMPTS, [*COMPLETIONS[:3], ""], goal=GOALS)
    direct = MultiturnReward(file, goal="goal", samples=2, window=1, empty=0.5)
    assert given == direct(PROMPTS, [*COMPLETIONS[:3], ""], goal=GOALS)
    assert given[3] == 0.5
    foreturn.trl.configured().close()
    direct.close()
    foreturn.trl.configured.cache_clear()
    monkeypatch.setenv("FORETURN_SAMPLES", "two")
    with pytest.raises(foreturn.InvalidConfig, match="FORETURN_SAMPLES is 'two'"):
        foreturn.trl.reward(PROMPTS, COMPLETIONS)
