"""Data sets, evaluations and sweeps, on models that are Python functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import foreturn


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    lines = [{"id": at, "conversation": [{"role": "user", "content": f"Poem {at}."}]} for at in range(3)]
    path.write_text("\n".join(json.dumps(line) for line in [*lines, {"id": 9}]), encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_data_set_is_built_and_goes_on(scripted: foreturn.Engine, tasks: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    folder = tmp_path / "built"
    summary = scripted.dataset_build(
        tasks, folder, candidates=2, turns=2, seed=7, on_progress=lambda *numbers: told.append(numbers)
    )
    assert (summary["finished"], summary["set_aside"], summary["stopped"]) == (3, 1, "complete")
    assert sorted(told) == [(1, 0, 3), (2, 0, 3), (3, 0, 3)]
    built = rows(folder / "dataset.jsonl")
    assert [row["id"] for row in built] == ["0", "1", "2"] and all(len(row["turns"]) == 2 for row in built)
    told.clear()
    scripted.dataset_build(tasks, folder, candidates=2, turns=2, seed=7, on_progress=lambda *numbers: told.append(numbers))
    assert told == [], "nothing was left"
    with pytest.raises(foreturn.InvalidRequest, match="seed was 7 and is 8"):
        scripted.dataset_build(tasks, folder, candidates=2, turns=2, seed=8)
    halves = [
        scripted.dataset_build(tasks, tmp_path / f"half-{shard}", candidates=2, turns=1, shard=(shard, 2)) for shard in (1, 2)
    ]
    assert sum(half["finished"] for half in halves) == 3
    whole, merged = tmp_path / "whole", tmp_path / "merged"
    scripted.dataset_build(tasks, whole, candidates=2, turns=1)
    parts = [tmp_path / "half-1", tmp_path / "half-2"]
    summary = scripted.dataset_build(tasks, merged, candidates=2, turns=1, merge=parts, parquet=True)
    assert (summary["finished"], summary["left"]) == (3, 0)
    assert rows(merged / "dataset.jsonl") == rows(whole / "dataset.jsonl") and (merged / "dataset.parquet").exists()


def test_a_data_set_is_exported(scripted: foreturn.Engine, tasks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "built"
    scripted.dataset_build(tasks, folder, candidates=2, turns=1, seed=7)
    written = foreturn.dataset_export(folder, tmp_path / "flat.jsonl", "collabllm_flat")
    assert (written["conversations"], written["rows"]) == (3, 6) and len(rows(tmp_path / "flat.jsonl")) == 6
    foreturn.dataset_export(folder / "dataset.jsonl", tmp_path / "sft.parquet", "sft")
    assert (tmp_path / "sft.parquet").read_bytes().startswith(b"PAR1")
    pairs = foreturn.dataset_export(folder, tmp_path / "pairs.jsonl", "dpo", minimum_gap=1e9)
    assert (pairs["rows"], pairs["left_out"]) == (0, 3)
    with pytest.raises(foreturn.InvalidArgument, match="'json': it is one of sft"):
        foreturn.dataset_export(folder, tmp_path / "x", "json")  # type: ignore[arg-type]
    with pytest.raises(foreturn.InvalidRequest, match=r"0\.2 is not between 0\.5 and 1"):
        foreturn.dataset_export(folder, tmp_path / "x", "dpo", minimum_probability=0.2)
    with pytest.raises(foreturn.FileError, match="nowhere"):
        foreturn.dataset_export("/nowhere", tmp_path / "x", "sft")


def test_policies_are_compared(scripted: foreturn.Engine, tasks: Path, tmp_path: Path) -> None:
    evaluation = foreturn.evaluate({"a": scripted, "b": scripted}, tasks, tmp_path / "run", turns=2, samples=2)
    assert [policy["name"] for policy in evaluation["policies"]] == ["a", "b"]
    assert {compared["mean"] for compared in evaluation["differences"]} == {0}
    assert len(rows(tmp_path / "run" / "conversations.jsonl")) == 12


def test_kinds_of_reward_are_compared(scripted: foreturn.Engine, tasks: Path, tmp_path: Path) -> None:
    swept = foreturn.sweep(scripted, tasks, tmp_path / "run", candidates=2, samples=2, turns=2)
    assert [kind["name"] for kind in swept["kinds"]] == ["w=0", "w=1", "returns", "preference"]
    assert {kind["chosen"]["tasks"] for kind in swept["kinds"]} == {3} and len(rows(tmp_path / "run" / "responses.jsonl")) == 3
    # Another simulator holds conversations of its own about the same responses.
    kinds = {"w=1": None, "w=1,style=short": scripted}
    swept = foreturn.sweep(scripted, tasks, tmp_path / "run", kinds=kinds, candidates=2, samples=2, turns=2)
    assert [kind["name"] for kind in swept["kinds"]] == list(kinds)
    assert len(rows(tmp_path / "run" / "responses.jsonl")) == 6
    for given, message in ((["w=1,style=short"], r"simulators\[0\] is NULL"), ({"w=1": scripted}, "is another engine")):
        with pytest.raises(foreturn.InvalidArgument, match=message):
            foreturn.sweep(scripted, tasks, tmp_path / "x", kinds=given)
    with pytest.raises(foreturn.InvalidRequest, match="`v=1` is not a kind of reward"):
        foreturn.sweep(scripted, tasks, tmp_path / "x", kinds=["v=1"])


def test_what_is_wrong_is_said(scripted: foreturn.Engine, tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(foreturn.FileError, match="nowhere"):
        scripted.dataset_build("/nowhere", tmp_path / "x")
    with pytest.raises(foreturn.InvalidArgument, match="candidates is 0"):
        scripted.dataset_build(tasks, tmp_path / "x", candidates=0)
    with pytest.raises(foreturn.InvalidRequest, match="3/2"):
        scripted.dataset_build(tasks, tmp_path / "x", shard=(3, 2))
    with pytest.raises(foreturn.InvalidRequest, match="no policy"):
        foreturn.evaluate({}, tasks, tmp_path / "x")

    def stop(*_: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        scripted.dataset_build(tasks, tmp_path / "x", turns=1, on_progress=stop)
