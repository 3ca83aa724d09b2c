"""A scripted model behind an OpenAI-compatible address: fixed replies, chosen by the asker and the order."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Words that occur only in the prompt of one questioner: the key that it wants in the reply.
KEYS = {'"final_completion"': "extractor", '"accuracy"': "accuracy", '"interactivity"': "interactivity"}


def asker(model: str, messages: list[dict[str, str]]) -> str:
    """The asker: `user` and `policy` have a model each, judges and extractor share one."""
    if model in ("user", "policy"):
        return model
    found = [name for key, name in KEYS.items() if key in messages[-1]["content"]]
    if len(found) != 1:
        raise ValueError(f"a judge's prompt asks for {found}, not for one thing")
    return found[0]


class ScriptedServer:
    """Serves `replies[asker]` one after another. Every reply has to be fetched, and none twice."""

    def __init__(self) -> None:
        self.replies: dict[str, list[str]] = {}
        self.taken: dict[str, int] = {}
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def script(self, replies: dict[str, list[str]]) -> None:
        with self.lock:
            self.replies, self.taken = replies, dict.fromkeys(replies, 0)

    def unfetched(self) -> dict[str, int]:
        return {who: len(said) - self.taken[who] for who, said in self.replies.items() if len(said) != self.taken[who]}

    def next(self, who: str) -> str:
        with self.lock:
            at = self.taken[who]
            self.taken[who] += 1
            return self.replies[who][at]

    def _handler(outer) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = outer.next(asker(request["model"], request["messages"]))
                self._send(completion(request["model"], reply))

            def _send(self, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def completion(model: str, text: str) -> dict[str, Any]:
    """A chat completion as the API gives it."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "scripted", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}
