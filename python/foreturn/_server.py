"""A client of `foreturn serve`: rankings by an engine in another process, or on another machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import urlsplit

from ._calls import OnRankError, check_on_error, forgive
from ._errors import Error, FileError, InvalidArgument, Overloaded, error_of
from ._requests import RankRequest, rank_json
from ._results import Ranking

_CONNECTIONS = 32


class Server:
    """An engine that `foreturn serve` has. It ranks as `Engine` does, and gives the same rewards for the same seeds.

    It pickles, and opens its connections at the first use in each process.
    """

    def __init__(self, address: str, key: str | None = None, *, retry_seconds: float = 600.0) -> None:
        """
        Args:
            address: `http://host:port`, `https://…` where a proxy has TLS, or `unix:PATH`.
            key: one of the server's keys.
            retry_seconds: how long a request waits for a place where the queue is full.

        Raises:
            InvalidArgument: the address is not one. Nothing is sent yet.
        """
        self._parts = urlsplit(address)
        if self._parts.scheme not in ("http", "https", "unix") or not (self._parts.netloc or self._parts.path):
            raise InvalidArgument(f"{address!r} is not the address of a server: write http://host:port or unix:PATH")
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
        connection = self._here.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def rank(
        self, request: RankRequest | Mapping[str, Any], *, timeout: float | None = None, priority: int = 0
    ) -> Ranking:
        """See `Engine.rank`. Where the queue is full, it waits for a place.

        Raises:
            FileError: the server can't be reached, or is none of ours.
            Error: what the server answered, by its kind.
        """
        headers = {"X-Priority": str(priority)} | ({} if timeout is None else {"X-Timeout": str(timeout)})
        body = rank_json(request).encode()
        until = time.monotonic() + self._retry_seconds
        while True:
            try:
                return Ranking.from_dict(self._post("/v1/rank", body, headers))
            except Overloaded:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.2)

    def rank_many(
        self, requests: Iterable[RankRequest | Mapping[str, Any]], on_error: OnRankError = "raise", *,
        timeout: float | None = None, priority: int = 0,
    ) -> list[Any]:
        """See `Engine.rank_many`."""
        check_on_error(on_error, ("raise", "none", "return"))

        def one(numbered: tuple[int, RankRequest | Mapping[str, Any]]) -> Ranking | Error | None:
            at, request = numbered
            try:
                return self.rank(request, timeout=timeout, priority=priority)
            except Error as error:
                return forgive(error, at, on_error)
            finally:
                # The thread ends with this call.
                self.close()

        with ThreadPoolExecutor(_CONNECTIONS, "foreturn-server") as pool:
            return list(pool.map(one, enumerate(requests)))

    async def rank_many_async(
        self, requests: Iterable[RankRequest | Mapping[str, Any]], on_error: OnRankError = "raise", *,
        timeout: float | None = None, priority: int = 0,
    ) -> list[Any]:
        """As `rank_many`, on an event loop."""
        return await asyncio.to_thread(self.rank_many, requests, on_error, timeout=timeout, priority=priority)

    def refresh(
        self, model: str, folder: str, *, version: str | None = None, mode: Literal["wait", "restart", "abort"] = "wait",
        shared: bool = False,
    ) -> str:
        """See `Engine.refresh`. The folder is an export that the server's machine sees. Returns the version."""
        asked = {"model": model, "folder": str(folder), "mode": mode, "shared": shared}
        body = json.dumps(asked | ({} if version is None else {"version": version})).encode()
        answer: str = self._post("/v1/refresh", body, {})["version"]
        return answer

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        sent = {"Content-Type": "application/json", **headers}
        if self._key is not None:
            sent["Authorization"] = f"Bearer {self._key}"
        try:
            status, data = self._exchange(path, body, sent)
            answer = json.loads(data)
            if status == 200:
                return answer
            failure = answer["error"]
            kind, message = failure["type"], failure["message"]
        except (OSError, http.client.HTTPException) as error:
            raise FileError(f"{self._address} can't be reached: {error!r}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise FileError(f"{self._address} does not answer as `foreturn serve` does: {data[:200]!r}") from error
        raise error_of(kind, message)

    def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Asks on this thread's connection. A server may have closed one that was idle, so that is tried once more."""
        for fresh in (False, True):
            connection = self._here.__dict__.get("connection")
            if connection is None or fresh:
                self.close()
                connection = self._here.connection = self._connect()
                fresh = True
            try:
                connection.request("POST", path, body, dict(headers))
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                if fresh:
                    raise
            except BaseException:
                # Half an exchange is left on it.
                self.close()
                raise
        raise AssertionError("the second connection is fresh")

    def _connect(self) -> http.client.HTTPConnection:
        parts = self._parts
        if parts.scheme == "unix":
            return _UnixConnection(parts.path)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.netloc, context=ssl.create_default_context())
        return http.client.HTTPConnection(parts.netloc)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)
