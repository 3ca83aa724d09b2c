"""Arguments and configurations: what is written, and what is refused."""

from __future__ import annotations

import asyncio
import datetime
import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest

import foreturn
from conftest import CONFIG, REQUEST, echo, length
from foreturn import _toml


def test_a_configuration_is_written_as_toml() -> None:
    config: dict[str, Any] = {
        "text": 'a "quote", a \\ and a line\nbreak, \x7f, \u2028, é, 🜁, \x01',
        "numbers": [0, -1, 2**53, 0.1, 1e-9, 1e300, -0.0],
        "truth": [True, False],
        "a key.with dots": {"nested": {"deeper": [{"x": 1}, {"y": []}]}, "": "empty"},
        "when": [datetime.date(2024, 7, 26), datetime.datetime(2024, 7, 26, 13, 45)],
        "path": Path("some/where"),
    }
    assert tomllib.loads(_toml.dumps(config)) == config | {"path": "some/where"}
    special = tomllib.loads(_toml.dumps({"n": [float("inf"), float("-inf"), float("nan")]}))["n"]
    assert special[:2] == [float("inf"), float("-inf")] and special[2] != special[2]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"models": {"m": {"path": None}}}, r"models\.m\.path is None"),
        ({"metrics": [{"weight": b"1"}]}, r"metrics\[0\]\.weight is a bytes"),
        ({"rolout": {"window": 1}}, "rollout"),
        ({"rollout": {"window": 99}}, "window"),
        ("no/such/file.toml", "no/such/file.toml"),
    ],
)
def test_a_wrong_configuration_names_the_place(config: Any, said: str) -> None:
    with pytest.raises(foreturn.Error, match=said):
        foreturn.Engine(config)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (REQUEST | {"sample": 1}, "unknown field `sample`"),
        (REQUEST | {"candidates": []}, "candidates is empty"),
        (REQUEST | {"conversation": []}, "conversation is empty"),
        (REQUEST | {"goal": {"task": {1, 2}}}, "JSON"),
        (REQUEST | {"seed": -1}, "seed"),
    ],
)
def test_a_wrong_request_names_the_field(scripted: foreturn.Engine, request_: Any, said: str) -> None:
    with pytest.raises(foreturn.InvalidRequest, match=said) as caught:
        scripted.rank(request_)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.kind) == (foreturn.InvalidRequest, str(caught.value), "invalid_request")


def test_objects_and_dicts_mean_the_same(scripted: foreturn.Engine) -> None:
    request = foreturn.RankRequest([foreturn.Message("user", "Write a poem.")], REQUEST["candidates"], goal=REQUEST["goal"])
    assert scripted.rank(request).rewards == scripted.rank(REQUEST).rewards == [11.0, 14.0]
    sampled = scripted.rank(foreturn.RankRequest(request.conversation, 3, window=0))
    assert sampled.rewards == [13.0] * 3


def test_futures_are_judged_again(scripted: foreturn.Engine) -> None:
    ranking = scripted.rank(REQUEST)
    with foreturn.Engine(
        CONFIG,
        chat_models={"echo": echo},
        metrics=[foreturn.Metric("length", length, weight=2.0)],
    ) as other:
        again = other.rescore(REQUEST, ranking)
        assert again.rewards == [2 * reward for reward in ranking.rewards if reward is not None]
        assert asyncio.run(other.rescore_async(REQUEST, ranking.to_dict())).rewards == again.rewards
        before, after = ([r.messages for c in made for r in c.rollouts] for made in (ranking, again))
        assert before == after
        with pytest.raises(foreturn.InvalidRequest, match="ranking"):
            other.rescore(REQUEST, {"ranking": []})
        with pytest.raises(foreturn.InvalidRequest, match="candidate"):
            other.rescore(REQUEST | {"candidates": ["Another."]}, ranking)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda e: e.score("nobody", "a"), "nobody"),
        (lambda e: e.score("reward", "a", task="poetry"), "task is 'poetry'"),
        (lambda e: e.score("reward", "a", marker="x"), "step_marker"),
        (lambda e: e.score("reward", [{"role": "user", "content": "a", "name": "b"}]), r"inputs\[0\]\[0\]"),
        (lambda e: e.score("reward", [{"role": "robot", "content": "a"}]), "robot"),
        (lambda e: e.score("reward", [{"role": "user", "content": None}]), r"content is None"),
        (lambda e: e.score("reward", "\ud800"), "surrogate"),
        (lambda e: e.score("reward", foreturn.Tokens([2**40])), "uint32_t"),
        (lambda e: e.generate("chat"), "either `messages` or `tokens`"),
        (lambda e: e.generate("chat", "Hi"), "list of messages"),
        (lambda e: e.generate("chat", tokens=[1], max_tokens=0), "max_tokens is 0"),
        (lambda e: e.generate("chat", tokens=[1], top_p=0), "top_p is 0"),
        (lambda e: e.generate("chat", tokens=[1], temperature=-1), "temperature"),
        (lambda e: e.generate("chat", tokens=[1], seed=-1), "seed is -1"),
        (lambda e: e.generate("chat", tokens=[1], timeout=float("inf")), "timeout"),
        (lambda e: e.generate("chat", tokens=[1], schema={"type": "no such type"}), "schema"),
        (lambda e: e.logprobs("chat", tokens=[]), "tokens"),
        (lambda e: e.embed("reward", "a"), "embed"),
    ],
)
def test_a_wrong_argument_is_named(tiny: foreturn.Engine, call: Any, said: str) -> None:
    with pytest.raises(foreturn.Error, match=said):
        call(tiny)


def test_settings_of_a_reply(tiny: foreturn.Engine) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    assert tiny.generate("chat", talk, schema=schema, max_tokens=64).text.replace(" ", "").startswith('{"a":')
    free = tiny.generate("chat", talk, max_tokens=16, seed=3, ignore_eos=True)
    assert len(free.tokens) == 16 and len(free.logprobs) == 16 and free.prompt_tokens > 0
    stop = next(character for character in free.text[1:] if character.isprintable() and character != "\ufffd")
    stopped = tiny.generate("chat", talk, max_tokens=16, seed=3, ignore_eos=True, stop=[stop])
    assert stopped.text == free.text.split(stop)[0] and stopped.finish == "stop"
    assert tiny.generate("chat", talk, max_tokens=4, seed=3) == tiny.generate("chat", talk, max_tokens=4, seed=3)


def test_empty_lists_and_defaults(tiny: foreturn.Engine) -> None:
    assert len(tiny.score("reward", ["a", "b"])) == 2
    with pytest.raises(foreturn.InvalidArgument, match="base_folder"):
        foreturn.Engine("some.toml", base_folder=".")
    with pytest.raises(foreturn.InvalidArgument, match="threads is 0"):
        foreturn.Engine(threads=0)
    with foreturn.Engine(CONFIG | {"runtime": {"threads": 1}}, metrics=[length], chat_models={"echo": echo}, threads=1) as one:
        assert one.rank(REQUEST, priority=3).complete
