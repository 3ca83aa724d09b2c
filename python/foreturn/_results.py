"""What an engine answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ._errors import ModelOutput
from ._requests import Message


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """One metric of a candidate, over the rollouts that count.

    Attributes:
        mean: its mean; None if no rollout counts.
        std_error: the mean's standard error; None at one sample.
        weight: its factor in the reward.
    """

    mean: float | None
    std_error: float | None
    weight: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled future of a candidate.

    Attributes:
        sample: its number among the candidate's samples, from 0.
        messages: the messages after the response.
        metrics: the value of each metric by name; None where it failed or was not asked.
        reward: the weighted sum of the metrics; None where one is missing.
        ended: why it ended: `"window"`, `"stop_signal"`, `"length"`, `"context"`, `"deadline"`, `"pruned"`,
            `"cancelled"` or `"failed"`.
        seed: the seed of its random stream.
        counted: whether it counts in the candidate's reward.
        reason: why it doesn't count; None if it does.
    """

    sample: int
    messages: tuple[Message, ...]
    metrics: Mapping[str, float | None]
    reward: float | None
    ended: str
    seed: int
    counted: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate and its reward.

    Attributes:
        index: its place in the request, from 0.
        response: its text; None only if it should have been sampled and was not.
        reward: the multiturn-aware reward: the mean over the rollouts that count; None if none does.
        std_error: the reward's standard error; None at one sample.
        interval: the reward's 95% interval (Student's t); None at one sample.
        probability_best: the probability that it is the best of the candidates, in [0, 1]; None at one sample.
        metrics: each metric over the rollouts that count, by name.
        rollouts: all rollouts, by sample.
        excluded: how many rollouts were asked for and do not count.
    """

    index: int
    response: str | None
    reward: float | None
    std_error: float | None
    interval: tuple[float, float] | None
    probability_best: float | None
    metrics: Mapping[str, MetricSummary]
    rollouts: tuple[Rollout, ...]
    excluded: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates ordered by reward, the best first. Those without a reward come last. Iterating gives the candidates.

    Attributes:
        candidates: the candidates in that order.
        complete: whether every rollout ran to its end. If not, a deadline cut the ranking short.
        outage: why a future was lost, if it was by what models run on (an endpoint that was away) and not by what they said;
            otherwise None. The same request may get another ranking later.
        bitwise: whether the same request with the same seed gives the same rewards, to the last bit.
        seconds: wall time.
        notes: remarks that the reader has to know.
    """

    candidates: tuple[Candidate, ...]
    complete: bool
    outage: str | None
    bitwise: bool
    seconds: float
    notes: tuple[str, ...]
    _json: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_dict(cls, json: dict[str, Any]) -> Ranking:
        """Reads what `to_dict` or `foreturn rank --json` gave.

        Raises:
            KeyError: the dict is not a ranking.
        """
        return cls(
            candidates=tuple(_candidate(candidate) for candidate in json["ranking"]),
            complete=json["complete"],
            outage=json.get("outage"),
            bitwise=json["bitwise"],
            seconds=json["cost"]["seconds"],
            notes=tuple(json.get("notes", ())),
            _json=json,
        )

    def to_dict(self) -> dict[str, Any]:
        """The whole ranking as the command line prints it, with costs, models and allocation."""
        return self._json

    @property
    def best(self) -> Candidate:
        """The candidate with the highest reward.

        Raises:
            ModelOutput: no candidate has a reward. The message has the reasons.
        """
        if not self.candidates or self.candidates[0].reward is None:
            reasons = {rollout.reason for candidate in self for rollout in candidate.rollouts if rollout.reason}
            why = "; ".join(sorted(reasons)) or "no rollout counts"
            raise ModelOutput(f"no candidate has a reward, so none is the best: {why}")
        return self.candidates[0]

    @property
    def rewards(self) -> list[float | None]:
        """The rewards in the order of the request; None where there is none."""
        return [candidate.reward for candidate in sorted(self.candidates, key=lambda candidate: candidate.index)]

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)


def _candidate(json: dict[str, Any]) -> Candidate:
    interval = json.get("interval")
    metrics = json["metrics"].items()
    return Candidate(
        index=json["candidate"],
        response=json["response"],
        reward=json["reward"],
        std_error=json["std_error"],
        interval=(interval[0], interval[1]) if interval else None,
        probability_best=json["probability_best"],
        metrics={name: MetricSummary(one["mean"], one["std_error"], one["weight"]) for name, one in metrics},
        rollouts=tuple(_rollout(rollout) for rollout in json["rollouts"]),
        excluded=json["excluded"],
    )


def _rollout(json: dict[str, Any]) -> Rollout:
    return Rollout(
        sample=json["sample"],
        messages=_messages(json["messages"]),
        metrics=json["metrics"],
        reward=json["reward"],
        ended=json["ended"],
        seed=json["seed"],
        counted=json["counted"],
        reason=json.get("reason"),
    )


def _messages(json: Sequence[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(said["role"], said["content"]) for said in json)


@dataclass(frozen=True, slots=True)
class EndedRollout:
    """A rollout that has just ended, as `on_rollout` gets it.

    Attributes:
        candidate: the index of its candidate in the request, from 0.
        sample: its number among the candidate's samples, from 0.
        messages: the messages after the response.
        reward: the weighted sum of its metrics; None if the rollout or a metric failed.
        ended: why it ended; see `Rollout`.
        seed: the seed of its random stream.
    """

    candidate: int
    sample: int
    messages: tuple[Message, ...]
    reward: float | None
    ended: str
    seed: int
    _json: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_dict(cls, json: dict[str, Any]) -> EndedRollout:
        """Reads a rollout of a trace."""
        said, reward = _messages(json["messages"]), json["reward"]
        return cls(json["candidate"], json["sample"], said, reward, json["ended"], json["seed"], json)

    def to_dict(self) -> dict[str, Any]:
        """The whole rollout as a trace has it: with tokens, metrics and their models' answers, and cost."""
        return self._json


@dataclass(frozen=True, slots=True)
class Interim:
    """A candidate's reward while its futures are still being sampled, as `on_interim` gets it.

    Attributes:
        candidate: the index of the candidate in the request, from 0.
        reward: the mean over the rollouts that count so far.
        std_error: its standard error; None with one rollout.
        probability_best: the probability that the candidate is the best; None where too little is known.
        rollouts: how many rollouts count so far.
    """

    candidate: int
    reward: float
    std_error: float | None
    probability_best: float | None
    rollouts: int

    @classmethod
    def of(cls, known: Any) -> Interim:
        """Reads the library's struct."""
        std_error, best = (None if math.isnan(value) else value for value in (known.std_error, known.probability_best))
        return cls(known.candidate, known.reward, std_error, best, known.rollout_count)


@dataclass(frozen=True, slots=True)
class Score:
    """A score of one input. Which fields are there depends on the task.

    Attributes:
        labels: the names of the head's numbers (`"labels"`, `"steps"`).
        scores: the logits: one per label, or a row of them per token or step (`"labels"`, `"steps"`).
        steps: the probability of each step, in [0, 1] (`"steps"`).
        logprob: the log-probability of the response, in nats (`"response"`).
        response_tokens: how many tokens it sums over, the one that ends the turn included (`"response"`).
        token_ids: these tokens as the model read them (`"response"`).
        token_logprobs: the log-probability of each of them given everything before it, in nats (`"response"`).
        tokens: how many tokens the model read.
    """

    labels: tuple[str, ...] = ()
    scores: Sequence[float] | Sequence[Sequence[float]] = ()
    steps: Sequence[float] = ()
    logprob: float | None = None
    response_tokens: int | None = None
    tokens: int | None = None
    token_ids: Sequence[int] = ()
    token_logprobs: Sequence[float] = ()

    @classmethod
    def from_dict(cls, json: dict[str, Any]) -> Score:
        """Reads one score of the library's JSON."""
        known = {name: json[name] for name in cls.__slots__ if name in json}
        return cls(**known | {"labels": tuple(json.get("labels", ()))})

    @property
    def value(self) -> float:
        """The one number of a score that has only one: a reward model's, or a log-probability.

        Raises:
            ValueError: there are none or several.
        """
        numbers = [self.logprob] if self.logprob is not None else list(self.steps or self.scores)
        if len(numbers) != 1 or not isinstance(numbers[0], (int, float)):
            raise ValueError(f"this score has no single number: its labels are {list(self.labels)}")
        return float(numbers[0])


@dataclass(frozen=True, slots=True)
class Generation:
    """A sampled reply.

    Attributes:
        text: the reply, without special tokens and stop text.
        finish: why it ended: `"stop"`, `"length"`, `"context"`, `"deadline"` or `"cancelled"`.
        tokens: the sampled token ids, with the one that ended the turn.
        logprobs: the log-probability of each token in nats, before temperature and truncation.
        prompt_tokens: how many tokens the prompt has.
        reused_tokens: how many of these were taken from the cache.
    """

    text: str
    finish: str
    tokens: list[int]
    logprobs: list[float]
    prompt_tokens: int
    reused_tokens: int


@dataclass(frozen=True, slots=True)
class LogProbs:
    """The log-probabilities of a prompt's tokens, each given those before it.

    Attributes:
        tokens: the prompt's token ids without the first, which has no log-probability: n - 1 of n.
        logprobs: the log-probability of each of them, in nats.
        prompt_tokens: how many tokens the prompt has, n.
        reused_tokens: how many of these were taken from the cache.
    """

    tokens: list[int]
    logprobs: list[float]
    prompt_tokens: int
    reused_tokens: int


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a stage took. All numbers are 0 before the first measurement.

    Attributes:
        count: how many measurements there are.
        sum: seconds in all.
        p50: the median in seconds. Quantiles are exact to within 1%.
        p95: the 95th percentile in seconds.
        p99: the 99th percentile in seconds.
    """

    count: int
    sum: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """An engine's counters at one moment.

    Attributes:
        queued_rankings: rankings that wait for a place.
        queued_calls: calls to single models that wait for a place.
        active_rankings: rankings under way.
        active_texts: texts of calls under way.
        refused: requests that were refused because the queue was full.
        stages: the latency of each stage: `"queue"`, `"rank"`, `"score"`, `"generate"`, `"log_probs"`, `"warm"`.
        models: the counters of each local model, by name.
    """

    queued_rankings: int
    queued_calls: int
    active_rankings: int
    active_texts: int
    refused: int
    stages: Mapping[str, Latency]
    models: Mapping[str, Mapping[str, Any]]

    @classmethod
    def from_dict(cls, json: dict[str, Any]) -> Statistics:
        """Reads the library's JSON."""
        known = {name: json[name] for name in cls.__slots__}
        stages = {name: Latency(**latency) for name, latency in json["stages"].items()}
        return cls(**known | {"stages": stages})

    def to_dict(self) -> dict[str, Any]:
        """The counters as JSON has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Export:
    """An export that was made.

    Attributes:
        architecture: the architecture that the checkpoint names.
        layers: how many layers the model has.
        parameters: how many parameters it has.
        bytes: the size of the weights on the disk.
        files: the weight files, each `"copied"`, `"written"` or `"hard_linked"`, by name.
    """

    architecture: str
    layers: int
    parameters: int
    bytes: int
    files: Mapping[str, str]
