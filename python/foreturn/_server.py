"""A client of `foreturn serve`: rankings by an engine in another process, or on another machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import urlsplit

from ._calls import OnRankError, check_on_error, forgive
from ._errors import Cancelled, Error, FileError, InvalidArgument, InvalidRequest, error_of
from ._requests import RankRequest, rank_json
from ._results import Ranking

_CONNECTIONS = 32
_SLACK_SECONDS = 30.0
"""How much longer than the timeout of a request its answer may take."""


class Server:
    """An engine that `foreturn serve` has. It ranks as `Engine` does, and gives the same rewards for the same seeds.

    It pickles, and opens its connections at the first use in each process.
    """

    def __init__(self, address: str, key: str | None = None, *, retry_seconds: float = 600.0) -> None:
        """
        Args:
            address: `http://host:port`, `https://…` where it or a proxy has TLS, or `unix:PATH`.
            key: one of the server's keys.
            retry_seconds: how long a request waits for a place where the queue is full.

        Raises:
            InvalidArgument: the address is not one. Nothing is sent yet.
        """
        self._place = _place(address)
        self._address, self._key, self._retry_seconds = address, key, retry_seconds
        self._here = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_here": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._here = threading.local()

    def __repr__(self) -> str:
        return f"Server({self._address!r})"

    def close(self) -> None:
        """Closes this thread's connection. The next use opens another."""
        line = self._here.__dict__.pop("line", None)
        if line is not None:
            line.close()

    def rank(
        self, request: RankRequest | Mapping[str, Any], *, timeout: float | None = None, priority: int = 0
    ) -> Ranking:
        """See `Engine.rank`. Where the queue is full, it waits for a place.

        Raises:
            FileError: the server can't be reached, or is none of ours.
            Error: what the server answered, by its kind.
        """
        return self._rank(self._line(), request, timeout, priority, threading.Event())

    def rank_many(
        self, requests: Iterable[RankRequest | Mapping[str, Any]], on_error: OnRankError = "raise", *,
        timeout: float | None = None, priority: int = 0,
    ) -> list[Any]:
        """See `Engine.rank_many`. A server that can't be reached, or wants another key, is an error in any case."""
        return _Batch(self, on_error, timeout, priority).run(requests)

    async def rank_many_async(
        self, requests: Iterable[RankRequest | Mapping[str, Any]], on_error: OnRankError = "raise", *,
        timeout: float | None = None, priority: int = 0,
    ) -> list[Any]:
        """As `rank_many`, on an event loop."""
        batch = _Batch(self, on_error, timeout, priority)
        waiting = ThreadPoolExecutor(1, "foreturn-server")
        try:
            return await asyncio.get_running_loop().run_in_executor(waiting, batch.run, requests)
        except asyncio.CancelledError:
            batch.stop()
            raise
        finally:
            waiting.shutdown(wait=False)

    def refresh(
        self, model: str, folder: str, *, version: str | None = None, mode: Literal["wait", "restart", "abort"] = "wait",
        shared: bool = False,
    ) -> str:
        """See `Engine.refresh`. The folder is an export that the server's machine sees. Returns the version."""
        asked = {"model": model, "folder": str(folder), "mode": mode, "shared": shared}
        body = json.dumps(asked | ({} if version is None else {"version": version})).encode()
        status, answer = self._post(self._line(), "/v1/refresh", body, {}, None)
        if status != 200:
            raise self._failure(answer)
        return str(answer["version"])

    def _line(self) -> _Line:
        """This thread's connection. A forked child has one of its own, because two must not write to one."""
        line: _Line | None = self._here.__dict__.get("line")
        if line is None or line.process != os.getpid():
            line = self._here.line = _Line(self._place)
        return line

    def _rank(
        self, line: _Line, request: RankRequest | Mapping[str, Any], timeout: float | None, priority: int,
        stopped: threading.Event,
    ) -> Ranking:
        headers = {"X-Priority": str(priority)} | ({} if timeout is None else {"X-Timeout": str(timeout)})
        body = rank_json(request).encode()
        until = time.monotonic() + self._retry_seconds
        while True:
            status, answer = self._post(line, "/v1/rank", body, headers, timeout)
            if status == 200:
                return Ranking.from_dict(answer)
            # Nothing was done for it yet.
            if status != 429 or time.monotonic() >= until:
                raise self._failure(answer)
            if stopped.wait(0.2):
                raise Cancelled("another request of the batch failed, or the caller was interrupted")

    def _post(self, line: _Line, path: str, body: bytes, headers: Mapping[str, str], timeout: float | None) -> Any:
        sent = {"Content-Type": "application/json", **headers}
        if self._key is not None:
            sent["Authorization"] = f"Bearer {self._key}"
        try:
            status, data = line.exchange(path, body, sent, None if timeout is None else timeout + _SLACK_SECONDS)
            return status, json.loads(data)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._address} can't be reached: {error!r}") from error
        except ValueError as error:
            raise Unreachable(f"{self._address} does not answer as `foreturn serve` does: {data[:200]!r}") from error

    def _failure(self, answer: Any) -> Error:
        try:
            kind, message = answer["error"]["type"], answer["error"]["message"]
        except (TypeError, KeyError):
            return Unreachable(f"{self._address} does not answer as `foreturn serve` does: {str(answer)[:200]}")
        if kind == "unauthorized":
            return Unreachable(f"{self._address}: {message}")
        return InvalidRequest(message) if kind == "not_found" else error_of(kind, message)


class Unreachable(FileError):
    """Nothing can be asked of the server: it belongs to all requests, not to one."""


class _Batch:
    """Rankings at the same time, which end together."""

    def __init__(self, server: Server, on_error: OnRankError, timeout: float | None, priority: int) -> None:
        check_on_error(on_error, ("raise", "none", "return"))
        self._server, self._on_error, self._timeout, self._priority = server, on_error, timeout, priority
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._here = threading.local()

    def run(self, requests: Iterable[RankRequest | Mapping[str, Any]]) -> list[Any]:
        pool = ThreadPoolExecutor(_CONNECTIONS, "foreturn-server", self._begin)
        try:
            return list(pool.map(self._one, enumerate(requests)))
        except BaseException:
            # Those under way are cancelled at the server, too, because their callers hang up.
            self.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for line in self._lines:
                line.close()

    def stop(self) -> None:
        """Ends what is under way. Any thread may call it."""
        self._stopped.set()
        with self._lock:
            for line in self._lines:
                line.cut()

    def _begin(self) -> None:
        self._here.line = _Line(self._server._place)
        with self._lock:
            self._lines.append(self._here.line)

    def _one(self, numbered: tuple[int, RankRequest | Mapping[str, Any]]) -> Ranking | Error | None:
        at, request = numbered
        if self._stopped.is_set():
            raise Cancelled("another request of the batch failed, or the caller was interrupted")
        try:
            return self._server._rank(self._here.line, request, self._timeout, self._priority, self._stopped)
        except Unreachable:
            raise
        except Error as error:
            return forgive(error, at, self._on_error)


class _Line:
    """A connection, opened when it is needed. One thread uses it."""

    def __init__(self, place: tuple[str, str]) -> None:
        self.process = os.getpid()
        self._place = place
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cut(self) -> None:
        """Ends an exchange of another thread."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def exchange(self, path: str, body: bytes, headers: Mapping[str, str], timeout: float | None) -> tuple[int, bytes]:
        """Asks. A server may have closed a connection that was idle, so that is tried once more."""
        while True:
            is_fresh = self._connection is None
            connection = self._connection = self._connection or _connection(self._place)
            try:
                if connection.sock is None:
                    connection.connect()
                    _keep_alive(connection.sock)
                connection.sock.settimeout(timeout)
                connection.request("POST", path, body, dict(headers))
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                if is_fresh:
                    raise
            except BaseException:
                # Half an exchange is left on it.
                self.close()
                raise


def _place(address: str) -> tuple[str, str]:
    """The scheme of an address, and its host with its port, or its path."""
    if address.startswith("unix:") and len(address) > len("unix:"):
        return "unix", address.removeprefix("unix:")
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and not parts.query
        _ = parts.port
    except ValueError:
        sound = False
    if not sound:
        raise InvalidArgument(f"{address!r} is not the address of a server: write http://host:port or unix:PATH")
    return parts.scheme, parts.netloc


def _connection(place: tuple[str, str]) -> http.client.HTTPConnection:
    scheme, where = place
    if scheme == "unix":
        return _UnixConnection(where)
    if scheme == "https":
        return http.client.HTTPSConnection(where, context=ssl.create_default_context())
    return http.client.HTTPConnection(where)


def _keep_alive(sock: Any) -> None:
    """Notices a machine that is gone within about a minute, however long an answer may take."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)
