"""What a measurement was made on and with: the machine, the versions, the commit."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "asimddp", "i8mm")
"""Instruction sets that decide how fast matrix products are."""
PACKAGES = (
    "onnxruntime-genai", "onnxruntime", "llama-cpp-python", "torch", "transformers", "tokenizers", "safetensors",
    "gguf", "openvino", "openvino-genai", "nncf", "numpy",
)  # fmt: skip


def describe(foreturn: Path) -> dict[str, Any]:
    """Everything that belongs beside the numbers."""
    return {
        "date": now(),
        "commit": commit(),
        "machine": machine(),
        "versions": {"foreturn": version(foreturn), "python": platform.python_version(), **packages()},
        "foreturn_sha256": hashlib.sha256(foreturn.read_bytes()).hexdigest(),
    }


def now() -> str:
    """The time, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """Processor, its instruction sets, and memory."""
    processor = dict(line.split(":", 1) for line in said("lscpu").splitlines() if ":" in line)
    flags = processor.get("Flags", "").split()
    return {
        "processor": processor.get("Model name", platform.machine()).strip(),
        "processors": os.cpu_count(),
        "used": len(os.sched_getaffinity(0)),
        "threads_per_core": processor.get("Thread(s) per core", "").strip(),
        "l3_cache": processor.get("L3 cache", "").strip(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
    }


def commit() -> str:
    """The commit of the working tree, marked where the tree has changes."""
    name = said("git", "-C", str(REPOSITORY), "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = said("git", "-C", str(REPOSITORY), "status", "--porcelain", "--untracked-files=no")
    return f"{name}+changes" if changed else name


def version(foreturn: Path) -> str:
    """What the command says of itself."""
    return said(str(foreturn), "--version").removeprefix("foreturn ") or "unknown"


def packages() -> dict[str, str | None]:
    """The version of every package that an engine needs; None where it is absent."""
    return {name: package(name) for name in PACKAGES}


def package(name: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def said(*command: str) -> str:
    """What a command prints; nothing where there is no such command or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
