#!/usr/bin/env python3
"""Installs, packs and checks the C library: target/release/libforeturn.so and .a with include/foreturn.h and .hpp.

    python3 tools/package.py install --prefix PREFIX [--destdir FOLDER] [--without-runtime]
    python3 tools/package.py dist --out FOLDER [--without-runtime]
    python3 tools/package.py check
    python3 tools/package.py abi [--write]

`install` puts libraries, headers, a pkg-config file, a CMake package and licences under the prefix, which may be moved
afterwards; ONNX Runtime from target/onnxruntime goes beside the library, which looks for it there. `dist` packs such a
prefix as foreturn-VERSION-ARCH-linux-gnu.tar.gz; equal files give equal bytes. `check` fails if the shared library
needs a newer glibc than promised, needs libraries that not every machine has, or exports names that aren't its own.
`abi` compares what programs are compiled against (functions, structs, constants) with ffi/abi.txt, and fails on a
difference, or if CHANGELOG.md does not mention it. `--write` rewrites that file.
Nothing here builds the library: `make library` does.
"""

from __future__ import annotations

import argparse
import difflib
import gzip
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import notices

REPOSITORY = Path(__file__).resolve().parents[1]
ABI_FILE = REPOSITORY / "ffi/abi.txt"
CHANGELOG = REPOSITORY / "CHANGELOG.md"
HEADER = REPOSITORY / "include/foreturn.h"
BUILD = "`make library` makes it"

SONAME = "libforeturn.so.0"
"""As ffi/build.rs sets it."""
GLIBC_BASELINE = (2, 34)
"""The oldest glibc that the shared library runs on. 2.34 took libdl and libpthread into libc, so a library linked there
or later wants dlopen and pthread_create of 2.34, whatever else it does without."""
NEEDED = ("libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")
NATIVE_LIBRARIES = ("m",)
"""What a program that links libforeturn.a has to name. rustc lists more, but since glibc 2.34 -ldl, -lpthread, -lrt and
-lutil are empty. -lgcc_s is left to the compiler's driver, which adds it or the static one by itself: to name it would
break -static and -static-libgcc."""

PKG_CONFIG = """\
prefix=${pcfiledir}/../..
libdir=${prefix}/lib
includedir=${prefix}/include

Name: foreturn
Description: Multiturn-aware rewards for responses of language models, on ONNX Runtime
Version: @VERSION@
Cflags: -I${includedir}
Libs: -L${libdir} -lforeturn
Libs.private: @PRIVATE@
"""

CMAKE_CONFIG = """\
# Targets: foreturn::foreturn (shared) and foreturn::static. All paths start from this file, so that the installed
# folder may be moved.
get_filename_component(_foreturn_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

foreach(_foreturn_file lib/libforeturn.so.@VERSION@ lib/libforeturn.a include/foreturn.h)
  if(NOT EXISTS "${_foreturn_prefix}/${_foreturn_file}")
    set(foreturn_FOUND FALSE)
    set(foreturn_NOT_FOUND_MESSAGE "${_foreturn_prefix}/${_foreturn_file} is missing: install foreturn anew")
    return()
  endif()
endforeach()

if(NOT TARGET foreturn::foreturn)
  add_library(foreturn::foreturn SHARED IMPORTED)
  set_target_properties(foreturn::foreturn PROPERTIES
    IMPORTED_LOCATION "${_foreturn_prefix}/lib/libforeturn.so.@VERSION@"
    IMPORTED_SONAME "@SONAME@"
    INTERFACE_INCLUDE_DIRECTORIES "${_foreturn_prefix}/include")

  add_library(foreturn::static STATIC IMPORTED)
  set_target_properties(foreturn::static PROPERTIES
    IMPORTED_LOCATION "${_foreturn_prefix}/lib/libforeturn.a"
    IMPORTED_LINK_INTERFACE_LANGUAGES "C"
    INTERFACE_LINK_LIBRARIES "@NATIVE@"
    INTERFACE_INCLUDE_DIRECTORIES "${_foreturn_prefix}/include")
endif()

unset(_foreturn_prefix)
unset(_foreturn_file)
"""

CMAKE_VERSION = """\
# Before 1.0 a minor version may break the interface; after it, a major one.
set(PACKAGE_VERSION "@VERSION@")
set(PACKAGE_VERSION_COMPATIBLE FALSE)
set(PACKAGE_VERSION_EXACT FALSE)

if(PACKAGE_FIND_VERSION_RANGE)
  if(PACKAGE_VERSION VERSION_GREATER_EQUAL PACKAGE_FIND_VERSION_MIN
     AND ((PACKAGE_FIND_VERSION_RANGE_MAX STREQUAL "INCLUDE"
           AND PACKAGE_VERSION VERSION_LESS_EQUAL PACKAGE_FIND_VERSION_MAX)
          OR (PACKAGE_FIND_VERSION_RANGE_MAX STREQUAL "EXCLUDE"
              AND PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION_MAX)))
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
  endif()
elseif("${PACKAGE_FIND_VERSION_MAJOR}@DOT_MINOR@" STREQUAL "@SERIES@"
       AND PACKAGE_VERSION VERSION_GREATER_EQUAL PACKAGE_FIND_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()

# The libraries are for 64-bit processors. The size is unknown to projects without a language.
if(CMAKE_SIZEOF_VOID_P AND NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
  set(PACKAGE_VERSION_UNSUITABLE TRUE)
endif()
"""

README = """\
# foreturn @VERSION@ for @ARCH@ Linux

The C library of foreturn: shared and static, with headers for C (`include/foreturn.h`, where everything is described)
and C++ (`include/foreturn.hpp`). It needs glibc @GLIBC@ or later, and no Rust. The folder may lie anywhere and be
moved; below, FORETURN is its path.

Shared, with pkg-config:

    export PKG_CONFIG_PATH=FORETURN/lib/pkgconfig
    cc main.c $(pkg-config --cflags --libs foreturn) -Wl,-rpath,FORETURN/lib -o main

Shared or static, with CMake (`-DCMAKE_PREFIX_PATH=FORETURN`):

    find_package(foreturn @SERIES@ REQUIRED)
    target_link_libraries(main PRIVATE foreturn::foreturn)  # or foreturn::static

Static, by hand (`-lforeturn` takes the shared library where both are):

    cc main.c -IFORETURN/include FORETURN/lib/libforeturn.a @PRIVATE@ -o main

@RUNTIME@

Licences are in `share/doc/foreturn`: foreturn's own, those of all crates that it contains (`THIRD-PARTY-NOTICES`), of
Rust's standard library, and of ONNX Runtime where that is included.
"""
WITH_RUNTIME = """\
ONNX Runtime (`lib/libonnxruntime.so`, which needs libstdc++) is found beside the shared library, wherever the program
is. Programs that link the static library find it in their own folder; else set ORT_DYLIB_PATH to its path, or
`runtime_library` in `foreturn_engine_options`."""
WITHOUT_RUNTIME = """\
ONNX Runtime is not included. Put `libonnxruntime.so` beside `libforeturn.so`, or set ORT_DYLIB_PATH to its path, or
`runtime_library` in `foreturn_engine_options`."""

KINDS = ("constant", "status", "type", "handle", "struct", "callback", "function")


class PackageError(Exception):
    """The failure, its file and its remedy."""


def shown(path: Path) -> str:
    """A path in the form for errors: relative to the repository if it is inside."""
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(path)


def existing(path: Path, remedy: str) -> Path:
    """The path, or an error that says where the file comes from."""
    if not path.is_file():
        raise PackageError(f"{shown(path)} is missing: {remedy}")
    return path


def output(*command: str) -> str:
    """The output of a command, in English; an error with its complaints if it fails."""
    try:
        done = subprocess.run(
            command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise PackageError(f"{command[0]} does not start: {error} (Debian: apt-get install gcc binutils)") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise PackageError(f"`{shlex.join(command)}` ended with {done.returncode}: {said}")
    return done.stdout


def version() -> str:
    """The version of the workspace."""
    path = REPOSITORY / "Cargo.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))["workspace"]["package"]["version"]
    except (KeyError, tomllib.TOMLDecodeError) as error:
        raise PackageError(f"{shown(path)} has no readable workspace.package.version: {error}") from error


def filled(template: str, **more: str) -> str:
    """A template with its @NAMES@ replaced."""
    major, minor = version().split(".")[:2]
    values = {
        "VERSION": version(),
        "SONAME": SONAME,
        "SERIES": f"{major}.{minor}" if major == "0" else major,
        "DOT_MINOR": ".${PACKAGE_FIND_VERSION_MINOR}" if major == "0" else "",
        "NATIVE": ";".join(NATIVE_LIBRARIES),
        "PRIVATE": " ".join(f"-l{name}" for name in NATIVE_LIBRARIES),
        "GLIBC": ".".join(map(str, GLIBC_BASELINE)),
        **more,
    }
    return re.sub("@([A-Z_]+)@", lambda found: values[found[1]], template)


# install


def put(target: Path, mode: int, make: Callable[[Path], object]) -> None:
    """Lets `make` write a file that appears under its name when it is whole, because programs may use the old one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        make(part)
        part.chmod(mode)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def put_copy(source: Path, target: Path, mode: int = 0o644) -> None:
    """Copies a file."""
    put(target, mode, lambda part: shutil.copyfile(source, part))


def put_text(text: str, target: Path) -> None:
    """Writes a text."""
    put(target, 0o644, lambda part: part.write_text(text, encoding="utf-8"))


def put_link(points_at: str, target: Path) -> None:
    """Makes a symbolic link, in place of an old one."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(points_at)
    os.replace(part, target)


def put_stripped(source: Path, target: Path, mode: int) -> None:
    """Copies a library without its debugging information, which is most of it. Names of functions stay."""
    def make(part: Path) -> None:
        output("strip", "--strip-debug", "--enable-deterministic-archives", "-o", str(part), str(source))

    put(target, mode, make)


def runtime_files(library_folder: Path) -> list[Path]:
    """ONNX Runtime's library and its link, as fetched; an error if another one is in their place."""
    source = REPOSITORY / "target/onnxruntime/lib"
    plain = existing(source / "libonnxruntime.so", "`make fetch` fetches it, or leave it out with --without-runtime")
    there = library_folder / plain.name
    if os.path.lexists(there) and there.resolve().name != plain.resolve().name:
        raise PackageError(
            f"{there} is there already and leads to {there.resolve().name}, not {plain.resolve().name}; other programs "
            "may use it. Remove it, choose another prefix, or leave it alone with --without-runtime"
        )
    return sorted(source.glob("libonnxruntime.so*"))


def install(build: Path, root: Path, with_runtime: bool) -> None:
    """Installs everything under `root`. Missing files are found before anything is written."""
    shared, static = (existing(build / name, BUILD) for name in ("libforeturn.so", "libforeturn.a"))
    headers = [existing(HEADER, "`make header` makes it"), existing(HEADER.with_suffix(".hpp"), "it is in git")]
    licences = [existing(REPOSITORY / name, "it is in git") for name in ("LICENSE-APACHE", "LICENSE-MIT")]
    try:
        third_party, standard_library = notices.notices(), notices.standard_library()
    except notices.NoticeError as error:
        raise PackageError(str(error)) from error
    of_runtime = [REPOSITORY / "target/onnxruntime" / name for name in ("LICENSE", "ThirdPartyNotices.txt")]
    runtime = []
    if with_runtime:
        runtime = runtime_files(root / "lib")
        of_runtime = [existing(path, "`make fetch` fetches it") for path in of_runtime]
    if (soname := read_elf(shared).soname) != SONAME:
        raise PackageError(f"{shown(shared)} is called {soname}, not {SONAME}: see ffi/build.rs and tools/package.py")

    versioned = f"libforeturn.so.{version()}"
    put_stripped(shared, root / "lib" / versioned, 0o755)
    put_link(versioned, root / "lib" / SONAME)
    put_link(SONAME, root / "lib/libforeturn.so")
    put_stripped(static, root / "lib/libforeturn.a", 0o644)
    for header in headers:
        put_copy(header, root / "include" / header.name)
    put_text(filled(PKG_CONFIG), root / "lib/pkgconfig/foreturn.pc")
    put_text(filled(CMAKE_CONFIG), root / "lib/cmake/foreturn/foreturn-config.cmake")
    put_text(filled(CMAKE_VERSION), root / "lib/cmake/foreturn/foreturn-config-version.cmake")
    for licence in licences:
        put_copy(licence, root / "share/doc/foreturn" / licence.name)
    put_text(third_party, root / "share/doc/foreturn/THIRD-PARTY-NOTICES")
    put_copy(standard_library, root / "share/doc/foreturn/rust-standard-library.html")
    for path in runtime:
        if path.is_symlink():
            put_link(os.readlink(path), root / "lib" / path.name)
        else:
            put_copy(path, root / "lib" / path.name, 0o755)
    for notice in of_runtime if with_runtime else []:
        put_copy(notice, root / "share/doc/foreturn/onnxruntime" / notice.name)


def run_install(arguments: argparse.Namespace) -> None:
    """The subcommand."""
    root = arguments.prefix
    # Empty if make passes none.
    if arguments.destdir:
        if not root.is_absolute():
            raise PackageError(f"--prefix {root} has to start with / where there is a --destdir")
        root = Path(arguments.destdir) / root.relative_to("/")
    install(arguments.build, root, not arguments.without_runtime)
    print(f"installed foreturn {version()} under {root}")


# dist


def pack(folder: Path, archive: Path) -> None:
    """Packs a folder. The same files always give the same bytes."""
    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        # Some day: tar warns of 1970.
        entry.mtime = 946684800
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    def make(part: Path) -> None:
        with (
            part.open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for path in [folder, *sorted(folder.rglob("*"))]:
                tar.add(path, arcname=path.relative_to(folder.parent), recursive=False, filter=plain)

    put(archive, 0o644, make)


def run_dist(arguments: argparse.Namespace) -> None:
    """The subcommand."""
    arch = platform.machine()
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        raise PackageError("dist packs for Linux with glibc, and has to run there")
    # The README promises what `check` checks.
    run_check(arguments)
    name = f"foreturn-{version()}-{arch}-linux-gnu"
    archive = arguments.out / f"{name}.tar.gz"
    with tempfile.TemporaryDirectory(prefix="foreturn-dist-") as temporary:
        root = Path(temporary) / name
        install(arguments.build, root, not arguments.without_runtime)
        runtime = WITHOUT_RUNTIME if arguments.without_runtime else WITH_RUNTIME
        put_text(filled(README, ARCH=arch, RUNTIME=runtime), root / "README.md")
        pack(root, archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


# check


@dataclass
class Elf:
    """The properties and requirements of a shared library."""

    soname: str = ""
    needed: list[str] = field(default_factory=list)
    exported: list[str] = field(default_factory=list)
    glibc: dict[str, list[str]] = field(default_factory=dict)
    """Versions of glibc to the functions that want them; a version may stand there without any."""


def read_elf(library: Path) -> Elf:
    """Reads a shared library with readelf."""
    elf = Elf()
    for line in output("readelf", "--wide", "--dynamic", "--dyn-syms", "--version-info", str(library)).splitlines():
        if found := re.search(r"\((NEEDED|SONAME)\).*\[(.+)\]", line):
            if found[1] == "NEEDED":
                elf.needed.append(found[2])
            else:
                elf.soname = found[2]
        elif found := re.search(r"Name: GLIBC_(\S+)", line):
            elf.glibc.setdefault(found[1], [])
        elif re.match(r"\s*\d+: [0-9a-f]{8}", line):
            _, _, _, _, bind, visibility, section, *name = line.split()
            if section == "UND" and name and "@GLIBC_" in name[0]:
                function, wanted = re.split("@+GLIBC_", name[0])
                elf.glibc.setdefault(wanted, []).append(function)
            elif section != "UND" and bind != "LOCAL" and visibility in ("DEFAULT", "PROTECTED"):
                elf.exported.append(name[0].split("@")[0])
    if not elf.exported:
        raise PackageError(f"{shown(library)}: readelf shows no exported symbols; {BUILD}")
    return elf


def glibc_number(name: str) -> tuple[int, ...]:
    """A version for comparison. Anything that is not a number (GLIBC_PRIVATE, GLIBC_ABI_DT_RELR) is above all others."""
    return tuple(map(int, name.split("."))) if re.fullmatch(r"\d+(\.\d+)+", name) else (sys.maxsize,)


def run_check(arguments: argparse.Namespace) -> None:
    """The subcommand."""
    library = existing(arguments.build / "libforeturn.so", BUILD)
    elf = read_elf(library)
    baseline = ".".join(map(str, GLIBC_BASELINE))
    wrong = []
    for name in sorted(elf.glibc, key=glibc_number):
        if glibc_number(name) > GLIBC_BASELINE:
            functions = ", ".join(sorted(elf.glibc[name])[:8]) or "the library as a whole"
            wrong.append(
                f"GLIBC_{name} is needed by {functions}; {baseline} is promised: link on an older system, or raise "
                "GLIBC_BASELINE in tools/package.py"
            )
    for name in elf.exported:
        if not name.startswith("foreturn_"):
            wrong.append(f"{name} is exported and doesn't start with foreturn_: rename it in ffi/src")
    for name in elf.needed:
        if name not in NEEDED:
            wrong.append(f"{name} is needed, and not every machine has it: see NEEDED in tools/package.py")
    if elf.soname != SONAME:
        wrong.append(f"it is called {elf.soname}, not {SONAME}: see ffi/build.rs and tools/package.py")
    if wrong:
        raise PackageError(f"{shown(library)}:\n  " + "\n  ".join(wrong))
    newest = max(elf.glibc, key=glibc_number, default="none")
    print(f"{shown(library)}: {len(elf.exported)} functions; needs glibc {newest}, and {baseline} is promised")


# abi


@dataclass
class Line:
    """One line of the listing; each `%lld` is filled by a program that C's compiler makes."""

    kind: str
    name: str
    text: str
    values: list[str] = field(default_factory=list)


def statements(header: str) -> list[str]:
    """The header's declarations, each in one line, without comments and preprocessor."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    # extern "C" and its brace are only for C++.
    text = re.sub(r"^#ifdef __cplusplus\n.*?^#endif", "", text, flags=re.DOTALL | re.MULTILINE)
    text = " ".join(re.sub(r"^#.*", "", text, flags=re.MULTILINE).split())
    found, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == ";" and depth == 0:
            found.append(text[start:at].strip())
            start = at + 1
    if text[start:].strip():
        raise PackageError(f"{shown(HEADER)} ends with something unfinished: {text[start:].strip()[:200]}")
    return found


def types_only(parameters: str) -> str:
    """Parameters without their names, which are not part of the ABI."""
    return ", ".join(declared(parameter)[0] for parameter in parameters.split(",")) if parameters != "void" else "void"


def declared(text: str) -> tuple[str, str]:
    """Type and name of a field or parameter."""
    found = re.fullmatch(r"((?:const )?\w+(?: \*(?:const )?)*\**)\s*\b(\w+)((?:\[\w+\])*)", text.strip())
    if not found:
        raise PackageError(f"{shown(HEADER)}: `{text.strip()}` is not understood: teach tools/package.py to read it")
    return found[1].strip() + found[3], found[2]


def struct(name: str, body: str) -> Line:
    """A struct with the place of each field, in their order."""
    line = Line("struct", name, f"struct {name}: %lld bytes", [f"sizeof({name})"])
    for part in filter(None, map(str.strip, body.split(";"))):
        kind, member = declared(part)
        line.text += f"\n  %lld+%lld {member}: {kind}"
        line.values += [f"offsetof({name}, {member})", f"sizeof((({name} *)0)->{member})"]
    return line


def line_of(statement: str) -> list[Line]:
    """The line of a declaration in the listing."""
    if found := re.fullmatch(r"enum \w+ (?:: \w+ )?\{(.*)\}", statement):
        names = [part.split("=")[0].strip() for part in found[1].split(",") if part.strip()]
        return [Line("status", name, f"status {name} = %lld", [name]) for name in names]
    if found := re.fullmatch(r"typedef struct (?:\w+ )?\{(.*)\} (\w+)", statement):
        return [struct(found[2], found[1])]
    if found := re.fullmatch(r"typedef struct (\w+) \1", statement):
        return [Line("handle", found[1], f"handle {found[1]}")]
    # The same name again as an enum, for versions of C with enums of a given size.
    if re.fullmatch(r"typedef enum (\w+) \1", statement):
        return []
    if found := re.fullmatch(r"typedef (\w+) \(\*(\w+)\)\((.*)\)", statement):
        return [Line("callback", found[2], f"callback {found[2]}: {found[1]} ({types_only(found[3])})")]
    if found := re.fullmatch(r"typedef (\w+) (\w+)", statement):
        return [Line("type", found[2], f"type {found[2]}: {found[1]}, %lld bytes", [f"sizeof({found[2]})"])]
    if found := re.fullmatch(r"(\w+(?: \w+)*[ *]+)(foreturn_\w+)\((.*)\)", statement):
        return [Line("function", found[2], f"function {found[2]}: {found[1].strip()} ({types_only(found[3])})")]
    raise PackageError(f"{shown(HEADER)}: `{statement[:200]}` is not understood: teach tools/package.py to read it")


def header_lines() -> list[Line]:
    """Everything that the header declares, by kind and name, so that its order doesn't matter."""
    header = existing(HEADER, "`make header` makes it").read_text(encoding="utf-8")
    lines = [
        Line("constant", name, f"constant {name} = %lld", [name])
        for name in re.findall(r"^#define (FORETURN_\w+) \S", header, flags=re.MULTILINE)
    ]
    for statement in statements(header):
        lines += line_of(statement)
    return sorted(lines, key=lambda line: (KINDS.index(line.kind), line.name))


def measured(lines: list[Line]) -> str:
    """The listing, with the numbers that C's compiler gives."""
    program = '#include <stddef.h>\n#include <stdio.h>\n#include "foreturn.h"\nint main(void) {\n'
    for line in lines:
        text = line.text.replace("\n", "\\n")
        values = "".join(f", (long long)({value})" for value in line.values)
        program += f'  printf("{text}\\n"{values});\n'
    program += "  return 0;\n}\n"
    with tempfile.TemporaryDirectory(prefix="foreturn-abi-") as temporary:
        source, executable = Path(temporary) / "abi.c", Path(temporary) / "abi"
        source.write_text(program, encoding="utf-8")
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        output(*compiler, "-std=c11", "-I", str(HEADER.parent), "-o", str(executable), str(source))
        return output(str(executable))


def listing(build: Path) -> str:
    """The ABI as text. Header and library have to declare the same functions."""
    lines = header_lines()
    library = existing(build / "libforeturn.so", BUILD)
    exported = set(read_elf(library).exported)
    in_header = {line.name for line in lines if line.kind == "function"}
    if exported != in_header:
        wrong = [f"{name}: exported, not in {shown(HEADER)}" for name in sorted(exported - in_header)]
        wrong += [f"{name}: in {shown(HEADER)}, not exported" for name in sorted(in_header - exported)]
        raise PackageError(f"{shown(library)}: build it and `make header` anew:\n  " + "\n  ".join(wrong))
    return measured(lines)


def stored(text: str) -> tuple[str, str]:
    """Sum and listing in ffi/abi.txt."""
    first, _, rest = text.partition("\n")
    found = re.fullmatch(r"sha256 ([0-9a-f]{64})", first)
    if not found or found[1] != hashlib.sha256(rest.encode()).hexdigest():
        raise PackageError(
            f"{shown(ABI_FILE)}: its first line isn't the sum of the rest: write it anew with `make abi-update`"
        )
    return found[1], rest


def run_abi(arguments: argparse.Namespace) -> None:
    """The subcommand."""
    now = listing(arguments.build)
    changelog = existing(CHANGELOG, "it is in git").read_text(encoding="utf-8")
    if arguments.write:
        digest = hashlib.sha256(now.encode()).hexdigest()
        ABI_FILE.write_text(f"sha256 {digest}\n{now}", encoding="utf-8")
        print(f"stored in {shown(ABI_FILE)}")
    else:
        digest, before = stored(existing(ABI_FILE, "`make abi-update` makes it").read_text(encoding="utf-8"))
        if now != before:
            difference = difflib.unified_diff(
                before.splitlines(), now.splitlines(), shown(ABI_FILE), "header and library", lineterm=""
            )
            print("\n".join(difference))
            raise PackageError(f"a change of the ABI needs a note in {CHANGELOG.name} and `make abi-update`")
    # The sum stands for one ABI, so a changed one can't go without a note of its own.
    mark = f"ABI {digest[:12]}"
    if not re.search(rf"\b{mark}\b", changelog):
        said = f"a change of the ABI needs a note in {CHANGELOG.name}: none there says `{mark}`"
        if not arguments.write:
            raise PackageError(f"{said}, which is what {shown(ABI_FILE)} holds")
        print(said)
    else:
        print(f"{mark}: as in {shown(ABI_FILE)} and {CHANGELOG.name}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    build = REPOSITORY / "target/release"
    parser.add_argument("--build", type=Path, default=build, help="where the libraries are; default: %(default)s")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("install", help="install under a prefix")
    command.add_argument("--prefix", type=Path, required=True, help="the folder that gets lib, include and share")
    command.add_argument("--destdir", default="", help="put before the prefix, for packagers")
    command.add_argument("--without-runtime", action="store_true", help="leave ONNX Runtime out")
    command.set_defaults(run=run_install)
    command = commands.add_parser("dist", help="make an archive for machines without Rust")
    command.add_argument("--out", type=Path, required=True, help="the folder that gets the archive")
    command.add_argument("--without-runtime", action="store_true", help="leave ONNX Runtime out")
    command.set_defaults(run=run_dist)
    command = commands.add_parser("check", help="check what the shared library needs and exports")
    command.set_defaults(run=run_check)
    command = commands.add_parser("abi", help="compare the ABI with ffi/abi.txt")
    command.add_argument("--write", action="store_true", help="write ffi/abi.txt anew")
    command.set_defaults(run=run_abi)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (PackageError, OSError) as error:
        sys.stdout.flush()
        print(f"package.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
