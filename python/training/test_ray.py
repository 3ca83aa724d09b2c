"""`foreturn.ray` on a local Ray with several worker processes, some of which are killed midway."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
from conftest import GOALS, PROMPTS
from test_openrlhf import COMPLETIONS
from test_server import served

import foreturn
import foreturn.ray
from foreturn.trl import MultiturnReward

ROWS = 48
BATCH = 6


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Four processors and a GPU, whatever this machine has: Ray only counts them."""
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def rows() -> list[dict[str, Any]]:
    """Rows with a key, no two of which ask for the same."""
    return [
        {"id": f"row-{at}", "prompt": PROMPTS[at % 4], "completion": f"{COMPLETIONS[at % 4]} ({at})", "goal": GOALS[at % 4]}
        for at in range(ROWS)
    ]


def dataset(given: list[dict[str, Any]]) -> Any:
    # Goals of different fields become one struct, as in files.
    return ray.data.from_items(given)


@pytest.fixture(scope="module")
def alone(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The rewards in this process, by key."""
    given = rows()
    reward = MultiturnReward(str(write_config(tmp_path_factory.mktemp("alone"), exported)), goal="goal")
    columns = {name: [row[name] for row in given] for name in ("prompt", "completion", "goal")}
    made = reward(columns["prompt"], columns["completion"], goal=columns["goal"])
    reward.close()
    return {row["id"]: value for row, value in zip(given, made, strict=True) if value is not None}


def write_config(folder: Path, exported: Path) -> Path:
    file = folder / "foreturn.toml"
    file.write_text(
        f'[models.policy]\npath = "{exported}"\n[[metrics]]\nkind = "token_amount"\n'
        "[rollout]\nwindow = 2\nsamples = 2\nmax_policy_tokens = 24\nmax_user_tokens = 24\n"
    )
    return file


@pytest.fixture
def config(exported: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path, exported)


def lines(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of a log by file."""
    return {
        path.name: [json.loads(line) for line in path.read_text().splitlines() if line]
        for path in sorted(folder.glob("rewards-*.jsonl"))
    }


def kill_when(ready: Callable[[], int | None]) -> tuple[threading.Thread, list[int]]:
    """Kills the process that `ready` names, once it names one."""
    killed: list[int] = []

    def watch() -> None:
        for _ in range(6000):
            if (pid := ready()) is not None:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread, killed


def test_a_worker_that_is_killed_loses_no_row_and_none_comes_twice(
    config: Path, alone: dict[str, float], tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def midway() -> int | None:
        """A worker that has written some rows of a batch, and not all."""
        for path in log.glob("rewards-*.jsonl"):
            if path.read_bytes().count(b"\n") % BATCH in range(1, BATCH - 1):
                return int(path.name.split("-")[-2])
        return None

    thread, killed = kill_when(midway)
    made = foreturn.ray.rewards(
        dataset(rows()), str(config), workers=3, batch_size=BATCH, num_gpus=0.25, goal="goal", log=str(log), concurrency=2
    ).take_all()
    thread.join()
    assert killed, "no worker was killed"
    assert sorted(row["id"] for row in made) == sorted(alone)
    assert {row["id"]: row["reward"] for row in made} == alone, "to the last bit"
    assert all(row["error"] == "" and row["tokens"] > 0 and row["std_error"] >= 0 for row in made)
    files = lines(log)
    assert len(files) > 1 and any(f"-{killed[0]}-" in name for name in files)
    keys = [line["key"] for file in files.values() for line in file]
    assert len(keys) == len(set(keys)) == ROWS, "what the killed worker had finished was not computed again"


def test_workers_may_share_a_server(config: Path, alone: dict[str, float]) -> None:
    with served(config) as (address, _):
        made = foreturn.ray.rewards(
            dataset(rows()), address, workers=2, batch_size=BATCH, num_cpus=0.1, goal="goal"
        ).take_all()
    assert {row["id"]: row["reward"] for row in made} == alone


def test_a_job_that_begins_again_takes_what_is_known(config: Path, alone: dict[str, float], tmp_path: Path) -> None:
    log = tmp_path / "log"
    given = {"goal": "goal", "log": str(log), "batch_size": BATCH}
    first = foreturn.ray.rewards(dataset(rows()[:10]), str(config), **given).take_all()
    # A kill can cut off the end of a line.
    (log / "rewards-there-1-0.jsonl").write_bytes(b'{"key": "abc", "rew')
    again = foreturn.ray.rewards(dataset(rows()[:20]), str(config), workers=2, **given).take_all()
    rewards = {row["id"]: row["reward"] for row in [*first, *again]}
    assert rewards == {row["id"]: alone[row["id"]] for row in rows()[:20]}
    (log / "rewards-there-1-0.jsonl").unlink()
    assert sum(map(len, lines(log).values())) == 20
    # Other samples are other rewards.
    foreturn.ray.rewards(dataset(rows()[:2]), str(config), samples=1, **given).take_all()
    assert sum(map(len, lines(log).values())) == 22


def test_rows_that_make_no_sense_say_why_and_the_others_go_on(config: Path) -> None:
    given = rows()[:4]
    given[1] |= {"completion": " "}
    made = {row["id"]: row for row in foreturn.ray.rewards(dataset(given), str(config), goal="goal").take_all()}
    assert math.isnan(made["row-1"]["reward"]) and "the response is empty" in made["row-1"]["error"]
    assert "row 0" not in made["row-1"]["error"]
    assert all(row["error"] == "" and row["reward"] == row["reward"] for at, row in made.items() if at != "row-1")


def test_what_is_wrong_is_said(config: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="there is no column 'goals': the data set has completion, goal, id, prompt"):
        foreturn.ray.rewards(dataset(rows()[:2]), str(config), goal="goals").take_all()
    with pytest.raises(foreturn.InvalidArgument, match="at least one row"):
        foreturn.ray.Rewards(str(config), concurrency=0)
    with pytest.raises(foreturn.InvalidArgument, match="a column 'tokens' already"):
        foreturn.ray.Rewards(str(config))({"prompt": ["Hi"], "completion": ["Ho"], "tokens": [1]})
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "rewards-x.jsonl").write_text('{"key": 1}\n')
    reward = foreturn.ray.Rewards(str(config), log=tmp_path / "log")
    with pytest.raises(foreturn.FileError, match="rewards-x.jsonl, line 1 of what is new, is not a line of a log"):
        reward({"prompt": ["Hi"], "completion": ["Ho"]})
    with pytest.raises(foreturn.InvalidArgument, match="shards is 0"):
        foreturn.ray.dataset_build(config, "tasks.jsonl", tmp_path, shards=0)
    with pytest.raises(foreturn.InvalidArgument, match="shard can't be given"):
        foreturn.ray.evaluate(config, "tasks.jsonl", tmp_path, shards=2, shard="1/2")
    with pytest.raises(foreturn.InvalidArgument, match="--candidate-count"):
        foreturn.ray.dataset_build(config, write_tasks(tmp_path, 1), tmp_path / "x", shards=1, candidate_count=3)
    with pytest.raises(foreturn.Error, match="nowhere.jsonl"):
        foreturn.ray.dataset_build(config, tmp_path / "nowhere.jsonl", tmp_path / "y", shards=1)


def test_an_actor_that_is_killed_answers_all_the_same(config: Path) -> None:
    requests = [
        {"conversation": PROMPTS[at % 4], "candidates": [f"One ({at}).", "Two."], "seed": at} for at in range(24)
    ]
    with foreturn.Engine(config) as engine:
        wanted = [ranking.rewards for ranking in engine.rank_many(requests)]
    # Ray calls it `_Actor` among its processes.
    actor = foreturn.ray.EngineActor.options(num_cpus=1, num_gpus=0.25).remote(str(config))
    ray.get(actor.statistics.remote())
    under_way = [actor.rank.remote(request) for request in requests]
    ray.get(under_way[0])
    pids = subprocess.run(["pgrep", "-f", "^ray::_Actor"], capture_output=True, text=True, check=True).stdout.split()
    mine = [int(pid) for pid in pids if is_below(int(pid), os.getpid())]
    assert mine
    for pid in mine:
        os.kill(pid, signal.SIGKILL)
    assert [ranking.rewards for ranking in ray.get(under_way)] == wanted
    ray.kill(actor)


def is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def write_tasks(folder: Path, count: int) -> Path:
    path = folder / "tasks.jsonl"
    tasks = [
        {"id": f"task-{at}", "prompt": f"Sort list {at}.", "conversation": [{"role": "user", "content": f"Sort list {at}."}]}
        for at in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, tasks)))
    return path


def command(*arguments: str | Path) -> dict[str, Any]:
    """The command in one process."""
    from foreturn import _command

    return _command.run([str(argument) for argument in arguments])


def shard_worker(folder: Path, least: int) -> Callable[[], int | None]:
    """The Ray worker whose shard has written so many conversations, and not yet all."""

    def found() -> int | None:
        for journal in folder.glob("shards/*/journal.jsonl"):
            if journal.read_bytes().count(b"\n") > least:
                shard = journal.parent.name.replace("-of-", "/")
                ran = subprocess.run(["pgrep", "-f", "--", f"--shard {shard} --json"], capture_output=True, text=True, check=False)
                for pid in ran.stdout.split():
                    try:
                        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                    except OSError:
                        continue
                    if is_below(parent, os.getpid()):
                        return parent
        return None

    return found


def test_a_data_set_over_shards_is_that_of_one_process(config: Path, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path, 12)
    options = {"candidates": 3, "turns": 2, "seed": 5}
    build = ["dataset", "build", "--config", config, "--tasks", tasks, "--candidates", "3", "--turns", "2", "--seed", "5"]
    command(*build, "--to", tmp_path / "one")
    # After the line with the settings, one conversation.
    thread, killed = kill_when(shard_worker(tmp_path / "many", 1))
    summary = foreturn.ray.dataset_build(config, tasks, tmp_path / "many", shards=3, num_gpus=0.25, concurrency=1, **options)
    thread.join()
    assert killed, "no worker was killed"
    assert (summary["finished"], summary["set_aside"]) == (12, 0)
    text = (tmp_path / "one" / "dataset.jsonl").read_text()
    assert (tmp_path / "many" / "dataset.jsonl").read_text() == text and text.count("\n") == 12
    # The same call finds everything there.
    again = foreturn.ray.dataset_build(config, tasks, tmp_path / "many", shards=3, concurrency=1, **options)
    assert again["finished"] == 12 and (tmp_path / "many" / "dataset.jsonl").read_text() == text


def test_a_command_ends_with_its_worker(config: Path, tmp_path: Path) -> None:
    """Otherwise it would go on in the folder that the next worker needs."""
    folder = tmp_path / "built"
    asked = ["dataset", "build", "--config", config, "--tasks", write_tasks(tmp_path, 500), "--to", folder]
    program = f"from foreturn import _command; _command.run({[str(part) for part in asked]!r})"
    worker = subprocess.Popen([sys.executable, "-c", program])

    def commands() -> str:
        ran = subprocess.run(["pgrep", "-f", "--", f"--to {folder} --json"], capture_output=True, text=True, check=False)
        return ran.stdout

    wait_until(lambda: (folder / "journal.jsonl").exists() and commands() != "")
    worker.kill()
    worker.wait()
    wait_until(lambda: commands() == "")


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_evaluation_over_shards_is_that_of_one_process(config: Path, tmp_path: Path) -> None:
    """Also where a worker is killed in the middle of its shard."""
    tasks = write_tasks(tmp_path, 6)
    wanted = command("evaluate", "--config", config, "--tasks", tasks, "--to", tmp_path / "one", "--turns", "2", "--samples", "2")
    thread, killed = kill_when(shard_worker(tmp_path / "many", 1))
    made = foreturn.ray.evaluate(config, tasks, tmp_path / "many", shards=2, turns=2, samples=2, concurrency=1)
    thread.join()
    assert killed, "no worker was killed"
    assert made == wanted
    conversations = [(tmp_path / name / "conversations.jsonl").read_text() for name in ("one", "many")]
    assert conversations[0] == conversations[1] and conversations[0].count("\n") == 12
