#!/usr/bin/env python3
"""Builds the fuzz targets with the stable compiler and runs each for a stated time.

    python3 tools/fuzz.py [--seconds 60] [--jobs 1] [--only NAME …] [--corpus-only]

LLVM's coverage (SanitizerCoverage) and libFuzzer need no nightly compiler, but AddressSanitizer does, so
`cargo +nightly fuzz run` has to find out-of-bounds reads in unsafe code. This program looks for panics, failed assertions,
overflows, endless loops (20 s) and excessive memory (2 GiB). Seeds come from the repository's fixtures. New inputs go to
fuzz/corpus, and inputs that a target fails on to fuzz/artifacts. Fails if a target fails or has run nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FUZZ = REPOSITORY / "fuzz"
FIXTURES = REPOSITORY / "tests/fixtures"
MODELS = FIXTURES / "models"
MOST = 128 << 10
"""Most bytes of a seed, and of an input: large ones are slow and say little more."""
DIVIDED_BY = b"\xff"
"""What divides the files of an input of several (see fuzz/src/lib.rs)."""
COVERAGE = (
    "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 "
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table "
    "-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
)


class FuzzError(Exception):
    """The failure and its remedy."""


def files(folder: Path, pattern: str) -> Iterator[bytes]:
    """The contents of the files that match the pattern."""
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            yield path.read_bytes()


def several(folder: Path, names: list[str]) -> bytes:
    """Files of a folder in one input; a missing file is empty."""
    return DIVIDED_BY.join((folder / name).read_bytes() if (folder / name).is_file() else b"" for name in names)


def completions() -> Iterator[bytes]:
    """Bodies as endpoints send them. The first byte says that they are not compressed."""
    token = {"token": "Yes", "logprob": -0.1, "bytes": [89, 101, 115]}
    position = {**token, "top_logprobs": [token, {"token": " no", "logprob": -2.5, "bytes": None}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Yes", "refusal": None}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 4}}
    body = {"choices": [{**choice, "logprobs": {"content": [position]}}], "usage": usage, "system_fingerprint": "fp"}
    yield b"\0" + json.dumps(body).encode()
    yield b"\0" + json.dumps({**body, "choices": [{**choice, "logprobs": []}], "usage": {"prompt_tokens": 9.0, "total_tokens": 9}}).encode()
    # Decisions, as OpenAI and vLLM write them, and as SGLang does.
    probabilities = {"Yes": 0.25, "No": 0.75}
    listed = [{"value": value, "probability": probability} for value, probability in probabilities.items()]
    answer = {"type": "choice", "name": "answer", "choice": "No", "probabilities": listed, "confidence": 0.6}
    usage = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 1, "total_tokens": 10}
    yield b"\0" + json.dumps({"model": "m", "answers": [answer], "usage": usage}).encode()
    yield b"\0" + json.dumps({"model": "m", "answers": [{"type": "refusal", "name": "answer"}], "usage": usage}).encode()
    answer = {"type": "choice", "choice": "No", "probabilities": probabilities, "label_mass": 0.9}
    yield b"\0" + json.dumps({"answers": {"answer": answer}, "usage": {"prompt_tokens": 9, "total_tokens": 9}}).encode()
    yield b"\0" + json.dumps({"error": {"message": "no GPU \x1b[2J", "code": 3, "type": "server_error"}}).encode()
    yield b"\0" + json.dumps({"detail": [{"loc": ["body"], "msg": "maximum context length"}]}).encode()


def tokenizers() -> Iterator[tuple[str, dict]]:
    """A tokenizer.json and a tokenizer_config.json of each of the tests' vocabularies."""
    for text in files(FIXTURES / "chat", "*.json"):
        recorded = json.loads(text)
        if "config" in recorded:
            vocabulary = FIXTURES / "chat" / f"{recorded['tokenizer']}.tokenizer.json"
            yield vocabulary.read_text(encoding="utf-8"), recorded["config"]


def templates() -> Iterator[bytes]:
    """The tests' chat templates, and two with features that these don't use."""
    for _, config in tokenizers():
        if isinstance(template := config.get("chat_template"), str):
            yield template.encode()
    yield b"{% for m in messages %}{{ m.role|upper }}: {{ m['content'].strip() }}\n{% endfor %}{{ raise_exception('no') }}"
    yield b"{%- macro f(x, n=1) -%}{{ x|tojson }}{%- endmacro -%}{{ f(tools) }}{{ strftime_now('%Y') }}{{ messages[::-1] }}"


def schemas() -> Iterator[bytes]:
    """Schemas of the kinds that the compiler knows."""
    text = {"type": "string", "pattern": "^[a-z]{1,8}$"}
    number = {"type": "number", "minimum": 0, "maximum": 1}
    yield json.dumps({"type": "object", "properties": {"a": text, "b": number}, "required": ["b"]}).encode()
    yield json.dumps({"anyOf": [{"type": "array", "items": number, "maxItems": 3}, {"enum": [1, "x", None]}, {"const": {}}]}).encode()
    yield json.dumps({"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}).encode()


def requests() -> Iterator[bytes]:
    """Requests, and conversations."""
    yield from files(REPOSITORY / "examples/requests", "*.json")
    for text in files(FIXTURES / "ranking", "*.json"):
        request = json.loads(text).get("request")
        if request:
            yield json.dumps(request).encode()
            yield json.dumps(request.get("conversation", [])).encode()
            yield json.dumps([request.get("conversation", [])]).encode()


def seeds(target: str) -> Iterator[bytes]:
    """The seeds of a target."""
    checkpoints = sorted(path.parent for path in MODELS.glob("*/checkpoint/config.json"))
    match target:
        case "config":
            yield from files(MODELS, "*/checkpoint/config.json")
        case "genai_config":
            yield from files(MODELS, "**/genai_config.json")
            names = ["genai_config.json", "config.json", "generation_config.json"]
            yield from (several(folder, names) for folder in checkpoints)
        case "gguf":
            yield from files(FIXTURES, "gguf/*.gguf")
            yield from files(MODELS, "*/*.gguf")
        case "index":
            names = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
            yield from (several(folder, names) for folder in checkpoints if (folder / names[0]).is_file())
            yield b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
        case "onnx":
            yield from files(MODELS, "**/*.onnx")
        case "reply":
            yield from completions()
        case "request":
            yield from requests()
        case "rubric":
            yield from files(REPOSITORY / "src/reward/rubrics", "*.toml")
        case "safetensors":
            yield from files(MODELS, "*/checkpoint/*.safetensors")
        case "schema":
            yield from schemas()
        case "settings":
            yield from files(REPOSITORY / "examples", "*.toml")
            configurations = (json.loads(text).get("config", []) for text in files(FIXTURES / "ranking", "*.json"))
            yield from ("\n".join([lines] if isinstance(lines, str) else lines).encode() for lines in configurations)
        case "template":
            yield from templates()
        case "tokenizer":
            special = json.dumps({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
            for tokenizer, config in tokenizers():
                yield DIVIDED_BY.join(text.encode() for text in (tokenizer, json.dumps(config), special))
            yield from files(FIXTURES / "chat", "*.tokenizer.json")
        case "trace":
            yield from files(FIXTURES / "report", "*.jsonl")
        case _:
            raise FuzzError(f"there are no seeds for {target}: say in tools/fuzz.py where they come from")


def plant(target: str) -> Path:
    """Rewrites the seeds; at least one."""
    folder = FUZZ / "target/seeds" / target
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for seed in seeds(target):
        if 0 < len(seed) <= MOST:
            (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    if not any(folder.iterdir()):
        raise FuzzError(f"no fixture is a seed for {target}: none is there, or all are larger than {MOST} bytes")
    return folder


def build() -> Path:
    """Builds all targets. Returns their folder."""
    host = subprocess.run(["rustc", "-vV"], cwd=FUZZ, capture_output=True, text=True, check=True).stdout
    triple = re.search(r"^host: (.+)$", host, re.MULTILINE)[1]
    # For a triple, so that build scripts and procedural macros are built without coverage.
    command = [os.environ.get("CARGO", "cargo"), "build", "--locked", "--target", triple]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CARGO_PROFILE_DEV")}
    done = subprocess.run(command, cwd=FUZZ, env={**environment, "RUSTFLAGS": COVERAGE}, check=False)
    if done.returncode != 0:
        raise FuzzError("the targets don't build; libfuzzer-sys needs a C++ compiler (Debian: apt-get install g++)")
    return FUZZ / "target" / triple / "debug"


@dataclass
class Outcome:
    """The outcome of a target's run."""

    target: str
    runs: int
    edges: int
    new: int
    seconds: int
    failure: str | None

    def line(self) -> str:
        """One line of the table."""
        return f"{self.target:14} {self.runs:>10} runs {self.edges:>7} edges {self.new:>6} new inputs {self.seconds:>6} s  {self.failure or 'ok'}"


def run(binary: Path, seconds: int) -> Outcome:
    """Runs a target."""
    target = binary.name
    corpus, artifacts = FUZZ / "corpus" / target, FUZZ / "artifacts" / target
    for folder in (corpus, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    before = len(list(corpus.iterdir()))
    options = ["-timeout=20", "-rss_limit_mb=2048", f"-max_len={MOST}", "-print_final_stats=1", "-detect_leaks=0"]
    command = [binary, corpus, plant(target), f"-max_total_time={seconds}", f"-artifact_prefix={artifacts}/", *options]
    log = artifacts.parent / f"{target}.log"
    with log.open("wb") as file:
        # With the messages of panics that are caught.
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=FUZZ, check=False)
    said = log.read_text(encoding="utf-8", errors="replace")

    def number(pattern: str) -> int:
        return max(map(int, re.findall(pattern, said)), default=0)

    runs, edges = number(r"stat::number_of_executed_units: (\d+)"), number(r" cov: (\d+)")
    took = number(r"Done \d+ runs in (\d+) second") or seconds
    failure = None
    if done.returncode != 0:
        summary = re.findall(r"panicked at [^\n]*\n[^\n]*|SUMMARY: [^\n]*", said)
        failure = f"FAILED: {' '.join((summary or ['see the log'])[0].split())[:200]} ({log.relative_to(REPOSITORY)})"
    elif runs == 0:
        failure = f"FAILED: it ran nothing ({log.relative_to(REPOSITORY)})"
    elif edges < 50:
        failure = f"FAILED: only {edges} edges were seen, so it was built without coverage ({log.relative_to(REPOSITORY)})"
    return Outcome(target, runs, edges, len(list(corpus.iterdir())) - before, took, failure)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (default: 1)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these targets alone")
    parser.add_argument("--corpus-only", action="store_true", help="make the seeds, and build and run nothing")
    arguments = parser.parse_args()
    targets = sorted(path.stem for path in (FUZZ / "fuzz_targets").glob("*.rs"))
    try:
        if unknown := set(arguments.only or []) - set(targets):
            raise FuzzError(f"there is no target {', '.join(sorted(unknown))}, but these: {', '.join(targets)}")
        targets = arguments.only or targets
        if arguments.corpus_only:
            for target in targets:
                print(f"{target:14} {len(list(plant(target).iterdir())):>5} seeds")
            return 0
        folder = build()
        with ThreadPoolExecutor(max(arguments.jobs, 1)) as pool:
            outcomes = []
            for outcome in pool.map(lambda target: run(folder / target, arguments.seconds), targets):
                print(outcome.line(), flush=True)
                outcomes.append(outcome)
    except FuzzError as error:
        print(f"fuzz.py: {error}", file=sys.stderr)
        return 1
    finally:
        for left in Path("/dev/shm").glob("foreturn-fuzz-*"):
            # Those of processes that have ended.
            if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists():
                shutil.rmtree(left, ignore_errors=True)
    failed = [outcome.target for outcome in outcomes if outcome.failure]
    print(f"{len(outcomes)} targets, {sum(outcome.runs for outcome in outcomes)} runs, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
