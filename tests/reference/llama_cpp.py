"""llama.cpp's shared library through ctypes: quantising files and running them.

PyPI has no build of it that can be loaded so; npm's `@node-llama-cpp/linux-x64` has (3.22.1 here, llama.cpp 0.5.0):

    npm pack @node-llama-cpp/linux-x64 && tar xzf node-llama-cpp-linux-x64-*.tgz    # libraries: package/bins/linux-x64

Its structures are only touched where their layout has been the same for years; the rest is passed on as it came.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import numpy as np

FILE_TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15,
    "Q5_K_M": 17, "Q6_K": 18,
}  # fmt: skip


class Opaque(ctypes.Structure):
    """A structure by value, larger than the real ones. The called function reads its part of it."""

    _fields_ = [("bytes", ctypes.c_uint8 * 1024)]

    def set_int(self, offset: int, value: int) -> None:
        struct.pack_into("<i", self.bytes, offset, value)


class LlamaCpp:
    def __init__(self, folder: Path) -> None:
        # In the order of their dependencies; the processor's own library is chosen when backends are loaded.
        for pattern in ["libggml-base.so", "libggml.v*.so", "libllama.v*.so"]:
            (path,) = folder.glob(pattern)
            library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            if pattern.startswith("libggml.v"):
                library.ggml_backend_load_all_from_path(str(folder).encode())
        self.library = library
        for name in ["llama_model_quantize", "llama_model", "llama_context"]:
            getattr(library, f"{name}_default_params").restype = Opaque
        library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Opaque]
        library.llama_model_load_from_file.restype = ctypes.c_void_p
        library.llama_init_from_model.argtypes = [ctypes.c_void_p, Opaque]
        library.llama_init_from_model.restype = ctypes.c_void_p
        library.llama_set_n_threads.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
        library.llama_batch_get_one.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        library.llama_batch_get_one.restype = Batch
        library.llama_decode.argtypes = [ctypes.c_void_p, Batch]
        library.llama_get_logits.argtypes = [ctypes.c_void_p]
        library.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
        library.llama_free.argtypes = [ctypes.c_void_p]
        library.llama_model_free.argtypes = [ctypes.c_void_p]
        self.silence = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        library.llama_log_set(self.silence, None)
        library.llama_backend_init()

    def quantize(self, source: Path, target: Path, file_type: str) -> None:
        """Does the same as `llama-quantize --allow-requantize SOURCE TARGET FILE_TYPE`."""
        params = self.library.llama_model_quantize_default_params()
        params.set_int(4, FILE_TYPES[file_type])
        params.bytes[16] = 1
        if self.library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
            raise RuntimeError(f"llama.cpp could not quantise {source} to {file_type}")

    def logprobs(self, path: Path, tokens: list[int], vocabulary: int) -> list[float]:
        """The log-probability of each token except the first, read one at a time."""
        model = self.library.llama_model_load_from_file(str(path).encode(), self.library.llama_model_default_params())
        if not model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        context = self.library.llama_init_from_model(model, self.library.llama_context_default_params())
        self.library.llama_set_n_threads(context, 1, 1)
        found = []
        for token, following in zip(tokens, tokens[1:]):
            one = (ctypes.c_int32 * 1)(token)
            if self.library.llama_decode(context, self.library.llama_batch_get_one(one, 1)):
                raise RuntimeError(f"llama.cpp could not run {path}")
            logits = np.ctypeslib.as_array(self.library.llama_get_logits(context), (vocabulary,)).astype(np.float64)
            found.append(float(logits[following] - logits.max() - np.log(np.exp(logits - logits.max()).sum())))
        self.library.llama_free(context)
        self.library.llama_model_free(model)
        return found


class Batch(ctypes.Structure):
    """`llama_batch`: a count and six pointers."""

    _fields_ = [("count", ctypes.c_int32)] + [(f"pointer{index}", ctypes.c_void_p) for index in range(6)]
