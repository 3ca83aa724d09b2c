#!/usr/bin/env python3
"""Records what collabllm 0.0.8 reads from a data set of `foreturn dataset build`.

    pip install -r tests/reference/requirements-collabllm.txt datasets
    pip install --no-deps collabllm==0.0.8
    tests/reference/make_dataset_fixtures.py [--foreturn target/debug/foreturn] [--collabllm DIR]

Writes tests/fixtures/dataset: `built.jsonl`, conversations in the form of the command, made up here so that they hold ties,
equal texts, a system message, turns of their own length and unknown probabilities; and `collabllm.json`, what collabllm's
own `MultiturnDataset` makes of them: the flat rows, SFT conversations and DPO pairs.

With `--foreturn`, the command exports the same conversations, and collabllm and `datasets.load_dataset` load each export:
both forms must give collabllm equal data.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["ENABLE_COLLABLLM_LOGGING"] = "0"

OUT = Path(__file__).parents[1] / "fixtures/dataset"
Json = dict[str, Any]
# Per conversation: system message, then per turn the texts with their scores.
CONVERSATIONS: list[tuple[str | None, list[list[tuple[str, float]]]]] = [
    (None, [[("What should it be about?", 1.25), ("Roses are red.", 0.5), ("Here: a poem.", 0.75)],
            [("The sea took him home.", 1.5), ("A dog, a sea.", 1.0), ("Again?", -0.25)]]),
    ("Be brief.", [[("30", 0.9), ("24", 0.9), ("720", 0.1)], [("Because of 24 turns.", 0.3), ("So.", 0.3), ("It is.", 0.1)]]),
    (None, [[("same", 0.7), ("same", 0.6)], [("good", 0.61803398875), ("bad", 0.1), ("bad", 0.2)]]),
    (None, [[("only", 0.4)], [("ü “quoted”\nline", 1e-9), ("x", -1e-9), ("y", 0.0)], [("end", 2.0), ("stop", 1.9)]]),
]


def conversation(number: int, system: str | None, turns: list[list[tuple[str, float]]]) -> Json:
    said = [{"role": "system", "content": system}] if system else []
    said.append({"role": "user", "content": f"Task {number}, please."})
    rows = []
    for at, texts in enumerate(turns):
        responses = [
            {"completion": text, "score": score, "std_error": 0.1, "probability_best": None,
             "metrics": {"helpfulness": score}, "samples": 2}
            for text, score in texts
        ]
        chosen = max(range(len(texts)), key=lambda i: texts[i][1])
        others = [i for i in range(len(texts)) if texts[i][0] != texts[chosen][0]]
        rejected = min(others, key=lambda i: (texts[i][1], -i), default=None)
        rows.append({"prompt": list(said), "responses": responses, "chosen": chosen, "rejected": rejected,
                     "probability": None if rejected is None or at == 2 else (0.95 if number % 2 else 0.6),
                     "seed": 100 * number + at})
        said += [{"role": "assistant", "content": texts[chosen][0]}, {"role": "user", "content": f"And {at}?"}]
    return {
        "schema": 1, "id": f"task-{number}", "single_turn_prompt": f"Everything about task {number}.",
        "single_turn_completion": f"Answer {number}", "single_turn_metadata": {"level": number},
        "goal": {"prompt": f"Everything about task {number}.", "reference": f"Answer {number}"}, "turns": rows,
        "ended": "turns", "seed": number, "models": {"policy": {"name": "small", "weights": "v1"}}, "bitwise": True,
        "tokens": {"policy": {"prompt": 10, "generated": 2}}, "program": "foreturn 0.1.0",
    }


def without_system(rows: list[Json]) -> list[Json]:
    """collabllm's conversations have no system message; it adds its own where it is told to."""
    def heard(messages: list[Json]) -> list[Json]:
        return [message for message in messages if message["role"] != "system"]

    return [{**row, "turns": [{**turn, "prompt": heard(turn["prompt"])} for turn in row["turns"]]} for row in rows]


def flat(rows: list[Json]) -> list[Json]:
    """Without what our rows have besides."""
    fields = ("prompt", "completion", "conv_id", "score", "single_turn_prompt", "single_turn_completion",
              "single_turn_metadata", "turn_id")
    return [{field: row[field] for field in fields} for row in rows]


def read(rows: list[Json]) -> Json:
    from collabllm.datasets.multiturn import MultiturnDataset

    def data() -> Any:
        return MultiturnDataset(json.loads(json.dumps(rows)), add_system_prompt=False)

    pairs = [{"minimum_gap": gap, "pairs": list(data().to_dpo_dataset(minimum_gap=gap)["train"])} for gap in (0.0, 0.3, 0.75)]
    return {"implementation": "collabllm 0.0.8", "flat": flat(data().data),
            "sft": list(data().to_sft_dataset()["train"]), "dpo": pairs}


def check(command: str, recorded: Json) -> None:
    """Loads each export as a trainer would."""
    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as folder:
        for form in ("sft", "dpo", "reward", "collabllm-nested", "collabllm-flat"):
            to = f"{folder}/{form}.jsonl"
            subprocess.run([command, "dataset", "export", "--from", OUT / "built.jsonl", "--to", to, f"--{form}"], check=True)
            loaded = list(load_dataset("json", data_files=to, split="train", cache_dir=f"{folder}/cache"))
            if form.startswith("collabllm"):
                for rows in (loaded, [json.loads(line) for line in Path(to).read_text().splitlines()]):
                    assert read(rows) == recorded, form
            print(f"{form}: {len(loaded)} rows, {sorted(loaded[0])}")


def abg_coqa(checkout: Path) -> list[Json]:
    """What the class of collabllm's examples reads from our stories in Abg-CoQA's format. The file stands for all splits."""
    spec = importlib.util.spec_from_file_location("abg_coqa", checkout / "examples/single_turn_ds/abg_coqa.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "abg-coqa")
        folder.mkdir()
        for split in ("train", "val", "test"):
            text = (OUT / "abg_coqa.json").read_text() if split == "test" else '{"data": []}'
            (folder / f"coqa_abg_{split}.json").write_text(text)
        data = module.AbgCoQA(root=root).data
    return [{field: row[field] for field in ("id", "prompt", "completion")} for row in data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foreturn", help="the command, to check what it exports")
    parser.add_argument("--collabllm", type=Path, help="a checkout of github.com/Wuyxin/collabllm at 2611521, to record what "
                        "its examples read of tests/fixtures/dataset/abg_coqa.json")
    options = parser.parse_args()
    if options.collabllm:
        read_stories = json.dumps(abg_coqa(options.collabllm), indent=1, ensure_ascii=False)
        (OUT / "abg_coqa_read.json").write_text(read_stories + "\n")
    built = [conversation(number, *of) for number, of in enumerate(CONVERSATIONS)]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "built.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in built))
    recorded = read(without_system(built))
    (OUT / "collabllm.json").write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
    if options.foreturn:
        check(options.foreturn, recorded)


if __name__ == "__main__":
    sys.exit(main())
