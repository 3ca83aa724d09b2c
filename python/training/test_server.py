"""`foreturn serve` asked by trainers' own code: OpenRLHF's executor, TRL's GRPO trainer and the reward for it; and by eight processes
at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import GOALS, PROMPTS, save
from test_openrlhf import COMPLETIONS, run

import foreturn
from foreturn.trl import MultiturnReward


PROCESSES = 8


@contextlib.contextmanager
def served(config: Path) -> Iterator[tuple[str, int]]:
    """The address of a server, and its process."""
    command = [sys.executable, "-m", "foreturn", "serve", "--config", str(config), "--listen", "127.0.0.1:0", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            said = process.stderr.readline()
            found = re.search(r"listens on (\S+)", said)
            assert found, said
            yield found[1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture
def address(small_config: Path) -> Iterator[str]:
    """The address of a server."""
    with served(small_config) as (address, _):
        yield address


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


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A configuration with a model whose weights cannot be overlooked, and their bytes."""
    folder = tmp_path_factory.mktemp("large")
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6, "num_attention_heads": 12, "num_key_value_heads": 4}
    foreturn.export(save(folder / "checkpoint", **shape), folder / "model")
    file = folder / "foreturn.toml"
    file.write_text(
        f'[models.policy]\npath = "{folder / "model"}"\n[[metrics]]\nkind = "token_amount"\n'
        "[rollout]\nwindow = 1\nsamples = 2\nmax_policy_tokens = 8\nmax_user_tokens = 8\n"
    )
    return file, (folder / "checkpoint" / "model.safetensors").stat().st_size


def rows() -> list[dict[str, Any]]:
    return [
        {"prompt": prompt, "completion": completion, "goal": goal}
        for prompt, completion, goal in zip(PROMPTS, COMPLETIONS, GOALS, strict=True)
    ]


def in_one_process(client: str, config: Path) -> list[float | None]:
    """The rewards of an engine in this process, for the seeds that the client's way has."""
    with foreturn.Engine(config) as engine:
        if client == "trl":
            return MultiturnReward(engine, goal="goal")(PROMPTS, COMPLETIONS, goal=GOALS)
        return [engine.rank(as_the_server_asks(**row)).rewards[0] for row in rows()]


def as_the_server_asks(prompt: list[dict[str, str]], completion: str, goal: dict[str, Any] | None) -> dict[str, Any]:
    """`/openrlhf` takes the seed from the messages."""
    said = json.dumps(prompt, separators=(",", ":"), ensure_ascii=False).encode()
    seed = int.from_bytes(hashlib.sha256(said).digest()[:8], "big") >> 11
    return {"conversation": prompt, "candidates": [completion], "seed": seed} | ({"goal": goal} if goal else {})


def resident(pid: int) -> int:
    """Bytes of a process that are in memory at this moment."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def eight(client: str, address: str, unpacked: Path, *more: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Eight processes that ask."""
    program = [sys.executable, str(Path(__file__).with_name("shared_client.py")), client, address, *more]
    path = os.pathsep.join([str(unpacked), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(
                subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            )
            for _ in range(PROCESSES)
        ]
        for each in clients:
            assert each.stdin
            each.stdin.write(json.dumps(rows()))
            each.stdin.close()
            each.stdin = None
        yield clients


def answers(clients: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    return [json.loads(each.communicate(timeout=300)[0].splitlines()[-1]) for each in clients]


@pytest.mark.parametrize("client", ["trl", "openrlhf"])
def test_eight_processes_that_share_a_server_get_the_rewards_of_one(
    client: str, large: tuple[Path, int], unpacked: Path, record_testsuite_property: Any
) -> None:
    """To the last bit; and the weights are in memory once, in the server."""
    config, weights = large
    wanted = in_one_process(client, config)
    assert len(set(wanted)) > 1 and None not in wanted
    with served(config) as (address, server):
        # One client, so that what the server sets up at its first request is there.
        MultiturnReward(address, goal="goal")(PROMPTS, COMPLETIONS, goal=GOALS)
        before = resident(server)
        with eight(client, address, unpacked) as clients:
            made = answers(clients)
        of_server = resident(server)
    assert [rewards for each in made for rewards in each["passes"]] == [wanted] * (2 * PROCESSES)
    peak = max(each["peak_bytes"] for each in made)
    megabytes = {"weights": weights, "server_with_one_client": before, "server": of_server, "largest_client": peak}
    for name, count in megabytes.items():
        record_testsuite_property(f"{client}_{name}_MB", count >> 20)
    print(f"{client}:", ", ".join(f"{name} {count >> 20} MB" for name, count in megabytes.items()))
    # Once in the server, and no more of them for more clients; what a client adds is cache and buffers.
    assert weights < before < 2 * weights
    assert of_server - before < weights / 2
    # OpenRLHF brings torch, which is larger than these weights.
    assert client != "trl" or peak < weights / 2


def test_eight_trainers_of_trl_that_share_a_server_get_the_rewards_of_one_process(
    large: tuple[Path, int], exported: Path, unpacked: Path
) -> None:
    """GRPO, each with completions of its own: an engine in this process gives them the same rewards, to the last bit."""
    config, _ = large
    with served(config) as (address, _), eight("grpo", address, unpacked, str(exported)) as clients:
        made = answers(clients)
    steps = [step for each in made for step in each["passes"]]
    assert len(steps) == 2 * PROCESSES
    assert len({json.dumps(step["completions"]) for step in steps}) > PROCESSES
    with foreturn.Engine(config) as engine:
        reward = MultiturnReward(engine, goal="goal")
        for step in steps:
            assert reward(step["prompts"], step["completions"], goal=step["goals"]) == step["rewards"]
