"""Python called by the library: metrics, chat models, and the progress of requests.

The library calls from its own threads. What is passed as `user_data` is a handle of a Python object, which the engine keeps
until the library has said that it needs it no more. No exception may leave a callback, so each is caught here and kept for
the caller.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ._errors import Error
from ._native import Arguments, call, callback, ffi, lib, read
from ._requests import Message


@dataclass(frozen=True, slots=True)
class MetricInput:
    """A conversation for a metric to score.

    Attributes:
        messages: the whole conversation: the history, the response, and the sampled future.
        response: the index of the response in `messages`.
        goal: the user's goal, as the request has it.
        ended: why the future ended; see `Rollout`.
    """

    messages: tuple[Message, ...]
    response: int
    goal: dict[str, Any]
    ended: str


class Metric:
    """A metric in Python. Its value times `weight` is added to the reward.

    Pass a function, or derive a class and override `score`. It is called from threads of the library, perhaps from several
    at once. It may use the engine, but not close it. If it raises, the rollouts of the batch have failed, as
    `on_metric_failure` of the configuration says.
    """

    name: str = ""
    weight: float = 1.0

    def __init__(
        self,
        name: str | None = None,
        score: Callable[[Sequence[MetricInput]], Sequence[float]] | None = None,
        weight: float | None = None,
    ) -> None:
        """
        Args:
            name: the metric's name in rankings: two metrics need two names. If None, that of the class or the function.
            score: takes a batch of conversations and gives a finite number for each.
            weight: the metric's factor in the reward; finite. If None, the class's, which is 1.
        """
        named = self if score is None else score
        self.name = name or self.name or str(getattr(named, "__name__", type(named).__name__))
        self.weight = self.weight if weight is None else weight
        self._score = score

    def score(self, batch: Sequence[MetricInput]) -> Sequence[float]:
        """A finite number for each conversation of the batch, in its order."""
        if self._score is None:
            raise NotImplementedError(f"metric `{self.name}`: pass a function, or override `score`")
        return self._score(batch)


ScoreFunction: TypeAlias = Callable[[Sequence[MetricInput]], Sequence[float]]
MetricLike: TypeAlias = Metric | ScoreFunction
"""A metric, or a function that scores a batch, which has weight 1."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request to a chat model.

    Attributes:
        messages: the conversation so far. The model speaks next.
        task: `"generate"`: write a reply. `"choose"`: give the probability that each answer opens the reply.
        seed: the seed of the reply's random stream.
        max_tokens: the most tokens to sample (`"generate"`).
        temperature: the sampling temperature; 0 is greedy (`"generate"`).
        top_p: the probability mass of nucleus sampling, in (0, 1] (`"generate"`).
        stop: texts that end the reply and are not part of it (`"generate"`).
        answers: the answers, each with its accepted spellings (`"choose"`).
        schema: the JSON schema that the reply has to follow, or None (`"generate"`).
        as_user: whether the model writes the user's next message, because it was trained to be the user (`"generate"`).
    """

    messages: tuple[Message, ...]
    task: Literal["generate", "choose"]
    seed: int
    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    schema: dict[str, Any] | None
    as_user: bool


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A written reply with its counts of tokens, which are added to the ranking's cost.

    Attributes:
        text: the reply, without the stop text.
        cut: whether it was cut off at `max_tokens`.
        prompt_tokens: how many tokens the prompt has; 0 if unknown.
        generated_tokens: how many tokens were sampled; 0 if unknown.
    """

    text: str
    cut: bool = False
    prompt_tokens: int = 0
    generated_tokens: int = 0


Reply: TypeAlias = str | ChatReply | Sequence[float] | Exception
"""A text, or the probability of each answer (in [0, 1], their sum at most 1), or the reason why there is none."""


class ChatModel:
    """A chat model in Python. Roles of the configuration may name it.

    Pass a function, or derive a class and override `reply`. It is called from a thread of the engine, one call at a time,
    with all requests that wait. It may be slow, but the engine waits for it: it must not call the same engine.

    Attributes:
        reproducible: whether equal requests with equal seeds get identical replies. `Ranking.bitwise` rests on it.
    """

    reproducible = False

    def __init__(
        self, reply: Callable[[Sequence[ChatRequest]], Sequence[Reply]] | None = None, reproducible: bool | None = None
    ) -> None:
        """
        Args:
            reply: takes a batch of requests and gives a reply for each.
            reproducible: see the class; the class's value if None.
        """
        self._reply = reply
        if reproducible is not None:
            self.reproducible = reproducible

    def reply(self, batch: Sequence[ChatRequest]) -> Sequence[Reply]:
        """A reply for each request of the batch, in its order."""
        if self._reply is None:
            raise NotImplementedError("a chat model: pass a function, or override `reply`")
        return self._reply(batch)


ChatModelLike: TypeAlias = ChatModel | Callable[[Sequence[ChatRequest]], Sequence[Reply]]
"""A chat model, or a function that replies to a batch."""


class Host:
    """A metric or chat model as the library knows it, and the exceptions that it raised last."""

    def __init__(self, name: str, called: Metric | ChatModel) -> None:
        self.name = name
        self.called = called
        self.handle = ffi.new_handle(self)
        self._raised: deque[tuple[BaseException, str, Any]] = deque(maxlen=16)

    def raised(self, error: BaseException) -> Any:
        """Keeps an exception, and gives its text as the library reads it. The text lives as long as the exception."""
        text, arguments = describe(error), Arguments()
        lent = arguments.text(text, "a message")
        self._raised.append((error, text, arguments))
        return lent

    def cause_of(self, error: Error) -> BaseException | None:
        """The exception behind an error of the library, if this raised it: the error has its text."""
        return next((raised for raised, text, _ in reversed(self._raised) if text in str(error)), None)


def describe(error: BaseException) -> str:
    """An exception in one line that the library can hold."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return " ".join(text.encode(errors="replace").decode().split())


def metric_struct(arguments: Arguments, host: Host, metric: Metric) -> Any:
    """The library's struct for a metric."""
    return arguments.struct(
        "foreturn_metric",
        name=arguments.text(metric.name, "a metric's name"),
        weight=float(metric.weight),
        score=_score,
        user_data=host.handle,
    )


def chat_model_struct(arguments: Arguments, host: Host, model: ChatModel) -> Any:
    """The library's struct for a chat model."""
    return arguments.struct(
        "foreturn_chat_model",
        name=arguments.text(host.name, "a chat model's name"),
        reply=_reply,
        reproducible=bool(model.reproducible),
        user_data=host.handle,
    )


@callback("foreturn_metric_score_fn", error=1)
def _score(user_data: Any, inputs: Any, count: int, values: Any, why: Any) -> int:
    host: Host = ffi.from_handle(user_data)
    try:
        assert isinstance(host.called, Metric)
        batch = [_metric_input(inputs[at]) for at in range(count)]
        numbers = [float(number) for number in host.called.score(batch)]
        _check_length(len(numbers), count, "numbers", "conversations")
        values[0:count] = numbers
        return 0
    except BaseException as error:
        why[0] = host.raised(error)
        return 1


def _metric_input(given: Any) -> MetricInput:
    said = _messages(given.messages, given.message_count)
    return MetricInput(said, given.response, json.loads(read(given.goal_json)), read(given.ended))


@callback("foreturn_chat_reply_fn", error=1)
def _reply(user_data: Any, requests: Any, count: int, replies: Any, why: Any) -> int:
    host: Host = ffi.from_handle(user_data)
    try:
        assert isinstance(host.called, ChatModel)
        batch = [_chat_request(requests[at]) for at in range(count)]
        given = list(host.called.reply(batch))
        _check_length(len(given), count, "replies", "requests")
        for at, reply in enumerate(given):
            _put(host, replies, at, reply)
        return 0
    except BaseException as error:
        why[0] = host.raised(error)
        return 1


def _chat_request(given: Any) -> ChatRequest:
    schema, generates = read(given.schema_json), given.task == lib.FORETURN_CHAT_GENERATE
    answers = (given.answers[at] for at in range(given.answer_count))
    return ChatRequest(
        messages=_messages(given.messages, given.message_count),
        task="generate" if generates else "choose",
        seed=given.seed,
        max_tokens=given.max_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        stop=_texts(given.stop, given.stop_count),
        answers=tuple(_texts(answer.spellings, answer.spelling_count) for answer in answers),
        schema=json.loads(schema) if schema else None,
        as_user=given.as_user,
    )


def _put(host: Host, replies: Any, at: int, reply: Reply) -> None:
    """Hands one reply over. One that can't be used fails only its own request."""
    arguments = Arguments()
    try:
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, str):
            reply = ChatReply(reply)
        if isinstance(reply, ChatReply):
            text, counts = arguments.text(reply.text, f"replies[{at}]"), (reply.prompt_tokens, reply.generated_tokens)
            call(lib.foreturn_chat_replies_text, replies, at, text, reply.cut, *counts)
        else:
            numbers = arguments.array("double", list(reply))
            call(lib.foreturn_chat_replies_choice, replies, at, numbers, len(numbers))
    except Exception as error:
        call(lib.foreturn_chat_replies_fail, replies, at, host.raised(error))


def _check_length(got: int, wanted: int, what: str, of: str) -> None:
    if got != wanted:
        raise ValueError(f"it gave {got} {what} for {wanted} {of}: give one for each, in their order")


def _texts(texts: Any, count: int) -> tuple[str, ...]:
    return tuple(read(texts[at]) for at in range(count))


def _messages(given: Any, count: int) -> tuple[Message, ...]:
    return tuple(Message(read(given[at].role), read(given[at].content)) for at in range(count))


@callback("foreturn_export_progress_fn")
def export_progress(user_data: Any, done: int, total: int) -> None:
    """Calls the list's function, until it raises. The exception is appended to the list for whoever exports."""
    calls: list[Any] = ffi.from_handle(user_data)
    if len(calls) > 1:
        return
    try:
        calls[0](done, total)
    except BaseException as error:
        calls.append(error)


@callback("foreturn_run_progress_fn")
def run_progress(user_data: Any, finished: int, failed: int, total: int) -> None:
    """Calls the list's function, until it raises. The exception is appended to the list for whoever waits for the run."""
    calls: list[Any] = ffi.from_handle(user_data)
    if len(calls) > 1:
        return
    try:
        calls[0](finished, failed, total)
    except BaseException as error:
        calls.append(error)
