"""Writes a configuration as TOML, which is the form that the library reads."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ._errors import InvalidConfig


def dumps(table: Mapping[str, Any]) -> str:
    """The text of a table: a line for each key, with everything below it on that line.

    Raises:
        InvalidConfig: a value that TOML can't express. The message has its place.
    """
    return "".join(f"{_text(str(key))} = {_value(value, str(key))}\n" for key, value in table.items())


def _value(value: Any, place: str) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            # TOML's names of these numbers are Python's, and its reals need a point or an exponent, as repr writes them.
            return repr(float(value)) if math.isfinite(value) else str(float(value))
        case str():
            return _text(value)
        case os.PathLike():
            return _text(os.fsdecode(value))
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case Mapping():
            items = (f"{_text(str(key))} = {_value(item, f'{place}.{key}')}" for key, item in value.items())
            return "{ " + ", ".join(items) + " }"
        case Sequence() if not isinstance(value, (bytes, bytearray)):
            return "[" + ", ".join(_value(item, f"{place}[{at}]") for at, item in enumerate(value)) + "]"
        case None:
            raise InvalidConfig(f"{place} is None, which a configuration can't hold: leave the key out")
    raise InvalidConfig(f"{place} is a {type(value).__name__}, which a configuration can't hold")


def _text(text: str) -> str:
    # JSON's escapes are TOML's, except that TOML wants DEL escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
