"""Compiles the library and the command with cargo, and puts them into the wheel, with the licences of what they contain."""

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
        files = {made / "_bindings.py": "foreturn/_bindings.py"}
        library = "libforeturn.dylib" if sys.platform == "darwin" else "libforeturn.so"
        for built, name in {library: library, "foreturn": "foreturn-command"}.items():
            strip(repository / "target" / "release" / built, made / name)
            files[made / name] = f"foreturn/{name}"
        bindings = FFI()
        bindings.cdef(Path(self.root, "foreturn", "_cdef.h").read_text(encoding="utf-8"))
        bindings.set_source("foreturn._bindings", None)
        bindings.emit_python_code(str(made / "_bindings.py"))
        licences = f"{self.metadata.name}-{self.metadata.version}.dist-info/licenses"
        files |= {path: f"{licences}/{name}" for name, path in licence_files(repository, made).items()}
        build_data["force_include"] |= {str(path): inside for path, inside in files.items()}
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


def licence_files(repository: Path, made: Path) -> dict[str, Path]:
    """The project's own licences, and those of the crates and of Rust's library, which the binaries contain."""
    sys.path.insert(0, str(repository / "tools"))
    import notices

    third_party = made / "THIRD-PARTY-NOTICES"
    try:
        # The command links every crate that the library links.
        third_party.write_text(notices.notices("foreturn-cli"), encoding="utf-8")
        files = {"rust-standard-library.html": notices.standard_library()}
    except notices.NoticeError as error:
        raise SystemExit(f"the wheel can't be made without its licences: {error}") from error
    own = {name: repository / name for name in ("LICENSE-APACHE", "LICENSE-MIT")}
    return files | own | {third_party.name: third_party}


def strip(built: Path, to: Path) -> None:
    """Copies a file without its debugging information, which is three quarters of it."""
    if sys.platform == "linux" and shutil.which("strip"):
        subprocess.run(["strip", "--strip-unneeded", "-o", to, built], check=True)
    else:
        shutil.copy2(built, to)
