#!/usr/bin/env python3
"""Measures foreturn and other engines beside each other on this machine and prints how many times as fast foreturn is.

    make bench-peers
    target/peers-venv/bin/python benches/peers/compare.py --only job --engines foreturn-fp32,genai-fp32 --repeat 3

Every measurement is a process of its own, and they run one at a time: the first repetition of every engine, then the
second, so that whatever else the machine does falls on all. Results are written after each one; an interrupted run goes
on with --resume. Standard output gets the table, standard error what is going on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import processes
import summary
import tables
import workload
from store import Store

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
FOLDERS = {"fp32": MODEL, "bf16": f"{MODEL}-bfloat16", "int8": f"{MODEL}-int8", "int4": f"{MODEL}-int4"}
NEEDS = {
    "foreturn": (),
    "genai": ("onnxruntime-genai", "numpy"),
    "llama": ("llama-cpp-python", "numpy"),
    "openvino": ("openvino-genai", "nncf", "gguf", "numpy"),
    "hf": ("torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy"),
}
"""The packages of each kind of engine."""
ENGINES = (
    "foreturn-fp32", "foreturn-bf16", "foreturn-int8", "foreturn-int4", "genai-fp32", "genai-int8", "genai-int4", "llama",
    "llama-q4_0", "llama-q8_0", "hf-fp32", "hf-bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "genai-fp32-greedy",
    "genai-int4-greedy",
)  # fmt: skip
GREEDY = "-greedy"
"""Behind the name of an engine whose decoding is measured without sampling."""
SHARING = ("foreturn", "llama", "openvino")
"""Engines that compute common beginnings once, so that the order of a prompt matters to them."""


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    threads: int
    repeat: int
    prompt_tokens: int = 512
    new_tokens: int = 64
    batches: tuple[int, ...] = (1, 4, 12)
    candidates: int = 4
    samples: int = 3
    quick: bool = False

    @classmethod
    def chosen(cls, arguments: argparse.Namespace) -> Settings:
        """Those of the command line."""
        if arguments.quick:
            return cls(arguments.threads, 1, 64, 8, (1, 2), candidates=1, samples=2, quick=True)
        return cls(arguments.threads, arguments.repeat)


@dataclass(frozen=True)
class Task:
    """One measurement of one engine."""

    engine: str
    measurement: str
    """`load`, `decode` or `job`."""
    batch: int | None = None
    order: str | None = None

    def fields(self) -> dict[str, Any]:
        """What tells its results from others."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def kind(engine: str) -> str:
    """`genai` of `genai-int8`."""
    return engine.partition("-")[0]


def tasks(engine: str, only: str | None, settings: Settings) -> list[Task]:
    """Everything that is measured of one engine."""
    orders = workload.ORDERS if kind(engine) in SHARING else workload.ORDERS[:1]
    every = [
        Task(engine, "load"),
        *(Task(engine, "decode", batch=batch) for batch in settings.batches),
        *(Task(engine, "job", order=order) for order in orders),
    ]
    if engine.endswith(GREEDY):
        every = [task for task in every if task.measurement == "decode"]
    return [task for task in every if only in (None, task.measurement)]


def model_path(engine: str, arguments: argparse.Namespace) -> Path:
    """The file or folder that an engine reads."""
    form = engine.removesuffix(GREEDY).partition("-")[2]
    if kind(engine) == "llama":
        return arguments.prepared / f"{MODEL}-{form}.gguf" if form else arguments.gguf
    if kind(engine) == "hf":
        return arguments.hf
    if kind(engine) == "openvino":
        return arguments.prepared / f"{MODEL}-openvino{'-int8' if form == 'int8' else ''}"
    return arguments.models / FOLDERS[form]


def absent_packages(engine: str) -> list[str]:
    """The packages that an engine needs and this environment lacks."""
    return [name for name in NEEDS[kind(engine)] if machine.package(name) is None]


def why_not(engine: str, arguments: argparse.Namespace) -> str | None:
    """Why an engine can't be measured here."""
    if absent := absent_packages(engine):
        return f"not installed: {', '.join(absent)}"
    path = model_path(engine, arguments)
    return None if path.exists() else f"{path} is not there"


def command(task: Task, arguments: argparse.Namespace, settings: Settings) -> list[str]:
    """The process that makes one measurement."""
    model = str(model_path(task.engine, arguments))
    if kind(task.engine) == "foreturn":
        return [str(arguments.foreturn), *foreturn_options(task, settings), "--model", model, "--json"]
    worker = [sys.executable, str(HERE / "worker.py"), task.engine, task.measurement, "--model", model]
    options = {
        "threads": settings.threads,
        "prompt-tokens": settings.prompt_tokens,
        "new-tokens": settings.new_tokens,
        "batch": task.batch or 1,
        "candidates": settings.candidates,
        "samples": settings.samples,
        "order": task.order or workload.ORDERS[0],
    }
    return worker + [f"--{name}={value}" for name, value in options.items()]


def foreturn_options(task: Task, settings: Settings) -> list[str]:
    """The part of foreturn's command line that says what is measured."""
    if task.measurement == "load":
        tokens = ",".join(map(str, workload.prompt(workload.SHORT_PROMPT, 1)))
        return ["generate", f"--tokens={tokens}", "--max-new-tokens=1", "--ignore-eos"]
    if task.measurement == "decode":
        options = {"prompt-tokens": settings.prompt_tokens, "new-tokens": settings.new_tokens, "batch": task.batch}
    else:
        options = {"prompt-order": task.order, "candidates": settings.candidates, "samples": settings.samples}
    flags = [f"--{name}={value}" for name, value in options.items()]
    return ["bench", *(["--job"] if task.measurement == "job" else []), *flags]


def measure(task: Task, arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Runs one measurement; its numbers, with what the process took."""
    load = os.getloadavg()[0]
    finished = processes.run(command(task, arguments, settings), settings.threads, arguments.timeout)
    told = summary.numbers(finished.output)
    if task.measurement == "load":
        told["seconds"] = finished.first_output_seconds
    return {
        **told,
        "process_seconds": finished.seconds,
        "peak_rss_bytes": finished.peak_rss_bytes,
        "load_average_before": load,
        "date": machine.now(),
    }


def measure_all(wanted: list[Task], store: Store, arguments: argparse.Namespace, settings: Settings) -> None:
    """Repetition after repetition, each over all tasks; what is there already is left."""
    for repetition in range(1, settings.repeat + 1):
        for number, task in enumerate(wanted, 1):
            fields = {**task.fields(), "repetition": repetition}
            if store.has(**fields):
                continue
            name = " ".join(map(str, task.fields().values()))
            say(f"repetition {repetition} of {settings.repeat}, {number} of {len(wanted)}: {name}")
            try:
                store.add({**fields, **measure(task, arguments, settings)})
            except processes.ProcessError as error:
                say(f"failed: {error}")
                store.add_failure({**fields, "error": str(error)})


def touch(wanted: list[Task], arguments: argparse.Namespace, settings: Settings) -> None:
    """Starts every engine once without keeping the time, so that no first repetition reads from a cold disk."""
    for task in wanted:
        if task.measurement == "load":
            say(f"once before the first repetition: {task.engine}")
            try:
                measure(task, arguments, settings)
            except processes.ProcessError as error:
                say(f"failed: {error}")


def prepare(arguments: argparse.Namespace) -> None:
    """Makes what the peers read and is not there, where the packages for it are."""
    forms = {
        "hf-fp32": "hf", "hf-bf16": "hf", "llama-q4_0": "q4_0", "llama-q8_0": "q8_0", "openvino-fp32": "openvino",
        "openvino-bf16": "openvino", "openvino-int8": "openvino-int8",
    }  # fmt: skip
    for engine in filter(forms.get, arguments.engines):
        path = model_path(engine, arguments)
        if path.exists() or absent_packages(engine) or not arguments.gguf.exists():
            continue
        say(f"making {path} from {arguments.gguf}")
        script = [sys.executable, str(HERE / "prepare.py"), forms[engine]]
        made = subprocess.run([*script, "--gguf", arguments.gguf, "--to", path], capture_output=True, text=True)
        if made.returncode:
            say(f"it could not be made: {made.stderr.strip()[-1000:]}")


def say(text: str) -> None:
    """A line for who is waiting."""
    print(text, file=sys.stderr, flush=True)


def engine_names(text: str) -> list[str]:
    """A list of engines, separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ENGINES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'} is not among {', '.join(ENGINES)}")
    return names


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = machine.REPOSITORY / "target"
    add = parser.add_argument
    add("--foreturn", type=Path, default=target / "release/foreturn", help="the command")
    add("--models", type=Path, default=target / "models", help=f"folder with {', '.join(FOLDERS.values())}")
    add("--gguf", type=Path, default=target / "downloads/SmolLM2-135M-Instruct.Q4_1.gguf", help="llama.cpp's model")
    add("--hf", type=Path, default=target / f"peers/{MODEL}-hf", help="transformers' checkpoint; made if absent")
    add("--prepared", type=Path, default=target / "peers", help="folder for the GGUF requantised; made if absent")
    add("--out", type=Path, default=HERE.parent / "results/peers.json", help="results file")
    add("--repeat", type=positive, default=5, metavar="N", help="repetitions (default: %(default)s)")
    add("--threads", type=positive, default=2, metavar="N", help="threads and processors (default: %(default)s)")
    add("--only", choices=("load", "decode", "job"), help="measure only this")
    add("--engines", type=engine_names, default=list(ENGINES), metavar="NAME,…", help=f"of {', '.join(ENGINES)}")
    add("--timeout", type=float, default=1800, metavar="S", help="for one measurement (default: %(default)s)")
    add("--quick", action="store_true", help="a few tokens, once: to see that everything runs, not to measure")
    add("--resume", action="store_true", help="go on with the results file")
    add("--overwrite", action="store_true", help="replace the results file")
    arguments = parser.parse_args()
    if not os.access(arguments.foreturn, os.X_OK):
        parser.error(f"{arguments.foreturn} can't be run; `make build` makes it, --foreturn names another")
    return arguments


def main() -> int:
    """Measures, writes, prints."""
    arguments = parse()
    workload.check()
    settings = Settings.chosen(arguments)
    processes.pin(settings.threads)
    # Lists, as they come back from the file.
    header = {"settings": {**asdict(settings), "batches": list(settings.batches)}}
    header |= machine.describe(arguments.foreturn)
    store = Store.open(arguments.out, header, arguments.resume, arguments.overwrite)
    prepare(arguments)
    skipped = {engine: why for engine in arguments.engines if (why := why_not(engine, arguments))}
    for engine, why in skipped.items():
        say(f"skipped: {engine}: {why}")
    store.content["skipped"] = skipped
    store.write()
    measured = [engine for engine in arguments.engines if engine not in skipped]
    # All engines' share of one measurement stand together, so that they see the same machine.
    wanted = [task for engine in measured for task in tasks(engine, arguments.only, settings)]
    wanted.sort(key=lambda task: (("load", "decode", "job").index(task.measurement), task.batch or 0))
    touch(wanted, arguments, settings)
    measure_all(wanted, store, arguments, settings)
    store.content |= summary.of(store.content["runs"])
    store.write()
    print(tables.markdown(store.content))
    say(f"written to {arguments.out}")
    return 1 if store.content["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
