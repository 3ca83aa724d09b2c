"""`foreturn.trl` in several processes."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOALS, OPTIONS, PROMPTS, config, in_two_processes
from test_trl import COMPLETIONS, STEPS, reward_of

import foreturn
from foreturn.trl import AsyncMultiturnReward, MultiturnReward


def test_two_processes_of_accelerate_give_the_rewards_of_one(exported: Path, tmp_path: Path) -> None:
    """GRPO on the CPU over gloo, each group split between the processes. One process then scores the groups whole."""
    program = Path(__file__).with_name("two_processes.py")
    # `accelerate launch --cpu` starts several processes with mpirun only; torchrun's are accelerate's as well.
    in_two_processes(program, exported, tmp_path, ACCELERATE_USE_CPU="true")
    processes = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    reward = reward_of(exported, refresh=None, empty=0.0)
    for steps in zip(*processes, strict=True):
        step = steps[0]["step"]
        weights = [torch.load(tmp_path / f"weights-{step}-{rank}.pt") for rank in range(2)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        reward.engine.refresh("policy", weights[0])
        names = ("prompts", "completions", "goals", "rewards")
        whole = {name: [value for seen in steps for value in seen[name]] for name in names}
        assert whole["prompts"][0] == whole["prompts"][-1], "the group is not split"
        assert reward(whole["prompts"], whole["completions"], goal=whole["goals"]) == whole["rewards"]
        assert all(seen["distance"] < 1e-4 for seen in steps)
    assert [seen["step"] for seen in processes[0]] == list(range(STEPS))
    reward.close()


@pytest.mark.parametrize("options", [[], ["lora"]])
def test_what_fsdp2_spreads_over_two_processes_reaches_both_engines(options: list[str], exported: Path, tmp_path: Path) -> None:
    """After every step; and each process has half of the weights."""
    program = Path(__file__).with_name("two_shards.py")
    in_two_processes(program, exported, tmp_path, *options)
    reports = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    assert sum(report["part"] for report in reports) == 1 and max(report["part"] for report in reports) < 0.6
    for report in reports:
        assert len(report["seen"]) == STEPS
        assert all(step["changed"] > 1e-2 and step["distance"] < 1e-4 for step in report["seen"])


def run_pickled(pickled: bytes) -> list[float | None]:
    """In another process: what TRL's asynchronous trainer does with a reward."""
    reward = pickle.loads(pickled)
    rewards: list[float | None] = reward(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=[[1]] * 4, goal=GOALS)
    reward.close()
    return rewards


@pytest.mark.parametrize("opened", [False, True])
def test_a_pickled_reward_opens_its_own_engine(opened: bool, exported: Path) -> None:
    """An engine that is open already stays behind."""
    reward = reward_of(exported, refresh=None)
    here = reward(PROMPTS, COMPLETIONS, goal=GOALS) if opened else None
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(run_pickled, pickle.dumps(reward)).result(timeout=120)
    assert there == (here or reward(PROMPTS, COMPLETIONS, goal=GOALS))
    reward.close()


def test_a_reward_around_an_engine_does_not_pickle(exported: Path) -> None:
    with foreturn.Engine(config(exported), **OPTIONS) as engine, pytest.raises(TypeError, match="path of a foreturn.toml"):
        pickle.dumps(MultiturnReward(engine))


def test_the_asynchronous_reward_pickles(exported: Path) -> None:
    again = pickle.loads(pickle.dumps(AsyncMultiturnReward(config(exported), name="future", **OPTIONS)))
    assert again.__name__ == "future"


def in_fork(reward: MultiturnReward, results: Any) -> None:
    try:
        reward(PROMPTS, COMPLETIONS, goal=GOALS)
        results.put("no error")
    except foreturn.Error as error:
        results.put((type(error).__name__, str(error)))


def test_a_forked_worker_gets_one_clear_error(exported: Path) -> None:
    """And the process that it came from goes on."""
    reward = reward_of(exported, refresh=None)
    before = reward(PROMPTS, COMPLETIONS, goal=GOALS)
    for tried in (reward, reward_of(exported, refresh=None)):
        fork = multiprocessing.get_context("fork")
        results = fork.SimpleQueue()
        child = fork.Process(target=in_fork, args=(tried, results))
        child.start()
        child.join(60)
        kind, message = results.get()
        assert kind == "Forked" and "spawn" in message
    assert reward(PROMPTS, COMPLETIONS, goal=GOALS) == before
    reward.close()
