"""The results as Markdown."""

from __future__ import annotations

from typing import Any

from summary import counterpart, is_ours

NOTES = """
Median (smallest to largest) of the repetitions, each a process of its own, in turn. The last columns say how many times
as fast foreturn is as that engine, with the model of the nearest precision: median of the ratios of each repetition.

- The short prompt is timed from the start of the process to its first token; Python's own start and imports are part of
  it for all but foreturn.
- `llama` reads the demo's Q4_1 file, a form that llama.cpp has no fast path for; `llama-q4_0` and `llama-q8_0` read the
  same model as its own quantiser stores it.
- In the table of the prompt, foreturn, llama and openvino compute the prompt once and share it among the sequences; the
  others get as many copies as there are sequences. Prefill counts tokens computed; foreturn's is always of one copy.
- In the job, foreturn, llama and openvino compute common beginnings once (llama through a prefix tree made by hand for it,
  openvino in whole blocks, if prompts come in an order that lets it), and
  each future of foreturn goes on by itself. The others compute every prompt, in three batches, as the reference
  implementation does; the order within a prompt makes no difference to them, so they are measured in one.
""".strip()


def markdown(results: dict[str, Any]) -> str:
    """All tables of a results file."""
    parts = [heading(results), load_table(results), decode_table(results), job_table(results)]
    return "\n\n".join(part for part in [*parts, skipped(results), NOTES] if part)


def heading(results: dict[str, Any]) -> str:
    """The machine and the versions."""
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    lines = [
        f"{machine['processor']}, {settings['threads']} threads, {', '.join(machine['flags'])}; {results['date']}, "
        f"commit {results['commit']}; {versions}.",
    ]
    if settings["quick"]:
        lines.insert(0, "**A quick run with few tokens: it shows that everything works, and measures nothing.**\n")
    return "\n".join(lines)


def load_table(results: dict[str, Any]) -> str:
    """From the start of a process to its first token."""
    rows = [
        [engine, spread(fields, "seconds", "{:.2f}"), megabytes(fields), ratio(results, "load", engine, "seconds")]
        for engine, fields in results["summary"].get("load", {}).items()
    ]
    header = ["engine", "seconds", "peak MB", "foreturn, times as fast"]
    return table("Start to first token of a short prompt", header, rows)


def decode_table(results: dict[str, Any]) -> str:
    """Prefill and decoding at each batch size."""
    settings = results["settings"]
    rows = []
    for batch in settings["batches"]:
        measurement = f"decode batch {batch}"
        for engine, fields in results["summary"].get(measurement, {}).items():
            speeds = [spread(fields, f"{phase}_tokens_per_second", "{:.0f}") for phase in ("prefill", "decode")]
            ratios = [
                ratio(results, measurement, engine, f"{phase}_tokens_per_second") for phase in ("prefill", "decode")
            ]
            rows.append([engine, str(batch), *speeds, megabytes(fields), *ratios])
    title = f"Prompt of {settings['prompt_tokens']} tokens, then {settings['new_tokens']} new ones"
    header = ["engine", "batch", "prefill tokens/s", "decode tokens/s", "peak MB", "prefill, times", "decode, times"]
    return table(title, header, rows)


def job_table(results: dict[str, Any]) -> str:
    """The ranking job in both orders."""
    rows = []
    for order in ("reference", "fixed-first"):
        for engine, fields in results["summary"].get(f"job {order}", {}).items():
            counts = [count(fields, name) for name in ("prompt_tokens", "computed_tokens")]
            ratios = [ratio(results, f"job {ours}", engine, "seconds", order) for ours in ("reference", "fixed-first")]
            rows.append([engine, order, spread(fields, "seconds", "{:.1f}"), *counts, megabytes(fields), *ratios])
    settings = results["settings"]
    title = f"One ranking job: {settings['candidates']} candidates, {settings['samples']} futures each"
    header = ["engine", "order", "seconds", "prompt tokens", "of these computed", "peak MB"]
    return table(title, [*header, "foreturn (reference), times as fast", "foreturn (fixed-first), times as fast"], rows)


def skipped(results: dict[str, Any]) -> str:
    """What is not in the tables."""
    lines = [f"- Not measured: {engine}: {why}" for engine, why in results.get("skipped", {}).items()]
    for run in results.get("failed", []):
        lines.append(f"- Failed: {run['engine']}, {run['measurement']}: {run['error'].splitlines()[-1]}")
    return "\n".join(lines)


def table(title: str, header: list[str], rows: list[list[str]]) -> str:
    """A table under its title; nothing where nothing was measured."""
    if not rows:
        return ""
    lines = [" | ".join(row) for row in [header, ["---"] * len(header), *rows]]
    return f"### {title}\n\n" + "\n".join(f"| {line} |" for line in lines)


def spread(fields: dict[str, Any], name: str, form: str) -> str:
    """`12.3 (11.9 to 13.0)`."""
    if name not in fields:
        return ""
    values = {part: form.format(fields[name][part]) for part in ("median", "min", "max")}
    only_one = fields[name]["n"] == 1
    return values["median"] if only_one else "{median} ({min} to {max})".format(**values)


def megabytes(fields: dict[str, Any]) -> str:
    """The highest peak of memory."""
    return f"{fields['peak_rss_bytes']['max'] / 1e6:.0f}"


def count(fields: dict[str, Any], name: str) -> str:
    """A number of tokens."""
    return f"{fields[name]['median']:,.0f}" if name in fields else ""


def ratio(results: dict[str, Any], ours: str, engine: str, field: str, order: str | None = None) -> str:
    """How many times as fast foreturn is in `ours` as a peer; a peer that shares is set beside the same order only."""
    if is_ours(engine):
        return ""
    beside = results["ratios"].get(ours, {}).get(counterpart(engine), {}).get(engine, {})
    if field not in beside or (engine.startswith(("llama", "openvino")) and order and not ours.endswith(order)):
        return ""
    return spread(beside, field, "{:.2f}")
