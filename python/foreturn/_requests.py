"""What an engine is asked: messages, rankings, inputs to score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

from ._errors import InvalidArgument, InvalidRequest
from ._native import Arguments, ffi
from ._pin import Pin, PinnedReply


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `"system"`, `"user"` or `"assistant"`.
        content: the text.
    """

    role: str
    content: str

    def to_dict(self) -> dict[str, str]:
        """The message as JSON has it."""
        return {"role": self.role, "content": self.content}


MessageLike: TypeAlias = Message | Mapping[str, Any]
"""A message: an object, or a dict with `role` and `content`."""
Conversation: TypeAlias = Sequence[MessageLike]
"""Messages, the oldest first."""


@dataclass(frozen=True, slots=True)
class RankRequest:
    """A ranking to be made. The fields are those of the command line's JSON.

    Attributes:
        conversation: the conversation so far, whose last message is the user's; or the pin of one that `Engine.warm` keeps
            for the policy.
        candidates: the responses to rank, or how many to sample from the policy; at most 1024.
        goal: what the user is after: `task`, `prompt`, `reference`, `tests`, `entry_point`, `ambiguous`. The policy
            never sees it.
        window: turns to sample ahead, 0 to 32; the configuration's if None.
        samples: futures for each candidate, 1 to 1024; the configuration's if None.
        seed: decides all random draws, 0 to 2**64 - 1; the configuration's if None.
    """

    conversation: Conversation | Pin
    candidates: Sequence[str] | int
    goal: Mapping[str, Any] | None = None
    window: int | None = None
    samples: int | None = None
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON has it. What is None is left out."""
        candidates = self.candidates if isinstance(self.candidates, int) else list(self.candidates)
        request: dict[str, Any] = {"conversation": self.conversation, "candidates": candidates}
        optional = {"goal": self.goal, "window": self.window, "samples": self.samples, "seed": self.seed}
        return request | {name: value for name, value in optional.items() if value is not None}


def rank_json(request: RankRequest | Mapping[str, Any]) -> str:
    """A request in JSON."""
    if isinstance(request, RankRequest):
        request = request.to_dict()
    if not isinstance(request, Mapping):
        raise InvalidRequest(f"the request is {request!r}: it is a RankRequest, or a dict with the fields of one")
    fields = dict(request)
    conversation = fields.get("conversation")
    if isinstance(conversation, Sequence) and not isinstance(conversation, str):
        said = [item.to_dict() if isinstance(item, Message) else item for item in conversation]
        fields["conversation"] = said
    try:
        return json.dumps(fields)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the request can't be written as JSON: {error}") from error


def rank_request(arguments: Arguments, request: RankRequest | Mapping[str, Any]) -> Any:
    """The library's struct for a request."""
    fields = request.to_dict() if isinstance(request, RankRequest) else request
    pin = fields.get("conversation") if isinstance(fields, Mapping) else None
    if not isinstance(pin, Pin):
        return arguments.struct("foreturn_rank_request", json=arguments.text(rank_json(request), "the request"))
    if pin.is_released:
        raise InvalidArgument("the request's conversation is a pin that was released: rank before, or give the messages")
    json_ = rank_json({name: value for name, value in fields.items() if name != "conversation"})
    return arguments.struct("foreturn_rank_request", json=arguments.text(json_, "the request"), pin=pin._handle)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens to score, used as they are.

    Attributes:
        tokens: token ids. With `response`, they are the prompt's.
        response: token ids of a response to the prompt, whose log-probability is wanted (`task="response"`).
    """

    tokens: Sequence[int]
    response: Sequence[int] | None = None


ScoreInput: TypeAlias = Conversation | str | Tokens | PinnedReply
"""What a model scores: a conversation, a text, tokens, or a reply to a pinned conversation."""


def is_one(inputs: ScoreInput | Sequence[ScoreInput]) -> TypeGuard[ScoreInput]:
    """Whether this is one input, and not a list of them. An empty list is a list of none."""
    if isinstance(inputs, (str, Tokens, PinnedReply)):
        return True
    return len(inputs) > 0 and isinstance(inputs[0], (Message, Mapping))


def messages(arguments: Arguments, conversation: Conversation, what: str) -> tuple[Any, int]:
    """An array of messages, and its length."""
    if isinstance(conversation, (str, Mapping)) or not isinstance(conversation, Sequence):
        raise InvalidArgument(f"{what} is {conversation!r}: it has to be a list of messages")
    array = arguments.array("foreturn_message", [{}] * len(conversation))
    for at, message in enumerate(conversation):
        array[at].role, array[at].content = _parts(arguments, message, f"{what}[{at}]")
    return array, len(conversation)


def _parts(arguments: Arguments, message: MessageLike, place: str) -> tuple[Any, Any]:
    if isinstance(message, Message):
        message = message.to_dict()
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise InvalidArgument(f"{place} is {message!r}: a message has `role` and `content`, and nothing else")
    return arguments.text(message["role"], f"{place}.role"), arguments.text(message["content"], f"{place}.content")


def prompt(
    arguments: Arguments, conversation: Conversation | None, tokens: Sequence[int] | None, generation_prompt: bool
) -> Any:
    """The library's struct for a prompt."""
    if (conversation is None) == (tokens is None):
        raise InvalidArgument("a prompt is either `messages` or `tokens`: give one of them")
    made = arguments.struct("foreturn_prompt", without_generation_prompt=not generation_prompt)
    if conversation is not None:
        made.messages, made.message_count = messages(arguments, conversation, "messages")
    if tokens is not None:
        made.tokens, made.token_count = arguments.array("uint32_t", tokens), len(tokens)
    return made


def score_inputs(arguments: Arguments, inputs: Sequence[ScoreInput]) -> Any:
    """An array of the library's structs for inputs to score."""
    return arguments.array("foreturn_score_input", [_score_input(arguments, item, at) for at, item in enumerate(inputs)])


def _score_input(arguments: Arguments, item: ScoreInput, at: int) -> Any:
    made = arguments.struct("foreturn_score_input")
    if isinstance(item, str):
        made.text = arguments.text(item, f"inputs[{at}]")
    elif isinstance(item, Tokens):
        made.tokens, made.token_count = arguments.array("uint32_t", item.tokens), len(item.tokens)
        if item.response is not None:
            made.response_tokens = arguments.array("uint32_t", item.response)
            made.response_token_count = len(item.response)
    elif isinstance(item, PinnedReply):
        if item.pin.is_released:
            raise InvalidArgument(f"inputs[{at}] replies to a pin that was released: score it before, or give the conversation")
        made.pin = item.pin._handle
        made.candidates, made.candidate_count = arguments.texts([item.text], f"inputs[{at}].candidates")
    else:
        made.messages, made.message_count = messages(arguments, item, f"inputs[{at}]")
    return made


def limits(timeout: float | None, priority: int) -> Any:
    """The library's struct for a deadline and a priority. `timeout` is in seconds."""
    if timeout is not None and not timeout > 0:
        raise InvalidArgument(f"timeout is {timeout}: it is a number of seconds above 0, or None for no limit")
    try:
        milliseconds = 0 if timeout is None else max(1, round(timeout * 1000))
        return ffi.new("foreturn_limits *", {"timeout_ms": milliseconds, "priority": priority})
    except (OverflowError, TypeError) as error:
        raise InvalidArgument(f"timeout {timeout!r} or priority {priority!r} is out of range: {error}") from error
