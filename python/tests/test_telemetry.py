"""ONNX Runtime's reports to its maker: a program in Python sends none, unless it asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import REPOSITORY

STAYS = """
import sys, time, foreturn
engine = foreturn.Engine(models={"m": sys.argv[1]})
engine.logprobs("m", tokens=[5, 6, 7])
time.sleep(600)
"""
LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a process did that nobody asked for, and the seconds until it looked up a name."""

    files: list[str]
    lookups: list[str]
    after: float


@pytest.fixture(scope="module")
def spy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that writes down which names a process looks up."""
    library = tmp_path_factory.mktemp("spy") / "spy.so"
    source = REPOSITORY / "tests" / "common" / "spy.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def watch(model: Path, spy: Path, folder: Path, telemetry: dict[str, str], limit: float) -> Seen:
    """Runs the program in an empty home until it looks up a name, or for so many seconds."""
    folder.mkdir()
    names = folder / "lookups"
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "ORT_DYLIB_PATH") if name in os.environ}
    home = {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache")}
    for path in home.values():
        Path(path).mkdir()
    environment = {**kept, **home, **telemetry, "LD_PRELOAD": str(spy), "SPY": str(names), "PYTHONDONTWRITEBYTECODE": "1"}
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", STAYS, str(model)], env=environment)
    try:
        while time.monotonic() - start < limit and not names.exists():
            assert process.poll() is None, "it ended"
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    files = [str(file) for path in home.values() for file in Path(path).rglob("*") if file.is_file()]
    lookups = names.read_text(encoding="utf-8").split() if names.exists() else []
    return Seen(files, lookups, time.monotonic() - start)


def test_a_program_in_python_keeps_to_itself(models: dict[str, Path], spy: Path, tmp_path: Path) -> None:
    loud = watch(models["chat"], spy, tmp_path / "loud", {"ORT_DISABLE_TELEMETRY": "0"}, LIMIT)
    assert loud.files and loud.lookups, "the pinned runtime is expected to report"
    ours = watch(models["chat"], spy, tmp_path / "ours", {}, 2 * loud.after)
    assert (ours.files, ours.lookups) == ([], [])
