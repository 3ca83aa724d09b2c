"""Starts one process for one measurement, and tells how long it took and how much memory it had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import IO

UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Where these are set, current builds of numpy run slower kernels than they would choose by themselves."""


class ProcessError(Exception):
    """A measurement that failed: which command, how, and the end of what it said."""


@dataclass(frozen=True)
class Finished:
    """A process that succeeded."""

    output: str
    first_output_seconds: float
    """From its start to its first line on standard output."""
    seconds: float
    """From its start to its end."""
    peak_rss_bytes: int


def pin(threads: int) -> None:
    """Keeps this process, and so all that it starts, on as many processors as there are threads to be.

    foreturn takes as many threads as it has processors; the others are told. And a measurement ends with this process,
    even if that is told to terminate.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise SystemExit(f"--threads {threads}: this process may only use {len(allowed)} processors")
    os.sched_setaffinity(0, allowed[:threads])


def environment(threads: int) -> dict[str, str]:
    """This process's environment, with as many threads and no network for every library."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return {**kept, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(command: list[str], threads: int, timeout: float) -> Finished:
    """Runs a command to its end.

    The peak of memory is the kernel's for that process. A child begins with its parent's peak, so the parent has to
    stay small: no torch, no numpy in the driver.
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment(threads))
        timer = threading.Timer(timeout, child.kill)
        timer.start()
        try:
            first_line = child.stdout.readline()
            first = time.perf_counter()
            output = first_line + child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
            end = time.perf_counter()
            child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
            child.stdout.close()
        if child.returncode:
            raise ProcessError(failure(command, child.returncode, end - start >= timeout, errors))
    return Finished(output.decode(), first - start, end - start, usage.ru_maxrss * 1024)


def failure(command: list[str], code: int, timed_out: bool, errors: IO[bytes]) -> str:
    """What to say of a process that failed."""
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().splitlines()[-5:]
    reason = "ran past its time limit" if timed_out else f"ended with {code}"
    return "\n".join([f"{' '.join(command)}: {reason}", *last])
