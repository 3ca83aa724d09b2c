"""The server as its tests see it: the wheel's command, listening, and what they ask it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello. What is it?"}]
REQUEST: dict[str, Any] = {
    "conversation": [{"role": "user", "content": "Write a poem."}],
    "candidates": ["What should it be about?", "Roses are red."],
    "goal": {"task": "writing a poem"},
    "seed": 3,
}


class Server:
    """The command, listening."""

    started: ClassVar[list[Server]] = []

    def __init__(
        self, config: Path, *arguments: str, program: Sequence[str] = (sys.executable, "-m", "foreturn"), **options: Any
    ) -> None:
        command = [*program, "serve", "--config", str(config)]
        listen = [] if "--listen" in arguments else ["--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen([*command, *listen, *arguments], stderr=subprocess.PIPE, text=True, **options)
        self.started.append(self)
        self.lines: list[str] = []
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listens on (?:https?://)?(\S+)", line):
                self.address = found[1]
                break
        else:
            raise AssertionError("".join(self.lines))
        threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True).start()

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, Any, http.client.HTTPResponse]:
        """Status, document, and the whole answer."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text, answer

    def post(self, path: str, body: Any, **headers: str) -> Any:
        status, document, _ = self.ask(path, body, **headers)
        assert status == 200, document
        return document

    def end(self, with_signal: int = signal.SIGTERM) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(60)


def without_time(document: Any) -> Any:
    """Everything but seconds, and the counts of what the cache happened to hold."""
    if isinstance(document, dict):
        left_out = {"seconds", "reused_tokens"}
        return {name: without_time(value) for name, value in document.items() if name not in left_out}
    return [without_time(value) for value in document] if isinstance(document, list) else document


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def counted(server: Server, name: str) -> float:
    _, text, _ = server.ask("/metrics")
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def active(server: Server) -> float:
    return counted(server, 'foreturn_active{kind="rankings"}')
