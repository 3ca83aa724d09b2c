"""Requests under way: waiting for them, from threads and from event loops."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ._errors import Error
from ._native import call, callback, ffi, lib, read
from ._results import EndedRollout, Interim

T = TypeVar("T")

SLICE_MS = 25
"""Milliseconds for which a wait stays in the library. Python looks at signals, and delivers progress, in between."""


class Relay:
    """Carries what the library's threads report about one request to whoever waits for it.

    The library's threads only put events into a queue. So a slow callback holds up nobody but its caller, and what it
    raises reaches its caller.
    """

    def __init__(
        self,
        under_way: set[Relay],
        *,
        on_progress: Callable[[int, int], object] | None = None,
        on_rollout: Callable[[EndedRollout], object] | None = None,
        on_interim: Callable[[list[Interim]], object] | None = None,
        on_text: Callable[[str], object] | None = None,
        on_ready: Callable[[], object] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.handle = ffi.new_handle(self)
        self.on_progress, self.on_rollout, self.on_text = on_progress, on_rollout, on_text
        self.on_interim = on_interim
        self._on_ready = on_ready
        self._loop = loop
        self._events: deque[Callable[[], object]] = deque()
        self._under_way = under_way
        self._deliver_later: Callable[[], object] = lambda: None
        # Nothing is reported to somebody who only waits, so that the engine's thread needn't wait for Python's lock.
        self.reports = any(asked is not None for asked in (on_progress, on_rollout, on_interim, on_text, on_ready, loop))
        if self.reports:
            # The library holds a bare pointer to the handle until the request is done.
            under_way.add(self)

    @property
    def ready_function(self) -> Any:
        """The function that the library calls when the request is done."""
        return became_ready if self.reports else ffi.NULL

    def put(self, event: Callable[[], object]) -> None:
        """Queues an event. Any thread."""
        self._events.append(event)
        self.wake(self._deliver_later)

    def wake(self, function: Callable[[], object]) -> None:
        """Calls a function on the event loop, if there is one that still runs."""
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(function)
            except RuntimeError:
                pass  # The loop was closed in this moment, and nobody waits any more.

    def deliver(self) -> None:
        """Calls the caller's functions for what was reported. What they raise comes through."""
        while self._events:
            self._events.popleft()()

    def deliver_on_loop(self, deliver: Callable[[], object]) -> None:
        """From now on, events make the event loop call `deliver`."""
        self._deliver_later = deliver

    def ready(self) -> None:
        """The request is done. Any thread."""
        self._under_way.discard(self)
        if self._on_ready is not None:
            self._on_ready()
        self.wake(self._deliver_later)

    def drop(self) -> None:
        """The library refused the request, so nothing will be reported.

        After any other exception, such as an interrupt, the library may have taken it. Then `ready` will come.
        """
        self._under_way.discard(self)


@callback("foreturn_progress_fn")
def progressed(user_data: Any, finished: int, total: int) -> None:
    """See `foreturn_rank_options.on_progress`."""
    relay: Relay = ffi.from_handle(user_data)
    if relay.on_progress is not None:
        on_progress = relay.on_progress
        relay.put(lambda: on_progress(finished, total))


@callback("foreturn_rollout_fn")
def rollout_ended(user_data: Any, rollout: Any) -> None:
    """See `foreturn_rank_options.on_rollout`."""
    relay: Relay = ffi.from_handle(user_data)
    if relay.on_rollout is not None:
        on_rollout, text = relay.on_rollout, read(rollout.json)
        relay.put(lambda: on_rollout(EndedRollout.from_dict(json.loads(text))))


@callback("foreturn_interim_fn")
def interim_came(user_data: Any, known: Any, count: int) -> None:
    """See `foreturn_rank_options.on_interim`."""
    relay: Relay = ffi.from_handle(user_data)
    if relay.on_interim is not None:
        on_interim, told = relay.on_interim, [Interim.of(known[at]) for at in range(count)]
        relay.put(lambda: on_interim(told))


@callback("foreturn_text_fn")
def text_came(user_data: Any, text: Any) -> None:
    """See `foreturn_generate_options.on_text`."""
    relay: Relay = ffi.from_handle(user_data)
    if relay.on_text is not None:
        on_text, piece = relay.on_text, read(text)
        relay.put(lambda: on_text(piece))


@callback("foreturn_ready_fn")
def became_ready(user_data: Any) -> None:
    """See `foreturn_ready_fn`."""
    relay: Relay = ffi.from_handle(user_data)
    relay.ready()


class Pending(Generic[T]):
    """A queued request. Dropping it before it is done cancels it."""

    def __init__(
        self, handle: Any, relay: Relay, take: Callable[[Any], T], explain: Callable[[Error], Error]
    ) -> None:
        self._handle = handle
        self._relay = relay
        self._take = take
        self._explain = explain
        self._free = weakref.finalize(self, _cancel_and_free, handle)
        # The engine is closed at exit, and that ends its requests.
        self._free.atexit = False

    def is_done(self, timeout_ms: int = 0) -> bool:
        """Whether the request is done, successfully or not, after at most `timeout_ms` milliseconds."""
        ready = ffi.new("bool *")
        call(lib.foreturn_pending_wait, self._handle, timeout_ms, ready)
        return bool(ready[0])

    def take(self) -> T:
        """The result of a request that is done. It can be taken once.

        Raises:
            Error: the request's failure.
        """
        try:
            return self._take(self._handle)
        except Error as error:
            explained = self._explain(error)
            raise explained from explained.__cause__
        finally:
            self._free()

    def cancel(self) -> None:
        """Cancels the request, and gives up its result. Nothing happens if the result was taken."""
        self._free()

    def wait(self) -> T:
        """Waits for the result. An exception that comes in between, such as KeyboardInterrupt, cancels the request."""
        try:
            while not self.is_done(SLICE_MS):
                self._relay.deliver()
            self._relay.deliver()
        except BaseException:
            self._free()
            raise
        return self.take()

    async def wait_on_loop(self) -> T:
        """Waits for the result on the event loop that the relay was made for. Cancelling the task cancels the request."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def deliver() -> None:
            if done.done():
                return  # Something was raised, or the task was cancelled: nobody listens any more.
            try:
                self._relay.deliver()
                if self.is_done():
                    done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        self._relay.deliver_on_loop(deliver)
        deliver()
        try:
            await done
        except BaseException:
            self._free()
            raise
        return self.take()


def _cancel_and_free(handle: Any) -> None:
    lib.foreturn_pending_cancel(handle, ffi.NULL)
    lib.foreturn_pending_free(handle)
