"""Distils multiturn-aware rewards into a reward model, whose score of a response costs one pass and no futures.

    pip install ./python onnxruntime torch trl
    python examples/train_reward_model.py --checkpoint FOLDER --out distilled

FOLDER is a checkpoint of a language model with a chat template. Here it plays every role of the rankings as well, and its score
head begins from it: put better models there to trust the numbers.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

import foreturn

TASKS = [
    ("Write a poem.", {"task": "write a poem", "prompt": "Write a poem about my late dog, who loved the sea."}),
    ("Plan my week.", {"task": "plan a week", "prompt": "Plan a week in which I run three times and never on Monday."}),
    ("Fix my code.", {"task": "help with code", "prompt": "Fix my Python loop, which skips the last item of the list."}),
    ("Book a table.", {"task": "book a table", "prompt": "Book a table for five on Friday; two of us are vegan."}),
]


def configuration(model: Path, tokens: int) -> dict[str, Any]:
    """What a `foreturn.toml` would say."""
    return {
        "models": {"chat": {"path": str(model), "temperature": 0.8}},
        "roles": {"policy": "chat", "user": "chat", "judge": "chat"},
        "rollout": {"window": 1, "samples": 3, "max_policy_tokens": tokens, "max_user_tokens": tokens},
        # Small models rarely begin with an answer. A judge to trust needs no `min_mass`.
        "metrics": [
            {"kind": "interactivity", "judging": "soft", "min_mass": 1e-6},
            {"kind": "token_amount", "lambda": 5e-4},
        ],
    }


def preferences(engine: foreturn.Engine, candidates: int) -> list[dict[str, Any]]:
    """Pairs of sampled responses. The margin is the difference of their rewards, which the score heads' are to exceed."""
    requests = [
        {"conversation": [{"role": "user", "content": prompt}], "candidates": candidates, "goal": goal}
        for prompt, goal in TASKS
    ]
    rows = []
    for request, ranking in zip(requests, engine.rank_many(requests), strict=True):
        known = [candidate for candidate in ranking if candidate.reward is not None and candidate.response]
        for better, worse in combinations(known, 2):  # The best come first.
            if better.reward > worse.reward and better.response != worse.response:
                rows.append(
                    {
                        "prompt": request["conversation"],
                        "chosen": [{"role": "assistant", "content": better.response}],
                        "rejected": [{"role": "assistant", "content": worse.response}],
                        "margin": better.reward - worse.reward,
                    }
                )
    return rows


def train(checkpoint: Path, rows: list[dict[str, Any]], out: Path, steps: int) -> Any:
    """A score head by TRL's RewardTrainer, saved to `out`. Returns the model."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1, dtype="float32")
    model.config.pad_token_id = tokenizer.pad_token_id
    args = RewardConfig(
        output_dir=str(out / "checkpoints"), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-4, bf16=False,
        report_to=[], save_strategy="no", logging_steps=1,
    )
    trainer = RewardTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=Dataset.from_list(rows))
    trainer.train()
    trainer.save_model(str(out / "checkpoint"))
    tokenizer.save_pretrained(out / "checkpoint")
    return trainer.model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("distilled"))
    parser.add_argument("--candidates", type=int, default=4, help="responses sampled for each prompt")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="the most tokens of a reply")
    given = parser.parse_args()

    foreturn.export(given.checkpoint, given.out / "chat", overwrite=True)
    with foreturn.Engine(configuration(given.out / "chat", given.tokens)) as engine:
        rows = preferences(engine, given.candidates)
    train(given.checkpoint, rows, given.out, given.steps)
    foreturn.export(given.out / "checkpoint", given.out / "reward", overwrite=True)

    with foreturn.Engine(models={"reward": given.out / "reward"}) as engine:
        pairs = [[row["prompt"] + row[side] for side in ("chosen", "rejected")] for row in rows]
        scores = engine.score("reward", [conversation for pair in pairs for conversation in pair])
    numbers = [score.value for score in scores]
    right = sum(chosen > rejected for chosen, rejected in zip(numbers[::2], numbers[1::2], strict=True))
    print(f"the reward model orders {right} of {len(rows)} pairs as the rewards do")


if __name__ == "__main__":
    main()
