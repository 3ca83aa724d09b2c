#!/usr/bin/env python3
"""Runs the tests that need a device, on ONNX Runtime's WebGPU plug-in over a Vulkan driver.

A GPU's driver is used where there is a GPU, otherwise one in software. Without either, nothing is run: a word says so,
and the exit status is 0, or 1 where CI is set.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Mesa keeps compiled shaders here.
SHADERS = REPOSITORY / "target/shader-cache"
# Where loaders of Vulkan look for descriptions of drivers.
PLACES = ("/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d")
REMEDY = (
    "install one with float16, such as Mesa 25's lavapipe (Debian 12: apt-get install -t bookworm-backports "
    "mesa-vulkan-drivers; Debian 13: apt-get install mesa-vulkan-drivers), or name it in VK_DRIVER_FILES"
)
TESTS = (
    ["--lib", "decode::decoder::tests::device::"],
    ["--test", "device", ""],
)


def drivers() -> str | None:
    """What VK_DRIVER_FILES should be; None if there is no driver."""
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    if named:
        return named if any(Path(path).is_file() for path in named.split(os.pathsep)) else None
    found = sorted(path for place in PLACES for path in Path(place).glob("*.json"))
    if not any(Path("/dev/dri").glob("renderD*")):
        found = [path for path in found if "lvp" in path.name]
    return os.pathsep.join(map(str, found)) or None


def environment(vulkan: str, scratch: str) -> dict[str, str]:
    """The environment of the tests."""
    ours = {
        "FORETURN_TEST_PROVIDER": "webgpu",
        "FORETURN_WEBGPU_LIBRARY": str(REPOSITORY / "target/webgpu/libonnxruntime_providers_webgpu.so"),
        "VK_DRIVER_FILES": vulkan,
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
        # Compiling shaders takes most of the time of a first run.
        "MESA_SHADER_CACHE_DIR": os.environ.get("MESA_SHADER_CACHE_DIR") or str(SHADERS),
        "ORT_DYLIB_PATH": os.environ.get("ORT_DYLIB_PATH")
        or str(REPOSITORY / "target/onnxruntime/lib/libonnxruntime.so"),
        "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or scratch,
    }
    return {**os.environ, **ours}


def run(command: list[str], environment: dict[str, str]) -> int:
    """Runs tests, and fails if none passed: a filter may fit nothing any more."""
    passed = 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as tests:
        for line in tests.stdout:
            print(line, end="", flush=True)
            found = re.search(r"test result: ok\. (\d+) passed", line)
            passed += int(found[1]) if found else 0
    if tests.returncode == 0 and passed == 0:
        print(f"no test ran: {' '.join(command)}", file=sys.stderr)
        return 1
    return tests.returncode


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cargo", default="cargo", help="the command, with its arguments; default: %(default)s")
    parser.add_argument("--cargo-flags", default="", help="passed to `cargo test`")
    arguments = parser.parse_args()
    vulkan = drivers()
    if vulkan is None:
        print(f"skipped: there is no Vulkan driver here; {REMEDY}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    print(f"the device is that of {vulkan}", file=sys.stderr)
    SHADERS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for kind, *rest in TESTS:
            *target, names = rest
            command = [*arguments.cargo.split(), "test", "--workspace", *arguments.cargo_flags.split(), kind, *target]
            command += [names, "--", "--test-threads=1", "--nocapture"]
            subprocess.run([*command[: command.index("--")], "--no-run"], check=True)
            begun = time.monotonic()
            status = run(command, environment(vulkan, scratch))
            print(f"{' '.join([kind, *target])}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
            if status != 0:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
