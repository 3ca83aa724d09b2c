"""Finds ONNX Runtime's library in the package `onnxruntime` or `onnxruntime-gpu`, without importing it; and the command."""

from __future__ import annotations

import importlib.util
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ADVICE = "`pip install onnxruntime` (or onnxruntime-gpu) brings it; or set ORT_DYLIB_PATH, or `library` in [runtime]"


def installed() -> Path | None:
    """The library of the installed package. Both distributions have the same import name."""
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except (ImportError, ValueError):
        return None
    pattern = "libonnxruntime*.dylib" if sys.platform == "darwin" else "libonnxruntime.so*"
    for folder in (spec and spec.submodule_search_locations) or ():
        # Providers are libraries of their own (libonnxruntime_providers_….so), which the pattern leaves out.
        found = sorted(path for path in Path(folder, "capi").glob(pattern) if "_providers_" not in path.name)
        if found:
            return found[-1]
    return None


def is_named(config: str | os.PathLike[str] | Mapping[str, Any] | None) -> bool:
    """Whether the environment or the configuration names a library. What can't be read is the library's to report."""
    if os.environ.get("ORT_DYLIB_PATH"):
        return True
    if isinstance(config, (str, os.PathLike)):
        try:
            config = tomllib.loads(Path(config).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
    runtime = (config or {}).get("runtime", {})
    return isinstance(runtime, Mapping) and bool(runtime.get("library"))


def command() -> tuple[str, dict[str, str]]:
    """The command line, which the wheel carries, and its environment: it finds the ONNX Runtime of this Python, unless
    ORT_DYLIB_PATH names another one."""
    environment = dict(os.environ)
    library = installed()
    if library and not environment.get("ORT_DYLIB_PATH"):
        environment["ORT_DYLIB_PATH"] = str(library)
    return str(Path(__file__).with_name("foreturn-command")), environment
