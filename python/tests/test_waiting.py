"""Waiting, being interrupted, and many requests at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import foreturn
from conftest import CONFIG, REQUEST, echo, length
from foreturn._native import lib

Run = Callable[..., subprocess.CompletedProcess[str]]


def slow(seconds: float) -> foreturn.ChatModelLike:
    def reply(batch: Sequence[foreturn.ChatRequest]) -> list[foreturn.Reply]:
        time.sleep(seconds)
        return echo(batch)

    return reply


def engine(chat_model: foreturn.ChatModelLike = echo, **changes: Any) -> foreturn.Engine:
    return foreturn.Engine(CONFIG | changes, metrics=[length], chat_models={"echo": chat_model})


LONG = REQUEST | {"window": 32}
"""With a slow model, it takes longer than any test waits."""

PROGRAM = """
import sys, foreturn
{model}
request = {{"conversation": [{{"role": "user", "content": "Write a poem."}}], "candidates": ["One?", "Two."], "window": 16}}
try:
    print("begins", flush=True)
    {call}
except KeyboardInterrupt:
    engine.close() if {close} else None
    print("interrupted", foreturn._native.lib.foreturn_handle_count(), flush=True)
    sys.exit(7)
print("not interrupted")
"""
REAL = """
engine = foreturn.Engine({{"rollout": {{"samples": 64}}, "metrics": [{{"kind": "token_amount"}}]}}, models={{"m": {path!r}}})
"""
SCRIPTED = """
import time
def reply(batch):
    time.sleep(0.05)
    return ["And then?" for _ in batch]
engine = foreturn.Engine(
    {"roles": {"policy": "slow", "user": "slow", "judge": "slow"}, "runtime": {"max_queued": 2}},
    chat_models={"slow": reply}, metrics=[foreturn.Metric("one", lambda batch: [1.0] * len(batch))],
)
"""


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize(
    ("model", "call"),
    [
        ("real", "engine.rank(request, on_progress=lambda done, of: print('works', flush=True))"),
        ("scripted", "engine.rank(request)"),
        ("scripted", "engine.rank_many([request] * 40)"),
        ("scripted", "import asyncio; asyncio.run(engine.rank_async(request))"),
    ],
)
def test_ctrl_c_cancels_and_comes_through(real_model: Path, model: str, call: str, close: bool) -> None:
    made = REAL.format(path=str(real_model)) if model == "real" else SCRIPTED
    program = PROGRAM.format(model=made, call=call, close=close)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stdout.readline() == "begins\n", child.communicate()
        time.sleep(0.5)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=60)
    assert child.returncode == 7, (out, errors)
    # Nothing is left once the engine is closed. The bound is generous, because test machines are busy.
    assert f"interrupted {0 if close else ''}" in out and not errors
    assert time.monotonic() - sent < 20


def test_what_a_callback_raises_cancels_the_ranking() -> None:
    def stop(rollout: foreturn.EndedRollout) -> None:
        assert rollout.messages and rollout.to_dict()["metrics"]
        raise LookupError(rollout.sample)

    with engine() as ranker:
        with pytest.raises(LookupError):
            ranker.rank(REQUEST | {"samples": 100}, on_rollout=stop)
        with pytest.raises(LookupError):
            asyncio.run(ranker.rank_async(REQUEST | {"samples": 100}, on_rollout=stop))
        assert ranker.rank(REQUEST).complete


def test_progress_ends_with_everything(scripted: foreturn.Engine) -> None:
    steps: list[tuple[int, int]] = []
    ended: list[foreturn.EndedRollout] = []
    interim: list[list[foreturn.Interim]] = []
    ranking = scripted.rank(
        REQUEST, on_progress=lambda *step: steps.append(step), on_rollout=ended.append, on_interim=interim.append
    )
    assert [(known.candidate, known.reward, known.rollouts) for known in interim[-1]] == [(1, 14.0, 2), (0, 11.0, 2)]
    assert interim[-1][0].std_error == 0.0
    assert steps[-1] == (4, 4) and len(ended) == 4
    assert {rollout.seed for rollout in ended} == {rollout.seed for candidate in ranking for rollout in candidate.rollouts}


def test_at_the_deadline() -> None:
    with engine(slow(0.05)) as ranker:
        with pytest.raises(foreturn.DeadlineExceeded) as caught:
            ranker.rank(LONG, timeout=0.2)
        assert caught.value.kind == "deadline_exceeded"
        with pytest.raises(foreturn.InvalidArgument, match="timeout"):
            ranker.rank(REQUEST, timeout=0)


def test_many_rankings_wait_for_places(caplog: pytest.LogCaptureFixture) -> None:
    requests: list[Any] = [REQUEST | {"candidates": [f"{'x' * at}", "?"]} for at in range(1, 121)]
    with engine(runtime={"max_queued": 3}) as ranker:
        rankings = ranker.rank_many(requests)
        assert [ranking.rewards[0] for ranking in rankings] == list(range(1, 121))
        assert ranker.statistics().refused < 20
        on_loop = asyncio.run(ranker.rank_many_async(requests))
        assert [ranking and ranking.rewards for ranking in on_loop] == [ranking.rewards for ranking in rankings]
        # Generators are taken as they are.
        assert len(ranker.rank_many(request for request in requests[:5])) == 5


def test_failures_among_many(caplog: pytest.LogCaptureFixture) -> None:
    def moody(batch: Sequence[foreturn.MetricInput]) -> list[float]:
        if any("bad" in said.content for given in batch for said in given.messages):
            raise ValueError("a bad word")
        return [1.0] * len(batch)

    good, bad, wrong = REQUEST, REQUEST | {"candidates": ["bad"]}, REQUEST | {"window": 99}
    with foreturn.Engine(CONFIG, metrics=[moody], chat_models={"echo": echo}) as ranker:
        with caplog.at_level(logging.WARNING, "foreturn"):
            rankings = ranker.rank_many([good, bad, wrong, good], on_error="none")
        assert [ranking is None for ranking in rankings] == [False, True, True, False]
        assert "a bad word" in caplog.text and "window is 99" in caplog.text
        on_loop = asyncio.run(ranker.rank_many_async([good, bad, wrong, good], on_error="return"))
        for given in (ranker.rank_many([good, bad, wrong, good], on_error="return"), on_loop):
            kinds = [foreturn.Ranking, foreturn.ModelOutput, foreturn.InvalidRequest, foreturn.Ranking]
            assert [type(one) for one in given] == kinds
            assert isinstance(given[1], foreturn.Error) and isinstance(given[1].__cause__, ValueError)
        with pytest.raises(foreturn.ModelOutput, match="a bad word") as caught:
            ranker.rank_many([good, bad, good])
        assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(foreturn.InvalidRequest, match="window is 99"):
            asyncio.run(ranker.rank_many_async([good, wrong]))
        with pytest.raises(foreturn.InvalidArgument, match="on_error"):
            ranker.rank_many([], on_error="ignore")  # type: ignore[call-overload]
    for on_error in ("none", "return"):
        with pytest.raises(foreturn.Closed):
            ranker.rank_many([good], on_error=on_error)


def test_scores_that_fail_may_be_none(tiny: foreturn.Engine, caplog: pytest.LogCaptureFixture) -> None:
    too_long = "x " * 300_000
    with caplog.at_level(logging.WARNING, "foreturn"):
        scores = tiny.score("reward", ["a text", too_long], on_error="none")
    assert scores[0] is not None and scores[1] is None and "context_length" in caplog.text
    with pytest.raises(foreturn.ContextLength):
        tiny.score("reward", ["a text", too_long])


def test_many_threads_use_one_engine(scripted: foreturn.Engine, tiny: foreturn.Engine) -> None:
    wanted, number = scripted.rank(REQUEST).rewards, tiny.score("reward", "a text").value
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                assert scripted.rank(REQUEST).rewards == wanted
                assert tiny.score("reward", "a text").value == number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_asyncio(tiny: foreturn.Engine) -> None:
    async def all_of_them() -> None:
        talk = [{"role": "user", "content": "Hi"}]
        pieces: list[str] = []
        reply, score, vectors, scored = await asyncio.gather(
            tiny.generate_async("chat", talk, max_tokens=8, on_text=pieces.append),
            tiny.score_async("reward", [talk, talk]),
            tiny.embed_async("embedder", ["one", "two"]),
            tiny.logprobs_async("chat", talk),
        )
        assert "".join(pieces) == reply.text and reply == tiny.generate("chat", talk, max_tokens=8) or reply.tokens
        assert score[0] == score[1] and len(vectors) == 2 and scored.logprobs == tiny.logprobs("chat", talk).logprobs
        with await tiny.warm_async("chat", talk) as pin:
            assert pin.tokens > 0

    asyncio.run(all_of_them())


def test_cancelling_a_task_cancels_the_request() -> None:
    async def cancelled(ranker: foreturn.Engine) -> None:
        heard: list[foreturn.EndedRollout] = []
        task = asyncio.create_task(ranker.rank_async(REQUEST | {"samples": 500}, on_rollout=heard.append))
        while not heard:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        count = len(heard)
        for _ in range(100):
            if ranker.statistics().active_rankings == 0:
                assert len(heard) == count < 1000
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the ranking goes on")

    # Rollouts end one by one, because a metric of the library doesn't wait for a whole batch of them.
    config = CONFIG | {"metrics": [{"kind": "token_amount"}]}
    with foreturn.Engine(config, chat_models={"echo": slow(0.02)}) as ranker:
        asyncio.run(cancelled(ranker))


def test_a_closed_engine_says_so() -> None:
    ranker = engine()
    ranker.close()
    ranker.close()
    assert "closed" in repr(ranker)
    for call in (lambda: ranker.rank(REQUEST), lambda: ranker.score("m", "x"), ranker.statistics, ranker.__enter__().statistics):
        with pytest.raises(foreturn.Closed):
            call()


def test_closing_ends_those_who_wait(models: dict[str, Path]) -> None:
    ranker = foreturn.Engine({"metrics": [{"kind": "token_amount"}]}, models={"chat": models["chat"]})
    raised: list[BaseException] = []

    def work() -> None:
        try:
            ranker.rank(LONG | {"samples": 512})
        except foreturn.Error as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not ranker.statistics().active_rankings:
        time.sleep(0.01)
    ranker.close()
    thread.join(10)
    assert [type(error) for error in raised] == [foreturn.Closed]


def test_a_forked_child_gets_a_clear_error(scripted: foreturn.Engine) -> None:
    assert scripted.rank(REQUEST).complete
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for call in (lambda: scripted.rank(REQUEST), engine, scripted.statistics, scripted.close):
            try:
                call()
                said.append("nothing was raised")
            except foreturn.Forked as error:
                said.append("fork" if "fork()" in str(error) and error.kind == "forked" else str(error))
            except BaseException as error:
                said.append(repr(error))
        os.write(write, ",".join(said).encode())
        os._exit(0)
    os.close(write)
    assert os.read(read, 10_000).decode() == "fork,fork,fork,fork"
    os.waitpid(child, 0)
    assert scripted.rank(REQUEST).complete


EXITS = """
import sys, threading, time, foreturn
def reply(batch):
    time.sleep(0.02)
    return ["And then?" for _ in batch]
def score(batch):
    time.sleep(0.02)
    return [1.0] * len(batch)
engine = foreturn.Engine(
    {"roles": {"policy": "slow", "user": "slow", "judge": "slow"}}, chat_models={"slow": reply}, metrics=[score],
)
request = {"conversation": [{"role": "user", "content": "Hi"}], "candidates": ["One?", "Two."], "window": 16, "samples": 50}
def work():
    try:
        engine.rank(request, on_rollout=lambda rollout: None)
    except foreturn.Error:
        pass
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)
print("ends")
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "del engine", "import os; os.fork() or sys.exit(0)"])
def test_a_program_may_end_while_callbacks_run(run: Run, end: str) -> None:
    # Python 3.12 and later warn of fork() where there are threads.
    ended = run("-W", "ignore::DeprecationWarning", "-c", EXITS + end)
    assert (ended.returncode, ended.stdout.split()[0], ended.stderr) == (0, "ends", "")


def test_nothing_is_left(models: dict[str, Path]) -> None:
    before = lib.foreturn_handle_count()
    with foreturn.Engine(CONFIG, models=models, chat_models={"echo": echo}, metrics=[length]) as made:
        made.rank(REQUEST)
        made.score("reward", ["a", "b"])
        made.generate("chat", tokens=[5, 6], max_tokens=3)
        made.warm("chat", tokens=[5, 6])
        made.render("chat", [{"role": "user", "content": "Hi"}])
        with pytest.raises(foreturn.Error):
            made.score("nobody", "a")
    assert lib.foreturn_handle_count() == before
