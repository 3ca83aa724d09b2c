"""Results are the command line's, for the same request and seed."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import foreturn
from foreturn import _command

Run = Callable[..., subprocess.CompletedProcess[str]]

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.\n\nWhat is it?"}]
RANKING = """
seed = 7
[models.m]
path = "{path}"
temperature = 0.8
[rollout]
window = 1
samples = 2
max_user_tokens = 12
max_policy_tokens = 16
[[metrics]]
kind = "token_amount"
lambda = 5e-4
"""
# The tiny model has no tokens for the answers of a judge.
JUDGED = RANKING + """
[[metrics]]
kind = "interactivity"
judging = "soft"
"""
REQUEST: dict[str, Any] = {
    "conversation": [{"role": "user", "content": "Write a poem."}],
    "candidates": ["What should it be about?", "Roses are red."],
    "goal": {"task": "writing a poem"},
    "seed": 3,
}


def command(run: Run, *arguments: str) -> Any:
    ended = run("-m", "foreturn", *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def without_times(value: Any) -> Any:
    """A ranking without what differs between two runs: times, and how much the cache held."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in ("seconds", "reused_tokens")}
        return {name: without_times(item) for name, item in kept.items()}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def single(number: float) -> bytes:
    """A number as float32. The command prints the shortest digits that give it."""
    return struct.pack("f", number)


def saved(folder: Path, name: str, value: Any) -> str:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("which", ["chat", "real"])
def test_rank(run: Run, models: dict[str, Path], real_model: Path, tmp_path: Path, which: str) -> None:
    text = JUDGED.format(path=real_model) if which == "real" else RANKING.format(path=models[which])
    config, request = saved(tmp_path, "c.toml", text), saved(tmp_path, "r.json", REQUEST)
    printed = command(run, "rank", "--config", config, "--request", request)
    with foreturn.Engine(config) as engine:
        ranking = engine.rank(REQUEST)
        again = engine.rank(foreturn.RankRequest(**REQUEST))
    assert without_times(ranking.to_dict()) == without_times(printed)
    assert without_times(again.to_dict()) == without_times(printed)
    assert ranking.bitwise and ranking.complete and len(ranking) == 2
    assert foreturn.Ranking.from_dict(printed).rewards == ranking.rewards
    assert ranking.best is ranking.candidates[0] and ranking.best.reward == printed["ranking"][0]["reward"]
    assert ranking.best.rollouts[0].messages[0].role == "user"
    assert ranking.best.metrics["token_amount"].weight == 1.0


def test_a_dict_is_the_file(models: dict[str, Path], tmp_path: Path) -> None:
    config = {
        "seed": 7,
        "models": {"m": {"path": "chat", "temperature": 0.8}},
        "rollout": {"window": 1, "samples": 2, "max_user_tokens": 12, "max_policy_tokens": 16},
        "metrics": [{"kind": "token_amount", "lambda": 5e-4}],
    }
    file = saved(tmp_path, "c.toml", RANKING.format(path=models["chat"]))
    with foreturn.Engine(config, base_folder=models["chat"].parent) as by_dict, foreturn.Engine(file) as by_file:
        assert without_times(by_dict.rank(REQUEST).to_dict()) == without_times(by_file.rank(REQUEST).to_dict())


def test_score(run: Run, tiny: foreturn.Engine, models: dict[str, Path], tmp_path: Path) -> None:
    talk = saved(tmp_path, "talk.json", TALK)
    printed = command(run, "score", "--model", str(models["reward"]), "--messages", talk)
    score = tiny.score("reward", TALK)
    assert (list(score.labels), score.tokens) == (printed["labels"], printed["tokens"])
    assert single(score.value) == single(printed["scores"][0])
    assert tiny.score("reward", [TALK, TALK[:1], "a text"])[0] == score
    steps = command(run, "score", "--model", str(models["steps"]), "--messages", talk, "--steps")
    assert tiny.score("steps", TALK, task="steps").steps == steps["steps"]


def test_logprobs_and_responses(run: Run, tiny: foreturn.Engine, models: dict[str, Path], tmp_path: Path) -> None:
    printed = command(run, "logprobs", "--model", str(models["chat"]), "--messages", saved(tmp_path, "t.json", TALK))
    scored = tiny.logprobs("chat", TALK)
    assert [printed["tokens"][0], *scored.tokens] == printed["tokens"]
    assert list(map(single, scored.logprobs)) == list(map(single, printed["logprobs"]))
    assert tiny.logprobs("chat", tokens=printed["tokens"]).logprobs == scored.logprobs
    response = tiny.score("chat", foreturn.Tokens(printed["tokens"][:5], printed["tokens"][5:]), task="response")
    assert response.value == pytest.approx(sum(scored.logprobs[4:]), rel=1e-5)
    assert response.response_tokens == len(printed["tokens"]) - 5


def test_generate_and_render(run: Run, tiny: foreturn.Engine, models: dict[str, Path], tmp_path: Path) -> None:
    model, talk = str(models["chat"]), saved(tmp_path, "t.json", TALK[:1])
    settings = ["--max-new-tokens", "12", "--seed", "5", "--temperature", "0.7", "--top-k", "40"]
    printed = command(run, "generate", "--model", model, "--messages", talk, *settings)
    pieces: list[str] = []
    reply = tiny.generate(
        "chat", TALK[:1], max_tokens=12, seed=5, temperature=0.7, top_k=40, on_text=pieces.append
    )
    assert (reply.text, reply.finish, reply.tokens) == (printed["text"], printed["finish"], printed["tokens"])
    assert "".join(pieces) == reply.text
    greedy = command(run, "generate", "--model", model, "--messages", talk, "--max-new-tokens", "4", "--temperature", "0")
    assert tiny.generate("chat", TALK[:1], max_tokens=4, temperature=0).tokens == greedy["tokens"]
    rendered = run("-m", "foreturn", "render", "--model", model, "--messages", talk).stdout
    assert tiny.render("chat", TALK[:1]) == rendered
    assert tiny.render("chat", TALK[:1], generation_prompt=False) == rendered.removesuffix("<|im_start|>assistant\n")


def test_embed_and_warm(tiny: foreturn.Engine) -> None:
    one, both = tiny.embed("embedder", "hello"), tiny.embed("embedder", ["hello", "you"])
    assert len(one) == 32 and both[0] == pytest.approx(one, abs=1e-6) and both[1] != one
    tokens = list(range(5, 69))
    with tiny.warm("chat", tokens=tokens) as pin:
        assert pin.tokens == 64
        assert tiny.generate("chat", tokens=[*tokens, 9], max_tokens=1).reused_tokens > 0
    pin.release()


def test_replies_to_a_pinned_conversation(tiny: foreturn.Engine) -> None:
    texts = ["Blue.", "Purple, because it is rare."]
    whole = [[*TALK[:1], {"role": "assistant", "content": text}] for text in texts]
    with tiny.warm("reward", TALK[:1]) as pin:
        scores = tiny.score("reward", pin.replies(texts))
        assert [score.scores for score in scores] == [score.scores for score in tiny.score("reward", whole)]
        assert tiny.score("reward", pin.replies(texts)[0]).scores == scores[0].scores
        with pytest.raises(foreturn.InvalidRequest, match="belongs to model `reward`"):
            tiny.score("chat", pin.replies(texts), task="response")
    with pytest.raises(foreturn.InvalidArgument, match="released"):
        tiny.score("reward", pin.replies(texts))
    with tiny.warm("chat", tokens=[5, 6, 7]) as pin, pytest.raises(foreturn.InvalidRequest, match="holds tokens"):
        tiny.score("chat", pin.replies(texts), task="response")


def test_the_log_probability_of_each_token_of_a_pinned_response(tiny: foreturn.Engine) -> None:
    with tiny.warm("chat", TALK[:1]) as pin:
        pinned = tiny.score("chat", pin.replies(["Blue."]), task="response")[0]
    whole = tiny.score("chat", [*TALK[:1], {"role": "assistant", "content": "Blue."}], task="response")
    assert (pinned.token_ids, pinned.token_logprobs) == (whole.token_ids, whole.token_logprobs)
    assert len(pinned.token_ids) == pinned.response_tokens
    assert pinned.logprob == pytest.approx(sum(pinned.token_logprobs), abs=1e-12)


def test_candidates_that_reply_to_a_pin_are_ranked(models: dict[str, Path], tmp_path: Path) -> None:
    file = saved(tmp_path, "c.toml", RANKING.format(path=models["chat"]))
    with foreturn.Engine(file) as engine:
        by_messages = without_times(engine.rank(REQUEST).to_dict())
        with engine.warm("m", REQUEST["conversation"]) as pin:
            by_pin = engine.rank(REQUEST | {"conversation": pin})
            typed = engine.rank(foreturn.RankRequest(pin, REQUEST["candidates"], goal=REQUEST["goal"], seed=REQUEST["seed"]))
            with pytest.raises(foreturn.InvalidRequest, match="unknown field `windows`"):
                engine.rank(REQUEST | {"conversation": pin, "windows": 3})
        assert without_times(by_pin.to_dict()) == without_times(typed.to_dict()) == by_messages
        with pytest.raises(foreturn.InvalidArgument, match="released"):
            engine.rank(REQUEST | {"conversation": pin})
        with engine.warm("m", tokens=[5, 6, 7]) as numbers, pytest.raises(foreturn.InvalidRequest, match="holds tokens"):
            engine.rank(REQUEST | {"conversation": numbers})


def test_export_equals_the_command(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    source = models["reward"].with_name("reward-checkpoint")
    steps: list[tuple[int, int]] = []
    made = foreturn.export(source, tmp_path / "ours", "int8", on_progress=lambda done, of: steps.append((done, of)))
    ended = run("-m", "foreturn", "export", "--from", str(source), "--to", str(tmp_path / "theirs"), "--quantize", "int8")
    assert ended.returncode == 0, ended.stderr
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "theirs").iterdir())
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name
    assert made.architecture == "LlamaForSequenceClassification" and steps[-1][0] == steps[-1][1] and made.files
    whole = foreturn.export(source, tmp_path / "whole")
    for dtype in ("float16", "bfloat16"):
        half = foreturn.export(source, tmp_path / dtype, dtype=dtype)
        command = ("-m", "foreturn", "export", "--from", str(source), "--to", str(tmp_path / f"{dtype}-by-command"))
        assert run(*command, "--dtype", dtype).returncode == 0
        for name in ("model.onnx", "model.safetensors"):
            here, there = tmp_path / dtype / name, tmp_path / f"{dtype}-by-command" / name
            assert here.read_bytes() == there.read_bytes(), name
        assert half.parameters == whole.parameters and half.bytes < whole.bytes
    with pytest.raises(foreturn.InvalidArgument, match="float8"):
        foreturn.export(source, tmp_path / "eighth", dtype="float8")  # type: ignore[arg-type]
    with pytest.raises(foreturn.InvalidRequest, match="not quantised"):
        foreturn.export(source, tmp_path / "both", "int8", "bfloat16")
    with pytest.raises(foreturn.FileError, match="nothing"):
        foreturn.export(tmp_path / "nothing", tmp_path / "none")
    with pytest.raises(foreturn.Error, match="config.json"):
        foreturn.export(tmp_path, tmp_path / "none")

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        foreturn.export(source, tmp_path / "interrupted", on_progress=stop)


def test_options_are_written_as_the_command_line_has_them() -> None:
    given = {"max_tokens": 9, "policy": ["a", "b=c"], "retry_failed": True, "seed": None, "free": False, "turns": 2}
    wanted = "--max-tokens 9 --policy a --policy b=c --retry-failed --turns 2"
    assert _command.flags(given) == wanted.split()


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(foreturn.InvalidArgument, match="--colour"):
        _command.run(["inspect", "/nowhere", "--colour"])
    with pytest.raises(foreturn.Error, match="/nowhere") as raised:
        _command.run(["inspect", "/nowhere"])
    assert not raised.value.message.startswith("foreturn:")
