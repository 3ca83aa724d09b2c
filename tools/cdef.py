#!/usr/bin/env python3
"""Writes python/foreturn/_cdef.h: include/foreturn.h as cffi reads it, without comments and preprocessor lines.

    python3 tools/cdef.py [--check]

`--check` writes nothing, and fails if the committed file is not what the header says. `make header` runs this after it
has made the header itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HEADER = REPOSITORY / "include" / "foreturn.h"
CDEF = REPOSITORY / "python" / "foreturn" / "_cdef.h"
CONDITIONS = {
    "#ifndef FORETURN_H": True,
    "#ifdef __cplusplus": False,
    "#ifndef __cplusplus": True,
    "#if __STDC_VERSION__ >= 202311L": False,
    "#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L": False,
}
"""The answers of a C11 compiler. Other conditions are an error, because nothing here knows what they mean."""
CONSTANT = re.compile(r"#define \w+ (\d+|0x[0-9A-Fa-f]+)")


def preprocess(header: str) -> str:
    """The declarations and the constants that are numbers."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    kept: list[str] = []
    taken: list[bool] = []
    for line in code.splitlines():
        line = line.rstrip()
        if line.startswith("#if"):
            if line not in CONDITIONS:
                raise SystemExit(f"cdef.py: {HEADER.name} has `{line}`: add it to CONDITIONS with C11's answer")
            taken.append(CONDITIONS[line])
        elif line == "#else":
            taken[-1] = not taken[-1]
        elif line.startswith("#endif"):
            taken.pop()
        elif line and all(taken) and (not line.startswith("#") or CONSTANT.fullmatch(line)):
            kept.append(line)
    return "\n".join(kept) + "\n"


def main() -> int:
    """The command line."""
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        print(__doc__, file=sys.stderr)
        return 2
    made = preprocess(HEADER.read_text(encoding="utf-8"))
    if not check:
        CDEF.write_text(made, encoding="utf-8")
    elif not CDEF.is_file() or CDEF.read_text(encoding="utf-8") != made:
        shown = CDEF.relative_to(REPOSITORY)
        print(f"cdef.py: {shown} is not what {HEADER.name} says: run `make header` and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
