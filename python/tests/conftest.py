"""Models to test with: tiny ones, exported here, and the real one that `make model` exports."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import foreturn
from serving import Server


def pytest_configure() -> None:
    """Interrupts arrive, also where the tests run in the background of a shell, which has them ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures" / "models"
TINY = {"chat": "smollm2", "reward": "llama-reward", "steps": "qwen2-process-reward", "embedder": "bert-embedding"}


def checkpoint(fixture: str, to: Path) -> Path:
    """A tiny checkpoint with its tokenizer, and with room for conversations if it is a decoder, which computes its positions."""
    reference = json.loads((FIXTURES / fixture / "reference.json").read_text(encoding="utf-8"))
    shutil.copytree(FIXTURES / fixture / "checkpoint", to)
    shutil.copytree(FIXTURES / "tokenizers" / reference["tokenizer"], to, dirs_exist_ok=True)
    config = json.loads((to / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in ("bert", "deberta-v2"):
        config["max_position_embeddings"] = 8192
    (to / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return to


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models by name."""
    folder = tmp_path_factory.mktemp("models")
    for name, fixture in TINY.items():
        foreturn.export(checkpoint(fixture, folder / f"{name}-checkpoint"), folder / name)
    return {name: folder / name for name in TINY}


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M."""
    folder = REPOSITORY / "target" / "models" / "smollm2-135m-instruct"
    assert (folder / "genai_config.json").exists(), f"{folder} is missing: run `make model`, which exports it"
    return folder


@pytest.fixture(scope="session")
def tiny(models: dict[str, Path]) -> Iterator[foreturn.Engine]:
    """An engine with all tiny models."""
    with foreturn.Engine(models=models) as engine:
        yield engine


def echo(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
    """A chat model without a model: it repeats the last message, and finds all answers equally likely."""
    return [
        request.messages[-1].content if request.task == "generate" else [1 / len(request.answers)] * len(request.answers)
        for request in batch
    ]


def length(batch: Sequence[foreturn.MetricInput]) -> list[float]:
    """A metric: characters of the response."""
    return [float(len(given.messages[given.response].content)) for given in batch]


CONFIG: dict[str, Any] = {
    "seed": 7,
    "on_metric_failure": "error",
    "roles": {"policy": "echo", "user": "echo", "judge": "echo"},
    "rollout": {"window": 1, "samples": 2},
}
REQUEST: dict[str, Any] = {
    "conversation": [{"role": "user", "content": "Write a poem."}],
    "candidates": ["What about?", "Roses are red."],
    "goal": {"task": "poetry"},
}


@pytest.fixture
def scripted() -> Iterator[foreturn.Engine]:
    """An engine without model files."""
    with foreturn.Engine(CONFIG, chat_models={"echo": echo}, metrics=[length]) as engine:
        yield engine


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a Python program to its end, or a module with `-m`."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)

    return run


@pytest.fixture(scope="module")
def config(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    sections = "".join(f'[models.{name}]\npath = "{path}"\n' for name, path in models.items())
    file = tmp_path_factory.mktemp("server") / "foreturn.toml"
    file.write_text(
        sections + '[roles]\npolicy = "chat"\nuser = "chat"\n[rollout]\nwindow = 1\nsamples = 2\nmax_user_tokens = 12\n'
        'max_policy_tokens = 16\n[[metrics]]\nkind = "token_amount"\nlambda = 5e-4\n'
    )
    return file


@pytest.fixture(scope="module")
def server(config: Path) -> Iterator[Server]:
    made = Server(config)
    Server.started.remove(made)
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Servers of a test that failed would run on."""
    yield
    while Server.started:
        left = Server.started.pop()
        left.process.kill()
        left.process.wait()


@pytest.fixture(scope="module")
def engine(config: Path) -> Iterator[foreturn.Engine]:
    with foreturn.Engine(config) as made:
        yield made
