"""`python -m foreturn`: the command line, which the wheel carries."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from . import _runtime


def main() -> NoReturn:
    """Becomes the command. It finds the ONNX Runtime of this Python, unless ORT_DYLIB_PATH names another one."""
    command = str(Path(__file__).with_name("foreturn-command"))
    environment = dict(os.environ)
    library = _runtime.installed()
    if library and not environment.get("ORT_DYLIB_PATH"):
        environment["ORT_DYLIB_PATH"] = str(library)
    os.execve(command, ["foreturn", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
