"""The tasks in examples/: games whose user is a script, and tasks and scorers of Python packages."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import foreturn

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "tasks"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = load("games/oracle.py")
reasoning = load("packages/reasoning_gym_tasks.py")
human_eval = load("packages/human_eval_tasks.py")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_the_tasks_of_the_games_are_those_that_the_oracle_writes() -> None:
    for game in oracle.GAMES:
        assert rows(EXAMPLES / f"{game}.jsonl") == oracle.tasks(game)


@pytest.mark.parametrize(
    ("secret", "reply", "answer"),
    [
        ("dog", "Is it an animal?", "Yes."),
        ("dog", "Is it an animal or a plant?", "Yes."),
        ("dog", "Is it not alive?", "No."),
        ("dog", "Is it man-made and does it use electricity?", "No."),
        ("lamp", "Does it use electricity?", "Yes."),
        ("dog", "Why is the sky blue?", "I can't answer that with yes or no."),
        ("dog", "Is it a whale?", "I can't answer that with yes or no."),
        ("dog", "Is it a dog or a whale?", "One at a time, please."),
        ("dog", "A dog barks at night.", "I can't answer that with yes or no."),
        ("dog", "Then it must be a dog!", "Yes, that is it! [[TERMINATE CHAT]]"),
        ("scissors", "Scissors?", "Yes, that is it! [[TERMINATE CHAT]]"),
        ("Lisbon", "Which continent is it on?", "It is in Europe."),
        ("Lisbon", "Is it in Spain?", "I can't say much about that."),
        ("Lisbon", "Is it in Italy?", "No, it is in another country."),
        ("Lisbon", "Is it in Portugal?", "Yes."),
        ("Vienna", "Is it by the sea?", "No, there is no sea worth a word."),
        ("Lisbon", "Is it Oslo?", "No, not that one."),
        ("Lisbon", "Oslo, Vienna or Lisbon?", "One at a time, please."),
        ("Lisbon", "I think that you come from Lisbon, by the sea.", "Yes, that is it! [[TERMINATE CHAT]]"),
    ],
)
def test_the_oracle_answers_by_its_facts(secret: str, reply: str, answer: str) -> None:
    assert oracle.answer(reply, secret) == answer


def test_no_answer_about_a_city_names_it() -> None:
    questions = [f"What about {word}?" for words in oracle.FACTS["topics"].values() for word in words]
    for city in oracle.CITIES:
        assert not any(oracle.named(oracle.answer(question, city), {city: None}) for question in questions)


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The oracle, as games.toml names it."""
    command = [sys.executable, str(EXAMPLES / "games" / "oracle.py"), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def test_games_need_no_model_besides_the_policy(endpoint: str, tmp_path: Path) -> None:
    def guess(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        """Asks once, guesses wrong once, and then always says the same."""
        said = [sum(message.role == "assistant" for message in request.messages) for request in batch]
        city = ["city" in request.messages[0].content for request in batch]
        return [
            ("Where is it?", "Is it Sydney?", "Lisbon!")[asked] if home else ("Is it edible?", "A bread?", "Is it an apple?")[asked]
            for asked, home in zip(said, city, strict=True)
        ]

    config = {
        "models": {"oracle": {"base_url": endpoint, "model": "oracle"}},
        "roles": {"policy": "guess", "user": "oracle"},
        "metrics": [
            {"kind": "command", "name": name, "command": [str(EXAMPLES / "games" / "oracle.py"), "score", name]}
            for name in ("guessed", "cost")
        ],
    }
    for game, right in (("twenty_questions", "apple"), ("guess_my_city", "lisbon")):
        tasks = write(tmp_path / "tasks.jsonl", [task for task in rows(EXAMPLES / f"{game}.jsonl")][:3])
        with foreturn.Engine(config, chat_models={"guess": guess}) as engine:
            foreturn.evaluate({"guess": engine}, tasks, tmp_path / game, turns=3)
        found = {row["id"]: row for row in rows(tmp_path / game / "conversations.jsonl")}
        assert len(found) == 3
        for name, row in found.items():
            known = name == right
            assert row["metrics"] == {"guessed": float(known), "cost": -2.0 if known else -3.0}, row
            assert row["ended"] == ("window" if row["turns"] == 3 else "stop_signal")


def test_answers_are_scored_by_reasoning_gym(tmp_path: Path) -> None:
    made = list(reasoning.tasks(["leg_counting", "countdown"], 3, 42))
    assert len({task["id"] for task in made}) == 6
    for task in made:
        entry = json.loads(task["goal"]["tests"])["entry"]
        right = str(entry["answer"])
        assert reasoning.score(task["goal"], ["Hm.", f"So <answer>{right}</answer>."]) == 1
        assert reasoning.score(task["goal"], [f"It is\n{right}\n"]) == 1
        assert reasoning.score(task["goal"], ["I give up."]) < 1
    # Another way to the number: the scorer computes it, and does not compare texts.
    tests = json.loads(made[3]["goal"]["tests"])
    assert tests["dataset"] == "countdown"

    def policy(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        return [f"<answer>{json.loads(made[0]['goal']['tests'])['entry']['answer']}</answer>" for _ in batch]

    def user(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        return ["How many legs?" for _ in batch]

    config = {"roles": {"policy": "policy", "user": "user"}}
    tasks = write(tmp_path / "tasks.jsonl", made[:2])
    models = {"policy": policy, "user": user}
    with foreturn.Engine(config, chat_models=models, metrics=[foreturn.Metric("score", reasoning.metric)]) as engine:
        foreturn.evaluate({"p": engine}, tasks, tmp_path / "run", turns=2)
    scores = [row["metrics"]["score"] for row in rows(tmp_path / "run" / "conversations.jsonl")]
    assert scores[0] == 1 and scores[1] < 1
    # The command says the same.
    asked = {"version": 1, "conversations": [
        {"conversation": [], "response": f"<answer>{made[0]['goal']['reference']}</answer>", "future": [], "goal": made[0]["goal"]}
    ]}
    command = [sys.executable, str(EXAMPLES / "packages" / "reasoning_gym_tasks.py"), "score"]
    said = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(said.stdout) == {"scores": [1.0]}


def test_functions_of_human_eval_are_tested_in_the_sandbox(tmp_path: Path) -> None:
    made = list(human_eval.tasks(3))
    solutions = {task["id"]: task["goal"]["reference"] for task in made}

    def policy(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        """Knows the first two functions."""
        return [
            next(f"```python\n{text}\n```" if name != "HumanEval/2" else "def f(): ..." for name, text in solutions.items()
                 if request.messages[-1].content == name)
            for request in batch
        ]

    def user(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        """Says which function it wants, by its name in the goal."""
        return [
            next(name for name, text in solutions.items() if f"def {task(name)['entry_point']}(" in request.messages[-1].content)
            for request in batch
        ]

    def task(name: str) -> dict[str, Any]:
        goal: dict[str, Any] = next(made_["goal"] for made_ in made if made_["id"] == name)
        return goal

    config = {
        "roles": {"policy": "policy", "user": "user"},
        "metrics": [{"kind": "pass_rate", "interpreter": sys._base_executable}],  # type: ignore[attr-defined]
    }
    tasks = write(tmp_path / "tasks.jsonl", made)
    with foreturn.Engine(config, chat_models={"policy": policy, "user": user}) as engine:
        foreturn.evaluate({"p": engine}, tasks, tmp_path / "run", turns=1)
    assert [row["metrics"]["pass_rate"] for row in rows(tmp_path / "run" / "conversations.jsonl")] == [1, 1, 0]
