"""The package as it is installed."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import foreturn
from conftest import REPOSITORY
from foreturn import _runtime

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_declarations_are_those_of_the_header(run: Run) -> None:
    checked = run(str(REPOSITORY / "tools" / "cdef.py"), "--check")
    assert checked.returncode == 0, checked.stderr


def test_versions_agree() -> None:
    workspace = tomllib.loads((REPOSITORY / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]["package"]["version"]
    assert foreturn.__version__ == importlib.metadata.version("foreturn") == workspace


def test_the_pinned_runtime_is_the_one_of_the_other_tests() -> None:
    fetch = (REPOSITORY / "tools" / "fetch.py").read_text(encoding="utf-8")
    assert f'ONNXRUNTIME_VERSION = "{importlib.metadata.version("onnxruntime")}"' in fetch


def test_the_wheel_is_for_any_python_and_depends_on_no_framework() -> None:
    wheel = importlib.metadata.distribution("foreturn").read_text("WHEEL") or ""
    assert "Tag: py3-none-" in wheel and "-any" not in wheel
    needed = importlib.metadata.requires("foreturn") or []
    assert [name for name in needed if "extra ==" not in name] == ["cffi>=2.0"]


def test_the_wheel_has_the_licences_of_what_it_contains() -> None:
    files = {path.name for path in importlib.metadata.files("foreturn") or [] if "licenses" in path.parts}
    assert files == {"LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY-NOTICES", "rust-standard-library.html"}


def test_every_public_name_is_documented() -> None:
    for name in foreturn.__all__:
        described = getattr(foreturn, name)
        assert not callable(described) or described.__doc__, name
    undocumented = [name for name, method in vars(foreturn.Engine).items() if not name.startswith("_") and not method.__doc__]
    assert not undocumented


def without_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "ORT_DYLIB_PATH"}


def test_the_runtime_of_the_onnxruntime_package_is_used_without_importing_it(run: Run, models: dict[str, Path]) -> None:
    program = f"""
import sys, foreturn
with foreturn.Engine(models={{"m": {str(models["reward"])!r}}}) as engine:
    engine.score("m", "a text")
print("onnxruntime" in sys.modules, [line.split()[-1] for line in open("/proc/self/maps") if "libonnxruntime.so" in line][0])
"""
    ended = run("-c", program, env=without_path())
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["False", str(_runtime.installed())]


def test_without_a_runtime_the_error_says_what_to_install(run: Run, models: dict[str, Path]) -> None:
    program = f"""
import sys, foreturn
sys.modules["onnxruntime"] = None  # As if it were not installed.
foreturn.Engine(models={{"m": {str(models["reward"])!r}}})
"""
    ended = run("-c", program, env=without_path())
    assert "RuntimeMissing" in ended.stderr and "pip install onnxruntime" in ended.stderr, ended.stderr


@pytest.mark.parametrize("by", ["environment", "configuration", "file", "argument"])
def test_a_runtime_that_is_named_is_the_only_one_tried(run: Run, models: dict[str, Path], by: str, tmp_path: Path) -> None:
    (tmp_path / "foreturn.toml").write_text('[runtime]\nlibrary = "/nowhere/libonnxruntime.so"\n', encoding="utf-8")
    config = {"configuration": {"runtime": {"library": "/nowhere/libonnxruntime.so"}}, "file": str(tmp_path / "foreturn.toml")}
    library = "/nowhere/libonnxruntime.so" if by == "argument" else None
    program = f"""
import foreturn
foreturn.Engine({config.get(by)!r}, models={{"m": {str(models["reward"])!r}}}, runtime_library={library!r})
"""
    named = {"ORT_DYLIB_PATH": "/nowhere/libonnxruntime.so"} if by == "environment" else {}
    ended = run("-c", program, env=without_path() | named)
    assert "RuntimeMissing" in ended.stderr and "/nowhere/libonnxruntime.so" in ended.stderr, ended.stderr


def test_the_first_example_of_the_guide_runs(run: Run, real_model: Path, tmp_path: Path) -> None:
    assert real_model.exists()
    guide = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    example = guide.split("```python\n")[1].split("```")[0]
    assert "engine.rank(" in example
    ended = run("-c", example, cwd=REPOSITORY)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 2, ended.stdout


def test_the_module_is_the_command(run: Run) -> None:
    assert run("-m", "foreturn", "--version").stdout.split() == ["foreturn", foreturn.__version__]
    assert run("-m", "foreturn", "no-such-thing").returncode == 2
    script = Path(sys.executable).with_name("foreturn")
    assert subprocess.run([script, "--version"], capture_output=True, check=True).stdout.startswith(b"foreturn ")
    found = run("-m", "foreturn", "doctor", "--json", env=without_path()).stdout
    assert str(_runtime.installed()) in found
