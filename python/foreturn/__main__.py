"""`python -m foreturn`: the command line, which the wheel carries."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from . import _runtime


def main() -> NoReturn:
    """Becomes the command."""
    command, environment = _runtime.command()
    os.execve(command, ["foreturn", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
