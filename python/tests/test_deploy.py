"""`deploy/`: the unit of systemd and the Containerfile say what the command takes."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import foreturn
from conftest import REPOSITORY
from foreturn import _runtime
from serving import REQUEST, Server

DEPLOY = REPOSITORY / "deploy"
UNIT = (DEPLOY / "foreturn.service").read_text(encoding="utf-8")


def started(line: str) -> list[str]:
    """The arguments of a command line of the unit."""
    program, serve, *arguments = shlex.split(line)
    assert (program, serve) == ("/opt/foreturn/bin/foreturn", "serve")
    return arguments


def deny_execution() -> None:
    """What `MemoryDenyWriteExecute=yes` does: memory that was written is not executed."""
    pr_set_mdwe, refuse = 65, 1
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_mdwe, refuse, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_MDWE")


def test_the_unit_is_one(tmp_path: Path) -> None:
    """As systemd reads it. The program's place is a stand-in, because systemd looks whether it is there."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd is not here")
    program = tmp_path / "foreturn"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "foreturn.service"
    unit.write_text(UNIT.replace("/opt/foreturn/bin/foreturn", str(program)))
    ended = subprocess.run([verify, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0 and not ended.stderr.strip(), ended.stderr


def test_the_units_commands_start(config: Path) -> None:
    """Without the right to execute what was written."""
    commands = re.findall(r"^#?ExecStart=(.*)$", UNIT, re.MULTILINE)
    assert len(commands) == 2
    arguments = started(commands[0])
    assert arguments[:2] == ["--config", "/etc/foreturn/foreturn.toml"]
    arguments[arguments.index("127.0.0.1:8080")] = "127.0.0.1:0"
    # The command itself, because Python's bindings write what they execute.
    program = [str(Path(foreturn.__file__).with_name("foreturn-command"))]
    environment = os.environ | {"ORT_DYLIB_PATH": os.environ.get("ORT_DYLIB_PATH") or str(_runtime.installed())}
    own = Server(config, *arguments[2:], program=program, env=environment, preexec_fn=deny_execution)
    assert own.post("/v1/rank", REQUEST)["complete"]
    assert own.end() == 0
    # The other one is a comment, whose files are credentials. The options are those of the command.
    help_text = subprocess.run(
        [sys.executable, "-m", "foreturn", "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = [argument for argument in started(commands[1]) if argument.startswith("--")]
    assert len(options) == 5 and all(option in help_text for option in options), options


def test_the_containerfile_copies_what_is_there() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {line.split()[0] for line in lines} == known
    for line in lines:
        if line.startswith("COPY --from=build"):
            *sources, _ = line.split()[2:]
            for source in sources:
                path = source.removeprefix("/source/")
                assert path.startswith("target/") or (REPOSITORY / path).exists(), source
    channel = re.search(r'channel = "(\d+\.\d+)', (REPOSITORY / "rust-toolchain.toml").read_text(encoding="utf-8"))
    assert channel and f"rust:{channel[1]}-" in text, "the compiler is that of rust-toolchain.toml"
    entry = json.loads(next(line for line in lines if line.startswith("ENTRYPOINT")).removeprefix("ENTRYPOINT "))
    command = json.loads(next(line for line in lines if line.startswith("CMD")).removeprefix("CMD "))
    arguments = started(shlex.join([*entry, *command]))
    assert arguments[0::2] == ["--config", "--listen", "--keys"]
