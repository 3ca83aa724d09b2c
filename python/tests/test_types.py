"""What a type checker infers: mypy reads the functions below, and pytest runs them."""

from __future__ import annotations

import asyncio
from typing import assert_type

import foreturn
from conftest import REQUEST


def test_scores(tiny: foreturn.Engine) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    said = [foreturn.Message("user", "Hi")]
    assert_type(tiny.score("reward", talk), foreturn.Score)
    assert_type(tiny.score("reward", said), foreturn.Score)
    assert_type(tiny.score("reward", "a text"), foreturn.Score)
    assert_type(tiny.score("reward", foreturn.Tokens([5, 6])), foreturn.Score)
    assert_type(tiny.score("reward", [talk, talk]), list[foreturn.Score])
    assert_type(tiny.score("reward", [said, said], on_error="none"), list[foreturn.Score | None])
    assert_type(tiny.embed("embedder", "a text"), list[float])
    assert_type(tiny.embed("embedder", ["a text", "another"]), list[list[float]])


def test_rankings(scripted: foreturn.Engine) -> None:
    ranking = scripted.rank(REQUEST)
    assert_type(ranking.best, foreturn.Candidate)
    assert_type([candidate.reward for candidate in ranking], list[float | None])
    assert_type(scripted.rank_many([REQUEST]), list[foreturn.Ranking])
    assert_type(scripted.rank_many([REQUEST], on_error="none"), list[foreturn.Ranking | None])
    assert_type(scripted.rank_many([REQUEST], on_error="return"), list[foreturn.Ranking | foreturn.Error])


def test_coroutines(tiny: foreturn.Engine, scripted: foreturn.Engine) -> None:
    async def all_of_them() -> None:
        assert_type(await tiny.score_async("reward", "a text"), foreturn.Score)
        assert_type(await tiny.score_async("reward", ["a text"], on_error="none"), list[foreturn.Score | None])
        assert_type(await tiny.embed_async("embedder", "a text"), list[float])
        assert_type(await scripted.rank_many_async([REQUEST]), list[foreturn.Ranking])

    asyncio.run(all_of_them())
