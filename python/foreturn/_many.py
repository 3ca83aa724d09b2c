"""Many rankings: as many at once as the engine takes."""

from __future__ import annotations

import asyncio
import functools
import queue
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from . import _calls
from ._calls import Call, OnRankError, check_on_error, forgive
from ._errors import Error, Overloaded
from ._pending import Pending, Relay
from ._requests import RankRequest
from ._results import Ranking

IN_FLIGHT = 64
"""Rankings that are submitted at once: four times what runs at once, so that no place is ever empty."""
RETRY_SECONDS = 0.02
"""The pause before a request is submitted again, where the queue is full of others' requests."""


def rank_many(
    submit: Callable[[Call[Ranking], Relay], Pending[Ranking]],
    under_way: set[Relay],
    requests: Iterable[RankRequest | Mapping[str, Any]],
    on_error: OnRankError,
    timeout: float | None,
    priority: int,
) -> list[Any]:
    """See `Engine.rank_many`."""
    check_on_error(on_error, ("raise", "none", "return"))
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    flight: dict[int, Pending[Ranking]] = {}
    results: list[Ranking | Error | None] = []
    limit = float(IN_FLIGHT)

    def collect() -> None:
        """Takes the result of the next request that is done. (Python looks at signals while it waits for a queue.)"""
        nonlocal limit
        at = done.get()
        # There may be more room than at the last refusal: one more for as many as have ended.
        limit = min(IN_FLIGHT, limit + 1 / limit)
        try:
            results[at] = flight.pop(at).take()
        except Error as error:
            results[at] = forgive(error, at, on_error)

    try:
        for at, request in enumerate(requests):
            results.append(None)
            call = _calls.rank(request, timeout, priority)
            while at not in flight:
                while len(flight) >= int(limit):
                    collect()
                try:
                    flight[at] = submit(call, Relay(under_way, on_ready=functools.partial(done.put, at)))
                except Overloaded:
                    # The queue is short, or others fill it. For now there are no more than fitted.
                    limit = float(max(1, len(flight)))
                    if not flight:
                        time.sleep(RETRY_SECONDS)
                except Error as error:
                    results[at] = forgive(error, at, on_error)
                    break
        while flight:
            collect()
    finally:
        # After a failure or an interruption, what is left is cancelled.
        for pending in flight.values():
            pending.cancel()
    return results


async def rank_many_async(
    rank: Callable[..., Awaitable[Ranking]],
    requests: Iterable[RankRequest | Mapping[str, Any]],
    on_error: OnRankError,
    timeout: float | None,
    priority: int,
) -> list[Any]:
    """See `Engine.rank_many_async`."""
    check_on_error(on_error, ("raise", "none", "return"))
    places = asyncio.Semaphore(IN_FLIGHT)

    async def one(at: int, request: RankRequest | Mapping[str, Any]) -> Ranking | Error | None:
        async with places:
            while True:
                try:
                    return await rank(request, timeout=timeout, priority=priority)
                except Overloaded:
                    await asyncio.sleep(RETRY_SECONDS)
                except Error as error:
                    return forgive(error, at, on_error)

    tasks = [asyncio.ensure_future(one(at, request)) for at, request in enumerate(requests)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
