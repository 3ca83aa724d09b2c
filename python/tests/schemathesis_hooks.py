"""What schemathesis changes in the requests that it makes up: they name models that are there, and ask for little.

Without it, every body would name a model that does not exist, and no answer but 404 would be seen. Rankings as large as the
document allows would take hours.
"""

from __future__ import annotations

import contextlib
from typing import Any

import schemathesis

# Models of the tests' configuration, by route.
MODELS = {"/v1/score": "reward", "/score": "embedder", "/classify": "reward", "/pooling": "embedder", "/v1/embeddings": "embedder"}
LITTLE = {"samples": 1, "window": 1, "max_tokens": 4, "keep": 1}


def little(body: dict[str, Any], path: str) -> dict[str, Any]:
    """Changes only what has the right type already, so that bodies that are wrong stay so."""
    changed = dict(body)
    # A few keep the name that was made up.
    if isinstance(body.get("model"), str) and len(body["model"]) != 7:
        changed["model"] = MODELS.get(path, "chat")
    for field, most in LITTLE.items():
        if isinstance(body.get(field), (int, float)) and not isinstance(body[field], bool):
            changed[field] = min(body[field], most)
    if isinstance(body.get("candidates"), int):
        changed["candidates"] = min(body["candidates"], 2)
    return changed


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Two headers are not what is looked for, either: a deadline that passes is a 504, which is right, and a header that the
    document does not name is no mistake to HTTP, but one to schemathesis. It becomes one."""
    if isinstance(case.body, dict):
        case.body = little(case.body, case.operation.path)
    if case.headers is None:
        return
    with contextlib.suppress(TypeError, ValueError):
        if 0 < float(case.headers.get("X-Timeout")) < 60:
            case.headers["X-Timeout"] = "60"
    if case.headers.pop("x-schemathesis-unknown-property", None) is not None:
        case.headers["X-Priority"] = "none"
