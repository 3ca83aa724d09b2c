"""Metrics and chat models in Python."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

import foreturn
from conftest import CONFIG, REQUEST, echo, length
from foreturn._native import lib


def engine(metric: foreturn.MetricLike = length, chat_model: foreturn.ChatModelLike = echo, **changes: Any) -> foreturn.Engine:
    return foreturn.Engine(CONFIG | changes, metrics=[metric], chat_models={"echo": chat_model})


def test_a_metric_is_called_with_batches_of_conversations() -> None:
    batches: list[list[foreturn.MetricInput]] = []

    def questions(batch: Sequence[foreturn.MetricInput]) -> list[float]:
        batches.append(list(batch))
        return [sum("?" in said.content for said in given.messages[given.response :]) for given in batch]

    with engine(foreturn.Metric("questions", questions, weight=0.5)) as ranker:
        ranking = ranker.rank(REQUEST)
    # Each message repeats the response: itself, the user's, the policy's.
    assert ranking.rewards == [1.5, 0.0] and ranking.best.metrics["questions"].mean == 3.0
    given = [conversation for batch in batches for conversation in batch]
    assert len(given) == 4 and len(batches) < 4
    assert {conversation.response for conversation in given} == {1} and given[0].ended == "window"
    assert given[0].goal == REQUEST["goal"] and given[0].messages[0] == foreturn.Message("user", "Write a poem.")


class Lengths(foreturn.Metric):
    def __init__(self) -> None:
        super().__init__("lengths")

    def score(self, batch: Sequence[foreturn.MetricInput]) -> list[float]:
        return length(batch)


class Stubborn(foreturn.ChatModel):
    reproducible = True

    def reply(self, batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        assert all(request.task == "generate" and request.max_tokens > 0 for request in batch)
        return [foreturn.ChatReply("No.", cut=True, prompt_tokens=5, generated_tokens=2) for _ in batch]


def test_classes_do_what_functions_do() -> None:
    with engine(Lengths(), Stubborn()) as ranker:
        ranking = ranker.rank(REQUEST)
    assert ranking.bitwise and ranking.rewards == [11.0, 14.0]
    rollout = ranking.best.rollouts[0]
    assert [said.content for said in rollout.messages] == ["No.", "No."] and rollout.ended == "length"
    assert ranking.to_dict()["cost"]["policy"]["prompt_tokens"] == 4 * 5


class Broken(Exception):
    pass


def raises(batch: Sequence[Any]) -> list[float]:
    raise Broken("the disk is on fire")


def test_what_a_metric_raises_is_the_cause() -> None:
    with engine(foreturn.Metric("broken", raises)) as ranker, pytest.raises(foreturn.ModelOutput, match="disk is on") as caught:
        ranker.rank(REQUEST)
    assert isinstance(caught.value.__cause__, Broken) and caught.value.kind == "model_output"


def test_what_fails_may_be_left_out() -> None:
    def moody(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        return [Broken("no roses") if "Roses" in request.messages[-1].content else "Go on." for request in batch]

    with engine(length, moody) as ranker:
        ranking = ranker.rank(REQUEST)
        with pytest.raises(foreturn.ModelOutput, match="none of the 2 rollouts counts") as caught:
            ranker.rank(REQUEST | {"candidates": ["Roses"]})
    assert isinstance(caught.value.__cause__, Broken)
    assert ranking.rewards == [11.0, None] and ranking.best.index == 0
    failed = ranking.candidates[1].rollouts[0]
    assert not failed.counted and failed.ended == "failed" and "no roses" in (failed.reason or "")
    none = foreturn.Ranking.from_dict(ranking.to_dict() | {"ranking": ranking.to_dict()["ranking"][1:]})
    with pytest.raises(foreturn.ModelOutput, match="no roses"):
        _ = none.best


@pytest.mark.parametrize(
    ("values", "said"),
    [(lambda n: [1.0] * (n + 1), "give one for each"), (lambda n: [float("nan")] * n, "NaN"), (lambda n: ["x"] * n, "could not convert")],
)
def test_values_that_are_no_answers_are_failures(values: Any, said: str) -> None:
    with engine(foreturn.Metric("odd", lambda batch: values(len(batch)))) as ranker:
        with pytest.raises(foreturn.ModelOutput, match=said):
            ranker.rank(REQUEST)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (raises, "disk is on fire"),
        (lambda batch: [Broken("one of them") for _ in batch], "one of them"),
        (lambda batch: ["a text"] * (len(batch) + 1), "give one for each"),
        (lambda batch: [[0.5, 0.5] for _ in batch], "wants a text"),
        (lambda batch: [7 for _ in batch], "not iterable"),
    ],
)
def test_what_a_chat_model_raises_is_the_cause(reply: Any, said: str) -> None:
    rollout = CONFIG["rollout"] | {"on_failure": "error"}
    with engine(length, reply, rollout=rollout) as ranker, pytest.raises(foreturn.Error, match=said) as caught:
        ranker.rank(REQUEST)
    assert caught.value.__cause__ is not None


def test_a_chat_model_is_the_judge() -> None:
    asked: list[foreturn.ChatRequest] = []

    def judge(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        asked.extend(request for request in batch if request.task == "choose")
        return [[0.75, 0.25] + [0.0] * (len(r.answers) - 2) if r.task == "choose" else "Yes." for r in batch]

    metrics = [{"kind": "interactivity", "judging": "soft"}]
    with engine(chat_model=judge, metrics=metrics) as ranker:
        ranking = ranker.rank(REQUEST)
    assert asked and all(len(request.answers) >= 2 and request.answers[0] for request in asked)
    assert ranking.best.metrics["interactivity"].mean is not None


def test_a_chat_model_that_calls_its_engine_is_refused() -> None:
    made: list[foreturn.Engine] = []

    def reply(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        made[0].rank(REQUEST)
        return []

    made.append(engine(length, reply, rollout=CONFIG["rollout"] | {"on_failure": "error"}))
    with made[0], pytest.raises(foreturn.ModelOutput) as caught:
        made[0].rank(REQUEST)
    assert isinstance(caught.value.__cause__, foreturn.Reentrant)


def test_a_metric_may_use_its_engine_but_not_close_it() -> None:
    made: list[foreturn.Engine] = []

    def score(batch: Sequence[foreturn.MetricInput]) -> list[float]:
        if len(batch[0].messages) > 2:
            inner = made[0].rank(REQUEST | {"window": 0, "samples": 1})
            return [inner.best.reward or 0.0] * len(batch)
        made[0].close()
        return []

    made.append(engine(foreturn.Metric("nested", score)))
    with made[0], pytest.raises(foreturn.ModelOutput) as caught:
        made[0].rank(REQUEST)
    inner = caught.value.__cause__
    assert isinstance(inner, foreturn.Error) and isinstance(inner.__cause__ or inner, foreturn.Reentrant)


def test_names_and_weights_are_checked() -> None:
    with pytest.raises(foreturn.Error, match="twice|two|same"):
        foreturn.Engine(CONFIG, metrics=[length, length], chat_models={"echo": echo})
    with pytest.raises(foreturn.Error, match="weight|finite"):
        foreturn.Engine(CONFIG, metrics=[foreturn.Metric("m", length, weight=float("inf"))], chat_models={"echo": echo})


def test_an_engine_that_nobody_holds_is_closed_and_lets_go_of_its_callbacks() -> None:
    gc.collect()
    before = lib.foreturn_handle_count()

    def local(batch: Sequence[foreturn.MetricInput]) -> list[float]:
        return length(batch)

    alive = weakref.ref(local)
    made = engine(local)
    made.rank(REQUEST)
    del made, local
    gc.collect()
    assert lib.foreturn_handle_count() == before and alive() is None


def test_an_engine_may_be_dropped_inside_a_callback() -> None:
    gc.collect()
    before = lib.foreturn_handle_count()
    other = [engine()]

    def score(batch: Sequence[foreturn.MetricInput]) -> list[float]:
        other.clear()
        return length(batch)

    with engine(foreturn.Metric("drops", score)) as ranker:
        assert ranker.rank(REQUEST).rewards == [11.0, 14.0]
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(10)
    gc.collect()
    assert lib.foreturn_handle_count() == before
