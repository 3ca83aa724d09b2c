"""Rewards for trainers: what every adapter has in common. It imports no framework."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ._callbacks import ChatModelLike
from ._engine import Engine
from ._errors import DeadlineExceeded, Error, InvalidArgument, InvalidConfig, InvalidRequest
from ._requests import MessageLike
from ._results import Ranking
from ._server import Server

EngineLike: TypeAlias = Engine | Server | str | os.PathLike[str] | Mapping[str, Any]
"""An engine, the path of a `foreturn.toml`, a dict with its keys, or a server: its address (`http://…`, `unix:…`) or a `Server`,
where it wants a key."""
PolicyLike: TypeAlias = str | ChatModelLike
"""The name of a model, or a chat model: a function that replies to a batch."""

_POLICY = "trainer-policy"
_RECIPE: dict[str, str] = {"single_turn_prompt": "prompt", "task_desc": "task"}


@dataclass(frozen=True, slots=True)
class Row:
    """A response to be rewarded.

    Attributes:
        conversation: the messages before it, with `role` and `content`.
        response: its text.
        goal: what the user is after; None if unknown.
    """

    conversation: Sequence[MessageLike]
    response: str
    goal: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A response's reward, or the reason why it has none.

    Attributes:
        reward: the multiturn-aware reward.
        std_error: its standard error; None at one sample.
        tokens: how many tokens were read or written for it, those taken from the cache not counted.
        excluded: the share of its futures that do not count, in [0, 1].
        error: why there is no reward.
        outage: why a future was lost, if an endpoint was away: another time, the reward may be another one.
    """

    reward: float | None
    std_error: float | None = None
    tokens: int = 0
    excluded: float = 0.0
    error: Error | None = None
    outage: str | None = None


class Rewarder:
    """Ranks each response alone, so that its reward does not depend on its neighbours in a batch, or on the process.

    It pickles, and opens its engine at the first use in each process.
    """

    def __init__(
        self,
        engine: EngineLike,
        policy: PolicyLike | None = None,
        samples: int | None = None,
        window: int | None = None,
        seed: int = 0,
        empty: float | None = None,
        timeout: float | None = None,
        priority: int = 0,
        **options: Any,
    ) -> None:
        """
        Args:
            engine: an engine, or what makes one.
            policy: who plays the policy in the futures; the configuration's if None.
            samples: futures for each response; the configuration's if None.
            window: turns to sample ahead; the configuration's if None.
            seed: makes other random draws.
            empty: the reward of a response without text, which can't be ranked. If None, it has none.
            timeout: seconds for each ranking.
            priority: higher goes first.
            options: further arguments of `Engine`, such as `metrics`.
        """
        if isinstance(engine, str) and engine.startswith(("http://", "https://", "unix:")):
            engine = Server(engine)
        made = engine if isinstance(engine, (Engine, Server)) else None
        if made is not None and (policy is not None or options):
            given = ", ".join([*(["policy"] if policy is not None else []), *options])
            raise InvalidArgument(f"{given}: an engine that is made already can't be changed. Pass its configuration instead")
        self._config: Any = None if made is not None else engine
        self._engine: Engine | Server | None = made
        self._policy, self._options = policy, options
        self._plan = {name: value for name, value in {"window": window, "samples": samples}.items() if value is not None}
        self._seed, self._empty = seed, empty
        self._limits: dict[str, Any] = {"timeout": timeout, "priority": priority}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self._engine, Server):
            return self.__dict__ | {"_lock": None}
        if self._config is None:
            raise TypeError(
                "this reward holds an open engine, which can't be pickled: pass the path of a foreturn.toml, or a dict, "
                "and each process makes an engine of its own"
            )
        return self.__dict__ | {"_engine": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def given(self) -> Engine | Server | None:
        """The engine that is there already."""
        return self._engine

    def open(self) -> Engine | Server:
        """The engine. The first call makes it."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make()
            return self._engine

    def close(self) -> None:
        """Closes the engine, if this made it. The next use makes another one."""
        with self._lock:
            if self._config is not None and self._engine is not None:
                self._engine.close()
                self._engine = None

    def _make(self) -> Engine:
        config, options = self._config, dict(self._options)
        if self._policy is not None:
            config, base = table_of(config)
            options.setdefault("base_folder", base)
            name = self._policy if isinstance(self._policy, str) else _POLICY
            config["roles"] = dict(config.get("roles", {})) | {"policy": name}
            if not isinstance(self._policy, str):
                options["chat_models"] = dict(options.get("chat_models") or {}) | {name: self._policy}
        return Engine(config, **options)

    def rewards(self, rows: Sequence[Row]) -> list[Outcome]:
        """The outcome of each row.

        Raises:
            InvalidRequest: a row makes no sense. The message has its number.
            Closed, Forked: the engine can't be used.
        """
        asked, requests = self._requests(rows)
        return self._outcomes(rows, asked, self.open().rank_many(requests, "return", **self._limits))

    async def rewards_async(self, rows: Sequence[Row]) -> list[Outcome]:
        """As `rewards`, on an event loop."""
        asked, requests = self._requests(rows)
        return self._outcomes(rows, asked, await self.open().rank_many_async(requests, "return", **self._limits))

    def _requests(self, rows: Sequence[Row]) -> tuple[list[int], list[dict[str, Any]]]:
        """The rows that can be ranked, and a request for each."""
        asked = [at for at, row in enumerate(rows) if row.response.strip()]
        return asked, [self.request(rows[at]) for at in asked]

    def request(self, row: Row) -> dict[str, Any]:
        """What the engine is asked for a row."""
        seed = prompt_seed(row.conversation, self._seed)
        request = {"conversation": row.conversation, "candidates": [row.response], "seed": seed, **self._plan}
        return request | ({"goal": row.goal} if row.goal else {})

    def _outcomes(
        self, rows: Sequence[Row], asked: Sequence[int], results: Sequence[Ranking | Error]
    ) -> list[Outcome]:
        blank = InvalidRequest("the response is empty, so there is nothing to rank (`empty` gives such responses a reward)")
        outcomes = [Outcome(self._empty, error=blank if self._empty is None else None)] * len(rows)
        for at, result in zip(asked, results, strict=True):
            outcomes[at] = _outcome(result, at)
        return outcomes


def _outcome(result: Ranking | Error, at: int) -> Outcome:
    if isinstance(result, (InvalidRequest, InvalidArgument, InvalidConfig)):
        # The caller's mistake. It will not go away, so it must not look like a failure now and then.
        wrong = type(result)(f"row {at} of the batch: {result}", result.causes)
        raise wrong from result
    if isinstance(result, Error):
        return Outcome(None, error=result)
    roles = [role for role in result.to_dict()["cost"].values() if isinstance(role, Mapping)]
    tokens = sum(role["prompt_tokens"] - role["reused_tokens"] + role["generated_tokens"] for role in roles)
    try:
        best = result.best
    except Error as error:
        return Outcome(None, tokens=tokens, error=error)
    if not result.complete:
        late = DeadlineExceeded("the deadline passed before all futures had ended: allow more time (`timeout`), or sample fewer")
        return Outcome(None, tokens=tokens, error=late)
    excluded = best.excluded / max(1, len(best.rollouts))
    return Outcome(best.reward, best.std_error, tokens, excluded, outage=result.outage)


def table_of(config: Any) -> tuple[dict[str, Any], Path | None]:
    """A configuration as a dict, and the folder from which its paths start."""
    if isinstance(config, Mapping):
        return dict(config), None
    path = Path(config)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), path.parent
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{path} can't be read: {error}") from error


def prompt_seed(conversation: Sequence[MessageLike], seed: int) -> int:
    """The seed of a response's futures: of the prompt, whose responses so get the same luck, and of nothing else.

    The engine derives a stream for each sample from it. It has 53 bits, so that every JSON reader keeps it exactly.
    """
    said = json.dumps([seed, conversation], sort_keys=True)
    return int.from_bytes(hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 11


def row_of(prompt: Any, completion: Any, goal: Mapping[str, Any] | None, prompt_place: str, completion_place: str) -> Row:
    """A row of a prompt and a completion, which are texts or messages."""
    conversation = conversation_of(prompt, prompt_place)
    if isinstance(completion, str):
        return Row(conversation, completion, goal)
    said = messages_of(completion, completion_place)
    if not said or said[-1]["role"] != "assistant":
        raise InvalidArgument(f"{completion_place} is {completion!r}: its last message has to be the assistant's")
    return Row([*conversation, *said[:-1]], said[-1]["content"], goal)


def conversation_of(prompt: Any, place: str) -> list[dict[str, str]]:
    """The messages of a prompt: a plain text is what the user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt, place)


def messages_of(messages: Any, place: str) -> list[dict[str, str]]:
    """Messages with `role` and `content` alone."""
    if not isinstance(messages, Iterable) or isinstance(messages, (str, bytes, Mapping)):
        raise InvalidArgument(f"{place} is {messages!r}: it is a text, or a list of messages")
    return [_message(message, f"{place}[{at}]") for at, message in enumerate(messages)]


def _message(message: Any, place: str) -> dict[str, str]:
    """A message with its text alone. Datasets and templates add fields of their own, and parts instead of a text."""
    if not isinstance(message, Mapping) or "role" not in message:
        raise InvalidArgument(f"{place} is {message!r}: a message is a dict with `role` and `content`")
    return {"role": message["role"], "content": _text(message.get("content"), f"{place}.content")}


def _text(content: Any, place: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else [content]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise InvalidArgument(f"{place} is {content!r}: only texts can be ranked")
    return "".join(part["text"] for part in parts)


def goal_of(value: Any, place: str) -> dict[str, Any] | None:
    """A goal from a dataset's cell.

    A dict has the fields of a request's goal, or their names in CollabLLM's recipe (`single_turn_prompt`, `task_desc`).
    Fields that are None are left out, because `datasets` fills in what other rows have. A text is JSON of such a dict, or
    else the full request of the user.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("{") else {"prompt": value}
        except ValueError as error:
            raise InvalidArgument(f"{place} looks like JSON, but is not: {error}") from error
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{place} is {value!r}: a goal is a dict, a text, or None")
    fields = {_RECIPE.get(str(name), str(name)): _plain(field) for name, field in value.items() if field is not None}
    return fields or None


def _plain(value: Any) -> Any:
    """A number or an array of numpy's as Python has it."""
    return value.tolist() if hasattr(value, "tolist") else value


_VARIABLES: dict[str, Callable[[str], Any]] = {"samples": int, "window": int, "seed": int, "empty": float, "timeout": float}


def from_environment(*further: str) -> dict[str, Any]:
    """Arguments of a reward from the environment: FORETURN_CONFIG, and FORETURN_ with the argument's name.

    Args:
        further: names of arguments that are texts.

    Raises:
        InvalidConfig: FORETURN_CONFIG is not set, or a variable is not a number.
    """
    arguments: dict[str, Any] = {}
    for name in ("config", "policy", *further, *_VARIABLES):
        if text := os.environ.get(f"FORETURN_{name.upper()}"):
            try:
                arguments[name] = _VARIABLES.get(name, str)(text)
            except ValueError:
                raise InvalidConfig(f"FORETURN_{name.upper()} is {text!r}: it has to be a number") from None
    if "config" not in arguments:
        raise InvalidConfig("FORETURN_CONFIG is not set: it is the path of a foreturn.toml (docs/training.md)")
    return {"engine": arguments.pop("config"), **arguments}


def install(package: str, what: str) -> str:
    """The message that a framework is missing."""
    return f"{what} needs {package}, which is not installed: `pip install {package}`"
