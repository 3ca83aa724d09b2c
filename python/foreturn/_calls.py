"""Calls of an engine: how each is submitted, and what its result is."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from ._errors import Closed, Error, Forked, InvalidArgument, Reentrant, error_of
from ._native import Arguments, call, failure, ffi, handle_of, lib, owned_text, read
from ._pending import Relay, interim_came, progressed, rollout_ended, text_came
from ._pin import Pin
from ._requests import (
    Conversation,
    RankRequest,
    ScoreInput,
    is_one,
    limits,
    prompt,
    rank_request,
    score_inputs,
)
from ._results import Generation, LogProbs, Ranking, Score

T = TypeVar("T")
OnError: TypeAlias = Literal["raise", "none"]
OnRankError: TypeAlias = Literal["raise", "none", "return"]

_log = logging.getLogger("foreturn")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call of an engine.

    Attributes:
        submit: queues it, given the engine's handle; the arguments and the relay live long enough. It gives the handle of
            the request.
        take: the result of a request that is done.
    """

    submit: Callable[[Any, Arguments, Relay], Any]
    take: Callable[[Any], T]


def rank(request: RankRequest | Mapping[str, Any], timeout: float | None, priority: int) -> Call[Ranking]:
    """A ranking."""

    def submit(engine: Any, arguments: Arguments, relay: Relay) -> Any:
        options = _rank_options(arguments, relay, timeout, priority)
        given = rank_request(arguments, request)
        return handle_of(lib.foreturn_rank_submit, "foreturn_pending", engine, given, options)

    return Call(submit, _take_ranking)


def _rank_options(arguments: Arguments, relay: Relay, timeout: float | None, priority: int) -> Any:
    return arguments.struct(
        "foreturn_rank_options",
        limits=limits(timeout, priority)[0],
        on_progress=progressed if relay.on_progress is not None else ffi.NULL,
        on_rollout=rollout_ended if relay.on_rollout is not None else ffi.NULL,
        on_interim=interim_came if relay.on_interim is not None else ffi.NULL,
        on_ready=relay.ready_function,
        user_data=relay.handle,
    )


def rescore(
    request: RankRequest | Mapping[str, Any], ranking: Ranking | Mapping[str, Any], timeout: float | None, priority: int
) -> Call[Ranking]:
    """A ranking whose futures are an earlier one's."""
    earlier = ranking.to_dict() if isinstance(ranking, Ranking) else dict(ranking)

    def submit(engine: Any, arguments: Arguments, relay: Relay) -> Any:
        options = _rank_options(arguments, relay, timeout, priority)
        given = rank_request(arguments, request)
        text = arguments.text(json.dumps(earlier), "the ranking")
        return handle_of(lib.foreturn_rescore_submit, "foreturn_pending", engine, given, text, options)

    return Call(submit, _take_ranking)


def score(
    model: str,
    inputs: ScoreInput | Sequence[ScoreInput],
    task: str,
    on_error: OnError,
    separator: str | None,
    marker: str | None,
    timeout: float | None,
    priority: int,
) -> Call[Any]:
    """A score, or a list of them."""
    check_on_error(on_error, ("raise", "none"))
    if task not in _TASKS:
        raise InvalidArgument(f"task is {task!r}: it is one of {', '.join(map(repr, _TASKS))}")
    partial = on_error == "none" and not is_one(inputs)
    settings = {"step_separator": separator, "step_marker": marker}
    texts = {name: value for name, value in settings.items() if value is not None}
    read_one = functools.partial(_score_of, on_error=on_error)
    return _scored(model, inputs, timeout, priority, read_one, texts, task=_TASKS[task], partial=partial)


def embed(
    model: str, inputs: ScoreInput | Sequence[ScoreInput], timeout: float | None, priority: int
) -> Call[Any]:
    """An embedding, or a list of them."""
    return _scored(model, inputs, timeout, priority, _vector_of, {}, task=lib.FORETURN_SCORE_EMBEDDING)


def _scored(
    model: str,
    inputs: ScoreInput | Sequence[ScoreInput],
    timeout: float | None,
    priority: int,
    read_one: Callable[[dict[str, Any], int], Any],
    texts: Mapping[str, str],
    **settings: Any,
) -> Call[Any]:
    single = is_one(inputs)
    given: Any = [inputs] if single else inputs

    def submit(engine: Any, arguments: Arguments, relay: Relay) -> Any:
        settings.update({name: arguments.text(text, name) for name, text in texts.items()})
        options = arguments.struct(
            "foreturn_score_options",
            limits=limits(timeout, priority)[0],
            on_ready=relay.ready_function,
            user_data=relay.handle,
            **settings,
        )
        name, array = arguments.text(model, "model"), score_inputs(arguments, given)
        function = lib.foreturn_score_submit
        return handle_of(function, "foreturn_pending", engine, name, array, len(given), options)

    def take(pending: Any) -> Any:
        results = [read_one(json, at) for at, json in enumerate(_take_scores(pending))]
        return results[0] if single else results

    return Call(submit, take)


def generate(
    model: str,
    messages: Conversation | None,
    tokens: Sequence[int] | None,
    sampling: Mapping[str, Any],
    stop: Sequence[str],
    schema: Mapping[str, Any] | str | None,
    timeout: float | None,
    priority: int,
) -> Call[Generation]:
    """A reply. `sampling` is what `sampling()` gives."""

    def submit(engine: Any, arguments: Arguments, relay: Relay) -> Any:
        options = arguments.struct(
            "foreturn_generate_options",
            limits=limits(timeout, priority)[0],
            on_text=text_came if relay.on_text is not None else ffi.NULL,
            on_ready=relay.ready_function,
            user_data=relay.handle,
            **sampling,
        )
        options.stop, options.stop_count = arguments.texts([stop] if isinstance(stop, str) else stop, "stop")
        if schema is not None:
            text = schema if isinstance(schema, str) else json.dumps(schema)
            options.schema_json = arguments.text(text, "schema")
        given = prompt(arguments, messages, tokens, generation_prompt=True)
        name = arguments.text(model, "model")
        return handle_of(lib.foreturn_generate_submit, "foreturn_pending", engine, name, given, options)

    return Call(submit, lambda pending: Generation(**_take_generation(pending)))


def logprobs(
    model: str,
    messages: Conversation | None,
    tokens: Sequence[int] | None,
    generation_prompt: bool,
    timeout: float | None,
    priority: int,
) -> Call[LogProbs]:
    """The log-probabilities of a prompt."""

    def take(pending: Any) -> LogProbs:
        made = _take_generation(pending)
        return LogProbs(**{name: made[name] for name in LogProbs.__slots__})

    submit = _of_prompt(lib.foreturn_logprobs_submit, model, messages, tokens, generation_prompt, timeout, priority)
    return Call(submit, take)


def warm(
    model: str,
    messages: Conversation | None,
    tokens: Sequence[int] | None,
    generation_prompt: bool,
    timeout: float | None,
    priority: int,
) -> Call[Pin]:
    """A pinned prefix."""
    submit = _of_prompt(lib.foreturn_warm_submit, model, messages, tokens, generation_prompt, timeout, priority)
    return Call(submit, lambda pending: Pin(handle_of(lib.foreturn_pending_pin, "foreturn_pin", pending)))


def _of_prompt(
    function: Any,
    model: str,
    messages: Conversation | None,
    tokens: Sequence[int] | None,
    generation_prompt: bool,
    timeout: float | None,
    priority: int,
) -> Callable[[Any, Arguments, Relay], Any]:
    def submit(engine: Any, arguments: Arguments, relay: Relay) -> Any:
        name, within = arguments.text(model, "model"), limits(timeout, priority)
        given = prompt(arguments, messages, tokens, generation_prompt)
        ready = (relay.ready_function, relay.handle)
        return handle_of(function, "foreturn_pending", engine, name, given, within, *ready)

    return submit


_TASKS = {
    "labels": lib.FORETURN_SCORE_LABELS,
    "steps": lib.FORETURN_SCORE_STEPS,
    "response": lib.FORETURN_SCORE_RESPONSE,
}


def sampling(
    max_tokens: int, seed: int, temperature: float, top_p: float, top_k: int, min_p: float, repetition_penalty: float,
    ignore_eos: bool,
) -> dict[str, Any]:
    """Fields of the library's options. There, 0 stands for a default, which here is an error or a value of its own."""
    for name, number in {"top_p": top_p, "repetition_penalty": repetition_penalty}.items():
        if number == 0:
            raise InvalidArgument(f"{name} is 0: it is above 0, and 1 turns it off")
    return {
        "max_tokens": number_in("max_tokens", max_tokens, 1, 2**63 - 1),
        "seed": number_in("seed", seed, 0, 2**64 - 1),
        "greedy": temperature == 0,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": number_in("top_k", top_k, 0, 2**63 - 1),
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "ignore_eos": ignore_eos,
    }


def number_in(name: str, number: int, least: int, most: int) -> int:
    if not isinstance(number, int) or not least <= number <= most:
        raise InvalidArgument(f"{name} is {number!r}: it is an integer from {least} to {most}")
    return number


def check_on_error(on_error: str, known: Sequence[str]) -> None:
    if on_error not in known:
        raise InvalidArgument(f"on_error is {on_error!r}: it is {' or '.join(json.dumps(one) for one in known)}")


def forgive(error: Error, at: int, on_error: OnRankError) -> Error | None:
    """The result in the place of one that failed. Raises an error that belongs to the whole engine, or is not forgiven."""
    if on_error == "raise" or isinstance(error, (Closed, Forked, Reentrant)):
        raise error
    if on_error == "return":
        return error
    _log.warning("input %d failed (%s): %s", at, error.kind, error)
    return None


def _take_ranking(pending: Any) -> Ranking:
    ranking = handle_of(lib.foreturn_pending_ranking, "foreturn_ranking", pending)
    try:
        text = ffi.new("foreturn_str *")
        call(lib.foreturn_ranking_json, ranking, text)
        return Ranking.from_dict(json.loads(read(text)))
    finally:
        lib.foreturn_ranking_free(ranking)


def _take_scores(pending: Any) -> list[dict[str, Any]]:
    """The JSON of each score. One that is missing has its error, and the error's kind."""
    scores = handle_of(lib.foreturn_pending_scores, "foreturn_scores", pending)
    try:
        text = ffi.new("foreturn_str *")
        call(lib.foreturn_scores_json, scores, text)
        rows: list[dict[str, Any]] = json.loads(read(text))
        info = ffi.new("foreturn_score_info *")
        for at, row in enumerate(rows):
            if "error" in row:
                info.size = ffi.sizeof("foreturn_score_info")
                call(lib.foreturn_scores_read, scores, at, info)
                row["kind"] = failure(info.status).kind
        return rows
    finally:
        lib.foreturn_scores_free(scores)


def _score_of(json: dict[str, Any], at: int, on_error: OnError) -> Score | None:
    if "error" in json:
        forgive(error_of(json["kind"], json["error"]), at, on_error)
        return None
    return Score.from_dict(json)


def _vector_of(json: dict[str, Any], at: int) -> list[float]:
    vector: list[float] = json["embedding"]
    return vector


def _take_generation(pending: Any) -> dict[str, Any]:
    generation = handle_of(lib.foreturn_pending_generation, "foreturn_generation", pending)
    try:
        made: dict[str, Any] = json.loads(owned_text(lib.foreturn_generation_json, generation))
        return made
    finally:
        lib.foreturn_generation_free(generation)
