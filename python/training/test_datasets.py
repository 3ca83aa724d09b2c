"""Exports of data sets load in `datasets`, as JSON Lines and as Parquet alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

BUILT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "dataset" / "built.jsonl"


def load(kind: str, path: Path, cache: Path) -> list[dict[str, Any]]:
    return list(datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(cache)))


@pytest.mark.parametrize("form", ["sft", "dpo", "reward", "collabllm-nested", "collabllm-flat"])
def test_parquet_is_what_json_lines_are(form: str, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.parquet"):
        command = [sys.executable, "-m", "foreturn", "dataset", "export", "--from", str(BUILT), "--to", str(tmp_path / name)]
        subprocess.run([*command, f"--{form}"], check=True, timeout=120)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = load("parquet", tmp_path / "rows.parquet", tmp_path / "cache")
    assert rows and rows == load("json", tmp_path / "rows.jsonl", tmp_path / "cache")
    for row, line in zip(rows, lines, strict=True):
        assert row == {name: line.get(name) for name in row}
