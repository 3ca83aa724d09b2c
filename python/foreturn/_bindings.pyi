# Made by the build (hatch_build.py) from _cdef.h.
from typing import Any

ffi: Any
