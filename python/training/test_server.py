"""`foreturn serve` asked by trainers' own code: OpenRLHF's executor, and the reward for TRL."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import GOALS, PROMPTS
from test_openrlhf import COMPLETIONS, run

import foreturn
from foreturn.trl import MultiturnReward


@pytest.fixture
def address(small_config: Path) -> Iterator[str]:
    """The address of a server."""
    command = [sys.executable, "-m", "foreturn", "serve", "--config", str(small_config), "--listen", "127.0.0.1:0", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.readline()
        found = re.search(r"listens on (\S+)", said)
        assert found, said
        yield found[1]
        process.send_signal(signal.SIGTERM)


def test_openrlhf_asks_over_http(address: str, unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its client makes of the answer is the reward of the same messages in one request of ours."""
    monkeypatch.syspath_prepend(str(unpacked))
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    executor = SingleTurnAgentExecutor(f"{address}/openrlhf")
    for prompt, goal, reply in zip(PROMPTS, GOALS, COMPLETIONS, strict=True):
        made = run(executor, prompt, json.dumps({"messages": prompt, "goal": goal}), reply)
        again = run(executor, prompt, json.dumps({"messages": prompt, "goal": goal}), reply)
        reward = float(made["reward"][0] if isinstance(made["reward"], list) else made["reward"])
        assert made["reward"] == again["reward"] and reward == reward
        assert made["extra_logs"]["tokens"]
    assert run(executor, PROMPTS[0], json.dumps({"messages": PROMPTS[0]}), "Roses.")["reward"] is not None


def test_trl_asks_over_http(address: str, small_config: Path) -> None:
    with foreturn.Engine(small_config) as engine:
        wanted = MultiturnReward(engine, goal="goal")(PROMPTS, COMPLETIONS, goal=GOALS)
    assert MultiturnReward(address, goal="goal")(PROMPTS, COMPLETIONS, goal=GOALS) == wanted
