#!/usr/bin/env python3
"""Lists the library's public items, one per line, or compares the list with the committed one.

    python3 tools/public_api.py [--write]

The list is src/public-api.txt. `--write` rewrites it. Without `--write`, the list is compared. A difference is a failure,
and so is a list that changed since the last commit on the main branch without a line in CHANGELOG.md.

The items come from rustdoc's JSON, which the installed compiler writes when it is told that it may.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LIST = REPOSITORY / "src/public-api.txt"
CRATE = "foreturn"
# A wrapper, and not a variable for cargo: with it, every dependency would be built anew.
RUSTDOC = '#!/bin/sh\nexec env RUSTC_BOOTSTRAP=1 "$(rustc --print sysroot)/bin/rustdoc" "$@"\n'

Json = dict[str, Any]


class ApiError(Exception):
    """An error that says what is wrong and what to do about it."""


def document() -> Json:
    """Rustdoc's JSON for the library with its default features."""
    with tempfile.TemporaryDirectory() as folder:
        wrapper = Path(folder) / "rustdoc"
        wrapper.write_text(RUSTDOC, encoding="utf-8")
        wrapper.chmod(0o755)
        command = [os.environ.get("CARGO", "cargo"), "doc", "--locked", "--workspace", "--no-deps", "--quiet"]
        environment = {**os.environ, "RUSTDOC": str(wrapper), "RUSTDOCFLAGS": "-Z unstable-options --output-format json"}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)
    if done.returncode != 0:
        raise ApiError("rustdoc failed; its words are above")
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return json.loads((target / "doc" / f"{CRATE}.json").read_text(encoding="utf-8"))


class Crate:
    """Items by their number, and how they are spelled."""

    def __init__(self, of: Json) -> None:
        self.index: Json = of["index"]
        self.root = str(of["root"])
        self.seen: dict[str, str] = {}

    def lines(self) -> list[str]:
        """Every public item."""
        return sorted(set(self.module(self.root, CRATE)))

    def module(self, number: str, path: str) -> Iterator[str]:
        """The items of a module. One that stands at several paths is told in full at the first, the shortest."""
        yield f"mod {path}"
        later = []
        for child in map(str, self.index[number]["inner"]["module"]["items"]):
            item = self.index.get(child)
            if item is None or hidden(item):
                continue
            kind, inner = next(iter(item["inner"].items()))
            if kind == "use":
                target = str(inner["id"])
                if inner["is_glob"] or target not in self.index:
                    yield f"use {path}::{'*' if inner['is_glob'] else inner['name']} = {inner['source']}"
                else:
                    yield from self.item(target, f"{path}::{inner['name']}")
            elif kind == "module":
                later.append((child, f"{path}::{item['name']}"))
            else:
                yield from self.item(child, f"{path}::{item['name']}")
        for child, name in later:
            yield from self.module(child, name)

    def item(self, number: str, path: str) -> Iterator[str]:
        """An item at a path."""
        if number in self.seen:
            yield f"use {path} = {self.seen[number]}"
            return
        item = self.index[number]
        kind, inner = next(iter(item["inner"].items()))
        if kind == "module":
            yield from self.module(number, path)
            return
        self.seen[number] = path
        attributes = "#[non_exhaustive] " if "non_exhaustive" in json.dumps(item.get("attrs", [])) else ""
        if kind == "struct":
            yield f"{attributes}struct {path}{self.generics(inner['generics'])}"
            yield from self.fields(inner["kind"], path)
            yield from self.impls(inner["impls"], path)
        elif kind == "enum":
            yield f"{attributes}enum {path}{self.generics(inner['generics'])}"
            for variant in map(str, inner["variants"]):
                yield from self.variant(self.index[variant], path)
            yield from self.impls(inner["impls"], path)
        elif kind == "trait":
            yield f"trait {path}{self.generics(inner['generics'])}: {' + '.join(map(self.bound, inner['bounds']))}"
            for child in map(str, inner["items"]):
                yield from self.member(self.index[child], path)
        elif kind == "function":
            yield f"fn {path}{self.signature(inner)}"
        elif kind == "constant":
            yield f"const {path}: {self.type(inner['type'])} = {inner['const'].get('expr', '_')}"
        elif kind == "type_alias":
            yield f"type {path}{self.generics(inner['generics'])} = {self.type(inner['type'])}"
        else:
            yield f"{kind} {path}"

    def fields(self, kind: Any, path: str) -> Iterator[str]:
        """The public fields of a struct or variant."""
        if not isinstance(kind, dict):
            return
        shape, inner = next(iter(kind.items()))
        for child in inner["fields"] if isinstance(inner, dict) else inner:
            field = self.index.get(str(child))
            if field is not None and not hidden(field):
                yield f"field {path}::{field['name']}: {self.type(field['inner']['struct_field'])}"

    def variant(self, item: Json, path: str) -> Iterator[str]:
        """A variant and its fields."""
        name = f"{path}::{item['name']}"
        yield f"variant {name}"
        yield from self.fields(item["inner"]["variant"]["kind"], name)

    def impls(self, numbers: list[Any], path: str) -> Iterator[str]:
        """Methods, and traits that were written or derived; blanket and automatic ones are left out."""
        for number in map(str, numbers):
            item = self.index.get(number)
            if item is None or hidden(item):
                continue
            inner = item["inner"]["impl"]
            if inner["is_synthetic"] or inner["blanket_impl"] is not None:
                continue
            if inner["trait"] is not None:
                name = self.path(inner["trait"])
                if not name.startswith(("StructuralPartialEq", "_")):
                    yield f"impl {name} for {path}"
                continue
            for child in map(str, inner["items"]):
                if child in self.index:
                    yield from self.member(self.index[child], path)

    def member(self, item: Json, path: str) -> Iterator[str]:
        """A method, or an associated constant or type."""
        if hidden(item):
            return
        kind, inner = next(iter(item["inner"].items()))
        name = f"{path}::{item['name']}"
        if kind == "function":
            given = " (provided)" if inner.get("has_body") and item["visibility"] == "default" else ""
            yield f"fn {name}{self.signature(inner)}{given}"
        elif kind == "assoc_const":
            yield f"const {name}: {self.type(inner['type'])}"
        elif kind == "assoc_type":
            yield f"type {name}"

    def signature(self, inner: Json) -> str:
        """Arguments and result."""
        said = inner["sig"]
        arguments = ", ".join(f"{name}: {self.type(of)}" for name, of in said["inputs"])
        result = f" -> {self.type(said['output'])}" if said["output"] is not None else ""
        return f"{self.generics(inner['generics'])}({arguments}){result}"

    def generics(self, inner: Json) -> str:
        """Type parameters with their bounds."""
        said = []
        for parameter in inner["params"]:
            kind, of = next(iter(parameter["kind"].items()))
            if kind == "type" and not of["is_synthetic"]:
                bounds = " + ".join(map(self.bound, of["bounds"]))
                said.append(f"{parameter['name']}: {bounds}" if bounds else parameter["name"])
            elif kind == "lifetime":
                said.append(parameter["name"])
            elif kind == "const":
                said.append(f"const {parameter['name']}: {self.type(of['type'])}")
        return f"<{', '.join(said)}>" if said else ""

    def bound(self, inner: Json) -> str:
        """A bound of a type parameter."""
        kind, of = next(iter(inner.items()))
        if kind == "trait_bound":
            return {"maybe": "?"}.get(of["modifier"], "") + self.path(of["trait"])
        return str(of)

    def path(self, inner: Json) -> str:
        """A named type with its arguments."""
        name = str(inner.get("path") or inner.get("name")).rsplit("::", 1)[-1]
        given = inner.get("args")
        if not given:
            return name
        if "parenthesized" in given:
            of = given["parenthesized"]
            result = f" -> {self.type(of['output'])}" if of["output"] is not None else ""
            return f"{name}({', '.join(map(self.type, of['inputs']))}){result}"
        of = given["angle_bracketed"]
        said = [self.argument(argument) for argument in of["args"]]
        for constraint in of["constraints"]:
            kind, what = next(iter(constraint["binding"].items()))
            if kind == "equality":
                said.append(f"{constraint['name']} = {self.argument(what)}")
            else:
                said.append(f"{constraint['name']}: {' + '.join(map(self.bound, what))}")
        return f"{name}<{', '.join(said)}>" if said else name

    def argument(self, inner: Any) -> str:
        """An argument in angle brackets."""
        if not isinstance(inner, dict):
            return "_"
        kind, of = next(iter(inner.items()))
        if kind == "type":
            return self.type(of)
        if kind == "const":
            return str(of["expr"])
        return str(of)

    def type(self, inner: Any) -> str:
        """A type as it is written."""
        kind, of = next(iter(inner.items())) if isinstance(inner, dict) else (inner, None)
        match kind:
            case "resolved_path":
                return self.path(of)
            case "primitive" | "generic":
                return str(of)
            case "borrowed_ref":
                return f"&{of['lifetime'] + ' ' if of['lifetime'] else ''}{'mut ' if of['is_mutable'] else ''}{self.type(of['type'])}"
            case "tuple":
                return f"({', '.join(map(self.type, of))})"
            case "slice":
                return f"[{self.type(of)}]"
            case "array":
                return f"[{self.type(of['type'])}; {of['len']}]"
            case "impl_trait":
                return f"impl {' + '.join(map(self.bound, of))}"
            case "dyn_trait":
                bounds = [self.path(bound["trait"]) for bound in of["traits"]] + ([of["lifetime"]] if of["lifetime"] else [])
                return f"dyn {' + '.join(bounds)}"
            case "qualified_path":
                return f"{self.type(of['self_type'])}::{of['name']}"
            case "raw_pointer":
                return f"*{'mut' if of['is_mutable'] else 'const'} {self.type(of['type'])}"
            case "function_pointer":
                said = of["sig"]
                result = f" -> {self.type(said['output'])}" if said["output"] is not None else ""
                return f"fn({', '.join(self.type(one) for _, one in said['inputs'])}){result}"
        return str(kind)


def hidden(item: Json) -> bool:
    """True if an item is hidden from the documentation."""
    return "doc(hidden)" in json.dumps(item.get("attrs", [])) or "hidden" in json.dumps(item.get("attrs", []))


def git(*command: str) -> str:
    """Git's output, or nothing if git fails."""
    done = subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="make the list anew")
    arguments = parser.parse_args()
    try:
        lines = Crate(document()).lines()
    except (ApiError, KeyError) as error:
        print(f"public_api.py: {error!r}: rustdoc's JSON may have another form than this script knows", file=sys.stderr)
        return 1
    text = "".join(f"{line}\n" for line in lines)
    types = sum(line.split(" ")[0] in ("struct", "enum", "trait", "type") or line.startswith("#[non_exhaustive]") for line in lines)
    if arguments.write:
        LIST.write_text(text, encoding="utf-8")
        print(f"{types} types and traits, {len(lines)} lines in {LIST.relative_to(REPOSITORY)}")
        return 0
    known = LIST.read_text(encoding="utf-8") if LIST.is_file() else ""
    if known != text:
        sys.stdout.writelines(difflib.unified_diff(known.splitlines(True), text.splitlines(True), "committed", "now", n=0))
        print("public_api.py: the public interface changed. Run `make public-api` and say what changed in CHANGELOG.md", file=sys.stderr)
        return 1
    # Where the list differs from the main branch's, the change has to be told.
    base = next((name for name in ("origin/main", "origin/master") if git("rev-parse", "--verify", "--quiet", name)), "")
    changed = git("diff", "--name-only", base).split() if base else []
    if str(LIST.relative_to(REPOSITORY)) in changed and "CHANGELOG.md" not in changed:
        print("public_api.py: src/public-api.txt changed and CHANGELOG.md didn't: add a line there", file=sys.stderr)
        return 1
    print(f"{types} types and traits, {len(lines)} lines: as committed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
