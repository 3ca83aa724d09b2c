"""Compiles the library and the command with cargo, and puts them into the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from cffi import FFI
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """The wheel has no code for a particular Python, but some for a platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            raise SystemExit("foreturn is built as a wheel, because the library is part of it: `pip install ./python`")
        repository = Path(self.root).parent
        compile_workspace(repository)
        made = repository / "target" / "python"
        made.mkdir(exist_ok=True)
        library = "libforeturn.dylib" if sys.platform == "darwin" else "libforeturn.so"
        for built, name in {library: library, "foreturn": "foreturn-command"}.items():
            strip(repository / "target" / "release" / built, made / name)
            build_data["force_include"][str(made / name)] = f"foreturn/{name}"
        bindings = FFI()
        bindings.cdef(Path(self.root, "foreturn", "_cdef.h").read_text(encoding="utf-8"))
        bindings.set_source("foreturn._bindings", None)
        bindings.emit_python_code(str(made / "_bindings.py"))
        build_data["force_include"][str(made / "_bindings.py")] = "foreturn/_bindings.py"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False


def compile_workspace(repository: Path) -> None:
    """As `make library` does, so that what it compiled is not compiled again."""
    if shutil.which("cargo") is None:
        raise SystemExit("foreturn is compiled from Rust, and cargo is missing: install Rust (https://rustup.rs)")
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    command = ["cargo", "build", "--release", "--workspace", "--locked"]
    subprocess.run(command, cwd=repository, env=environment, check=True)


def strip(built: Path, to: Path) -> None:
    """Copies a file without its debugging information, which is three quarters of it."""
    if sys.platform == "linux" and shutil.which("strip"):
        subprocess.run(["strip", "--strip-unneeded", "-o", to, built], check=True)
    else:
        shutil.copy2(built, to)
