"""What ONNX Runtime's CUDA provider does on the GPU at hand, from the cheapest proof to the dearest.

    python probe.py --out probe.jsonl                 every part
    python probe.py --out probe.jsonl --parts library,operator
    python probe.py --out probe.jsonl --machine host  a rehearsal without a GPU, small: CUDA replaced by NumPy
    python probe.py --out probe.jsonl --machine webgpu  the same through ONNX Runtime's WebGPU plug-in (see webgpu.py)

Each part runs in a process of its own, with its own time limit, and appends a JSON line to the file for each thing that
it found; what is there stays there when a later part fails. A line with `status` closes each part: `ok`, `failed`,
`timeout`, `no device`, or `skipped` when `--limit` seconds are used up. If the first part fails, nothing after it can
work, and the probe stops with exit code 1. Without a GPU, or without CUDA's libraries, it says so and stops with 77.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
import traceback

# Part, and the most seconds that it may take.
LIMITS = {
    "library": 60, "operator": 120, "model": 60, "blocks": 60, "decode": 150,
    "transfers": 40, "quantised": 90, "transformers": 60, "large": 120,
}  # fmt: skip
NO_DEVICE = 77


def plain(value):
    """The value as JSON can hold it: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Context:
    """What a part needs: the machine, where results go, and how large to go."""

    def __init__(self, part, machine, out):
        self.part, self.out, self.small = part, out, machine != "cuda"
        self.elements = {"cuda": ("bfloat16", "float16"), "webgpu": ("float16",), "host": ("float32",)}[machine]
        self.blocks = (16, 64) if self.small else (16, 32, 64, 128, 256)
        self.element, self.repeat = self.elements[0], 1 if self.small else 20
        self.keep = []  # what has to live as long as the process
        self.machine, self.wrong = None, 0

    def emit(self, **record):
        """Writes a finding. One with `right` false makes the part fail in the end."""
        self.wrong += record.get("right") is False
        with open(self.out, "a") as file:
            file.write(json.dumps(plain({"part": self.part} | record), allow_nan=False) + "\n")

    @staticmethod
    def versions():
        import ml_dtypes
        import numpy
        import onnx
        import onnxruntime

        modules = (ml_dtypes, numpy, onnx, onnxruntime)
        return {"python": platform.python_version()} | {module.__name__: module.__version__ for module in modules}


def run_part(part, machine, out):
    import parts_checks
    import parts_speed
    from machine import NoDevice, make

    context = Context(part, machine, out)
    try:
        context.machine = make(machine)
    except NoDevice as error:
        context.emit(error=f"no device to use: {error}")
        raise SystemExit(NO_DEVICE) from None
    function = getattr(parts_checks, part, None) or getattr(parts_speed, part)
    try:
        function(context)
    except Exception:
        context.emit(error=traceback.format_exc()[-2000:])
        raise
    if context.wrong:
        raise SystemExit(f"{context.wrong} results are wrong")


def close(out, part, status, seconds, output=""):
    record = {"part": part, "status": status, "seconds": round(seconds, 1)}
    if status in ("failed", "timeout"):
        record["output"] = output[-1500:]
    with open(out, "a") as file:
        file.write(json.dumps(record) + "\n")
    print(f"{part}: {status} after {seconds:.1f} s", flush=True)


def run_all(parts, machine, out, limit, patience):
    began = time.monotonic()
    for part in parts:
        left = min(LIMITS[part] * patience, limit - (time.monotonic() - began))
        if left < 5:
            close(out, part, "skipped", 0)
            continue
        command = [sys.executable, os.path.abspath(__file__), "--run", part, "--machine", machine, "--out", out]
        start = time.monotonic()
        try:
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
            done = subprocess.run(command, check=False, timeout=left, **streams)
            code, output = done.returncode, done.stdout
            status = {0: "ok", NO_DEVICE: "no device"}.get(code, "failed")
        except subprocess.TimeoutExpired as error:
            code, status, output = None, "timeout", (error.stdout or b"").decode(errors="replace")
        close(out, part, status, time.monotonic() - start, output)
        if code == NO_DEVICE:
            print("There is no device to use here, or what drives it is missing; the file says which.")
            return NO_DEVICE
        if part == "library" and status != "ok":
            return 1
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, help="file that lines are appended to")
    parser.add_argument("--parts", default=",".join(LIMITS), help="comma-separated, in order (default: all)")
    parser.add_argument("--machine", choices=("cuda", "webgpu", "host"), default="cuda")
    parser.add_argument("--limit", type=float, default=900, help="seconds for all parts together (default 900)")
    parser.add_argument("--patience", type=float, default=1, help="multiplies the time limit of each part (default 1)")
    parser.add_argument("--run", choices=tuple(LIMITS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        return run_part(arguments.run, arguments.machine, arguments.out)
    parts = arguments.parts.split(",")
    unknown = [part for part in parts if part not in LIMITS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(LIMITS)}")
    return run_all(parts, arguments.machine, arguments.out, arguments.limit, arguments.patience)


if __name__ == "__main__":
    sys.exit(main())
