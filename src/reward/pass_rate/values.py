# How values travel between the tests' process and the solution's: as JSON, of plain types only. Nothing that arrives is
# executed or looked up by name, except for classes of exceptions (tester.py).
import base64
import collections
import datetime
import decimal
import fractions
import json
import os
import pathlib
import sys
import types

MOST_ITEMS = 1_000_000
MOST_BYTES = 64 << 20


class Unpassable(Exception):
    """A value of a type that does not travel."""


def _iso(kind):
    return (lambda value: value.isoformat(), kind.fromisoformat)


def _text(value):
    return base64.b64encode(value).decode()


def _items(kind):
    return (lambda value: [encode(item) for item in value], lambda items: kind(decode(item) for item in items))


def _pairs(value):
    return [[encode(key), encode(item)] for key, item in value.items()]


def _unpairs(pairs):
    return {decode(key): decode(item) for key, item in pairs}


# Exact type: name, how it is written, how it is read.
_KINDS = {
    int: ("int", hex, lambda text: int(text, 16)),
    float: ("float", float.hex, float.fromhex),
    complex: ("complex", lambda value: [value.real.hex(), value.imag.hex()],
              lambda parts: complex(*map(float.fromhex, parts))),
    bytes: ("bytes", _text, base64.b64decode),
    bytearray: ("bytearray", _text, lambda text: bytearray(base64.b64decode(text))),
    list: ("list", *_items(list)),
    tuple: ("tuple", *_items(tuple)),
    set: ("set", *_items(set)),
    frozenset: ("frozenset", *_items(frozenset)),
    collections.deque: ("deque", *_items(collections.deque)),
    dict: ("dict", _pairs, _unpairs),
    collections.OrderedDict: ("OrderedDict", _pairs, lambda pairs: collections.OrderedDict(_unpairs(pairs))),
    collections.Counter: ("Counter", _pairs, lambda pairs: collections.Counter(_unpairs(pairs))),
    range: ("range", lambda value: [encode(part) for part in (value.start, value.stop, value.step)],
            lambda parts: range(*map(decode, parts))),
    datetime.datetime: ("datetime", *_iso(datetime.datetime)),
    datetime.date: ("date", *_iso(datetime.date)),
    datetime.time: ("time", *_iso(datetime.time)),
    datetime.timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds],
                         lambda parts: datetime.timedelta(*parts)),
    decimal.Decimal: ("Decimal", str, decimal.Decimal),
    fractions.Fraction: ("Fraction", str, fractions.Fraction),
    pathlib.PosixPath: ("Path", str, pathlib.PosixPath),
}
_READ = {name: read for name, _, read in _KINDS.values()}
_ITERATORS = (types.GeneratorType, map, filter, zip, enumerate, reversed)


def _array(value):
    if value.dtype.kind not in "biufcSU":
        raise Unpassable(f"a numpy array of {value.dtype}")
    return [value.dtype.str, list(value.shape), _text(value.tobytes())]


def _unarray(parts):
    import numpy

    dtype, shape, data = parts
    dtype = numpy.dtype(str(dtype))
    if dtype.kind not in "biufcSU":
        raise ValueError("no array of numbers or text")
    return numpy.frombuffer(base64.b64decode(data), dtype=dtype).reshape(shape).copy()


_READ["ndarray"] = _unarray
_READ["iterator"] = lambda items: iter([decode(item) for item in items])


def encode(value):
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind in _KINDS:
        name, write, _ = _KINDS[kind]
        return [name, write(value)]
    if kind is collections.defaultdict:
        return ["dict", _pairs(value)]
    if kind in _ITERATORS:
        items = []
        for item in value:
            items.append(encode(item))
            if len(items) > MOST_ITEMS:
                raise Unpassable("an iterator that goes on and on")
        return ["iterator", items]
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is getattr(numpy, "ndarray", None):
        return ["ndarray", _array(value)]
    if numpy is not None and isinstance(value, numpy.generic):
        return encode(value.item())
    raise Unpassable(f"a value of type {kind.__module__}.{kind.__qualname__}")


def decode(value):
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is not list or len(value) != 2 or type(value[0]) is not str:
        raise ValueError("no value")
    return _READ[value[0]](value[1])


def send(fd, message):
    data = json.dumps(message).encode()
    if len(data) > MOST_BYTES:
        raise Unpassable(f"a value of {len(data)} bytes")
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(fd, data):]


def receive(fd):
    """The next message; None where the other side has ended."""

    def exactly(count):
        data = b""
        parts = []
        while count:
            data = os.read(fd, min(count, 1 << 20))
            if not data:
                return None
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    head = exactly(4)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > MOST_BYTES:
        raise ValueError("too long a message")
    data = exactly(length)
    return None if data is None else json.loads(data)


def short(what):
    """Its text, as JSON of any reader can hold it. What can't say what it is, is called by its type."""
    try:
        text = str(what)
    except Exception:
        text = f"<{type(what).__name__}>"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 300 else text[:300] + "…"
