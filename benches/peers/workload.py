"""The token sequences that every engine gets: those of `foreturn bench` (src/cli/bench/job.rs), made again in Python.

Tokens are ordinary ones without meaning. What matters is how many there are and which sequences share a beginning, and
`check` makes sure that both are as in foreturn's own job.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

Tokens = list[int]

ORDERS = ("reference", "fixed-first")
"""Where the prompts of user and judge have their fixed text: around the conversation, or before it."""

HISTORY = 380
"""Tokens of the conversation that all candidates share."""
CANDIDATE = 80
"""Tokens of one candidate."""
SHORT_PROMPT = 37
"""Tokens of the prompt that is used to see how soon a process has its first token."""

EXPECTED_PROMPT_TOKENS = 35_616
EXPECTED_DISTINCT_TOKENS = {"reference": 11_299, "fixed-first": 5_525}


@dataclass(frozen=True)
class Phase:
    """One request of every future."""

    name: str
    frame: tuple[int, int]
    """Fixed tokens before the conversation and after it."""
    salt: int
    new: int
    movable: bool
    """Whether the order of the prompt decides where the fixed tokens are; a chat template decides for the policy."""


PHASES = (
    Phase("user", (279, 700), salt=5, new=48, movable=True),
    Phase("policy", (22, 7), salt=4, new=64, movable=False),
    Phase("judge", (86, 334), salt=3, new=1, movable=True),
)


def prompt(tokens: int, salt: int) -> Tokens:
    """Ordinary tokens without meaning; different salts share no prefix."""
    return [1000 + (i * 7919 + salt * 104_729) % 10_000 for i in range(tokens)]


def conversations(candidates: int, samples: int) -> list[Tokens]:
    """What each future starts from: the history and its candidate."""
    starts = [prompt(HISTORY, 2) + prompt(CANDIDATE, 100 + candidate) for candidate in range(candidates)]
    return [list(start) for start in starts for _ in range(samples)]


def framed(phase: Phase, conversation: Tokens, order: str) -> Tokens:
    """The prompt of one phase: the conversation with the phase's fixed tokens around it or before it."""
    before, after = phase.frame
    fixed = prompt(before + after, phase.salt)
    split = before + after if phase.movable and order == "fixed-first" else before
    return fixed[:split] + conversation + fixed[split:]


def played(order: str, candidates: int, samples: int) -> Iterator[tuple[Phase, list[Tokens]]]:
    """Each phase with its prompts, where every future is given tokens of its own as replies."""
    futures = conversations(candidates, samples)
    for phase in PHASES:
        yield phase, [framed(phase, conversation, order) for conversation in futures]
        for index, conversation in enumerate(futures):
            conversation.extend(prompt(phase.new, 1000 + index))


def distinct_positions(prompts: list[Tokens]) -> list[int]:
    """The position of each token that an engine has to compute if it computes common beginnings once."""
    nodes: dict[tuple[int, int], int] = {}
    positions = []
    for tokens in prompts:
        node = 0
        for position, token in enumerate(tokens):
            if (node, token) not in nodes:
                nodes[node, token] = len(nodes) + 1
                positions.append(position)
            node = nodes[node, token]
    return positions


def check() -> None:
    """Fails unless the job with 4 candidates and 3 samples has foreturn's token counts and sharing."""
    for order in ORDERS:
        phases = [prompts for _, prompts in played(order, candidates=4, samples=3)]
        total = sum(map(len, itertools.chain.from_iterable(phases)))
        distinct = sum(len(distinct_positions(prompts)) for prompts in phases)
        expected = (EXPECTED_PROMPT_TOKENS, EXPECTED_DISTINCT_TOKENS[order])
        if (total, distinct) != expected:
            raise AssertionError(f"the job in order {order} has {total} tokens, {distinct} distinct; not {expected}")
