"""Asks ONNX Runtime's own parsers for the options of CUDA and TensorRT: names, defaults, and values that they refuse.

    python tests/gpu/options.py CAPI CUDART > tests/fixtures/provider_options.json

CAPI is the folder `onnxruntime/capi` of the wheel onnxruntime-gpu, CUDART the folder `nvidia/cu13/lib` of
nvidia-cuda-runtime. No GPU, driver or other library of NVIDIA's is needed: the parsers call none of them, so libraries
with their names and symbols take their place, which a C compiler makes.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# Places of functions in OrtApi, which never change.
ERROR_MESSAGE, CREATE_ENV, ALLOCATOR, RELEASE_STATUS = 2, 3, 78, 93
CREATE = {"tensorrt": 171, "cuda": 205}
LIBRARIES = {"cuda": "libonnxruntime_providers_cuda.so", "tensorrt": "libonnxruntime_providers_tensorrt.so"}
# Options that the parsers take and do not print.
UNPRINTED = {
    "cuda": [
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "gpu_external_alloc",
        "gpu_external_free",
        "gpu_external_empty_cache",
    ],
    "tensorrt": ["trt_preview_features"],
}
# Names in use elsewhere, or mistaken.
OTHERS = {"cuda": ["cuda_mem_limit", "default_memory_arena_cfg"], "tensorrt": ["fp16_enable", "trt_int4_enable"]}
FLAGS = {"cuda": "use_tf32", "tensorrt": "trt_fp16_enable"}
FLAG_VALUES = ["0", "1", "true", "True", "false", "False", "yes", "TRUE", "2", ""]

# A driver without a device: it has a version, and CUDA_ERROR_NO_DEVICE (100) for everything else.
DRIVER = """
#include <string.h>
static int none(void) { return 100; }
static int version(int *v) { *v = 13000; return 0; }
int cuDriverGetVersion(int *v) { return version(v); }
int cuInit(unsigned flags) { return 100; }
int cuGetProcAddress_v2(const char *name, void **out, int v, unsigned long long flags, int *status) {
    if (status) *status = 0;
    *out = !strcmp(name, "cuDriverGetVersion") ? (void *)version
         : !strncmp(name, "cuGetProcAddress", 16) ? (void *)cuGetProcAddress_v2 : (void *)none;
    return 0;
}
int cuGetProcAddress(const char *name, void **out, int v, unsigned long long flags) {
    return cuGetProcAddress_v2(name, out, v, flags, 0);
}
"""


def stand_ins(libraries: list[Path], folder: Path) -> None:
    """Makes libraries with every symbol that `libraries` want of NVIDIA's."""
    symbols, needed = defaultdict(set), []
    for library in libraries:
        dynamic = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True, check=True).stdout
        own = re.findall(r"NEEDED.*\[(lib(?:cu|nv)[^\]]*)\]", dynamic)
        listed = subprocess.run(
            ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
        ).stdout
        for symbol in re.findall(r" [UVw] (\S+)", listed):
            name, _, version = symbol.replace("@@", "@").partition("@")
            if version.startswith(("libcu", "libnv")):
                symbols[version].add(name)
            elif not version and re.match(r"(cu|nv|create|get|init)\w+$", name):
                # Symbols without a version may come from any library.
                symbols[own[0]].add(name)
        needed += [name for name in own if name not in needed]
    for name in (name for name in needed if not name.startswith("libcudart")):
        value = "{ return 100; }" if name == "libcuda.so.1" else "{ return 0; }"
        mine = ("cuGetProcAddress", "cuDriverGetVersion", "cuInit")
        lines = [f"long {symbol}() {value}" for symbol in sorted(symbols[name]) if not symbol.startswith(mine)]
        lines += [DRIVER] if name == "libcuda.so.1" else []
        (folder / "stub.c").write_text("\n".join(lines) + "\n")
        (folder / "stub.map").write_text(f"{name} {{ global: *; }};\n")
        versioned = [] if name == "libcuda.so.1" else [f"-Wl,--version-script={folder / 'stub.map'}"]
        command = ["cc", "-w", "-fno-builtin", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name]
        subprocess.run([*command, folder / "stub.c", *versioned], check=True)


class Api:
    """The few functions of ONNX Runtime's C interface that are needed here."""

    def __init__(self, capi: Path):
        (path,) = capi.glob("libonnxruntime.so.*")
        base = ctypes.CDLL(str(path))
        base.OrtGetApiBase.restype = ctypes.POINTER(ctypes.c_void_p)
        get_api, get_version = base.OrtGetApiBase()[0:2]
        self.version = ctypes.CFUNCTYPE(ctypes.c_char_p)(get_version)().decode()
        api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(get_api)(24)
        self.functions = ctypes.cast(api, ctypes.POINTER(ctypes.c_void_p))
        # It brings the log that the parsers write to.
        environment = ctypes.c_void_p()
        self.call(CREATE_ENV, ctypes.c_int(3), ctypes.c_char_p(b"options"), ctypes.byref(environment))
        self.allocator = ctypes.c_void_p()
        self.call(ALLOCATOR, ctypes.byref(self.allocator))

    def call(self, index, *arguments) -> None:
        """Calls a function that returns a status; a failure becomes an exception."""
        status = ctypes.CFUNCTYPE(
            ctypes.c_void_p, *[type(a) if isinstance(a, ctypes._SimpleCData) else ctypes.c_void_p for a in arguments]
        )(self.functions[index])(*arguments)
        if status:
            message = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(self.functions[ERROR_MESSAGE])(status).decode()
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.functions[RELEASE_STATUS])(status)
            raise ValueError(message)

    def defaults(self, provider: str) -> dict[str, str]:
        """The options of a provider as they stand."""
        options, text = ctypes.c_void_p(), ctypes.c_char_p()
        self.call(CREATE[provider], ctypes.byref(options))
        self.call(CREATE[provider] + 2, options, self.allocator, ctypes.byref(text))
        return dict(pair.split("=", 1) for pair in text.value.decode().split(";") if pair)

    def refusal(self, provider: str, name: str, value: str) -> str | None:
        """What the parser says against an option."""
        options = ctypes.c_void_p()
        self.call(CREATE[provider], ctypes.byref(options))
        names, values = ((ctypes.c_char_p * 1)(text.encode()) for text in (name, value))
        try:
            self.call(CREATE[provider] + 1, options, ctypes.byref(names), ctypes.byref(values), ctypes.c_size_t(1))
        except ValueError as error:
            return str(error)
        return None


def ask(api: Api, provider: str) -> dict:
    """What the parser of a provider knows."""
    defaults = dict(sorted(api.defaults(provider).items()))
    others = [*UNPRINTED[provider], *OTHERS[provider]]
    said = {name: api.refusal(provider, name, defaults.get(name, "0")) or "" for name in [*defaults, *others]}
    unknown = [name for name, text in said.items() if "Unknown provider option" in text]
    flags = {value: api.refusal(provider, FLAGS[provider], value) is None for value in FLAG_VALUES}
    taken = [name for name in others if name not in unknown]
    return {"defaults": defaults, "unprinted": taken, "unknown": unknown, "flag": FLAGS[provider], "flag_values": flags}


def main() -> None:
    capi, cudart = (Path(argument).resolve() for argument in sys.argv[1:])
    if "STAND_INS" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            stand_ins([capi / library for library in LIBRARIES.values()], Path(folder))
            path = os.pathsep.join([folder, str(capi), str(cudart)])
            environment = {**os.environ, "STAND_INS": folder, "LD_LIBRARY_PATH": path, "ORT_DISABLE_TELEMETRY": "1"}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)
    api = Api(capi)
    found = {"onnxruntime": api.version} | {provider: ask(api, provider) for provider in LIBRARIES}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
