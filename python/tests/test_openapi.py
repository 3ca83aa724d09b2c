"""The OpenAPI document: what it says is what the server does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving import Server

HERE = Path(__file__).parent
# Bodies for each route. Most of a run is the document's own boundaries, which schemathesis tries one by one.
EXAMPLES = 20


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    status, found, _ = server.ask("/openapi.json")
    assert status == 200
    return found


def test_the_command_prints_what_the_server_gives(document: Any, run: Any) -> None:
    ended = run("-m", "foreturn", "serve", "--openapi")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == document


def test_every_documented_route_is_there_and_no_other(server: Server, document: Any) -> None:
    """docs/server.md names them, too."""
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    for method, path in documented:
        status, _, _ = server.ask(path, b"{}" if method == "POST" else None, method)
        assert status not in (404, 405) or "{pin}" in path, path
    text = (HERE.parents[1] / "docs" / "server.md").read_text(encoding="utf-8")
    assert [path for _, path in documented if path.removesuffix("/{pin}") not in text] == []
    assert server.ask("/nowhere")[0] == 404


def test_schemathesis_finds_nothing(server: Server, document: Any, tmp_path: Path) -> None:
    """No failure of the server, no status, header or body that the document does not know, and no nonsense accepted."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"http://{server.address}/openapi.json",
        "--seed", "20", "--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing", "--no-color",
        # Names of models and sizes of texts are beyond a schema, so what it allows may be refused.
        "--exclude-checks", "positive_data_acceptance", "--request-timeout", "60", "--warnings", "off",
        "--suppress-health-check", "all", "--continue-on-failure", "--generation-database", "none",
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": os.pathsep.join(
        [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    )}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False, timeout=500)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr
    assert server.ask("/ready")[0] == 200
    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    answered = {line["path"] for line in lines if line["status"] == 200}
    # These need a ranking, and a folder.
    wanted = {path for path in document["paths"] if "{" not in path} - {"/v1/rescore", "/v1/refresh"}
    assert wanted <= answered, "what the document says of these answers was not checked"
