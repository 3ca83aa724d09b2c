"""Trains a policy on multiturn-aware rewards with TRL's GRPO, and ranks responses with what came out.

    pip install ./python onnxruntime torch trl peft
    python examples/train_grpo.py --checkpoint FOLDER --out trained

FOLDER is a checkpoint with a chat template, as transformers saves it. The policy starts from it, and a frozen copy of it plays
the user and the judge: put a better model there to trust the numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import foreturn
from foreturn.trl import MultiturnReward

TASKS = [
    ("Write a poem.", {"task": "write a poem", "prompt": "Write a poem about my late dog, who loved the sea."}),
    ("Plan my week.", {"task": "plan a week", "prompt": "Plan a week in which I run three times and never on Monday."}),
    ("Fix my code.", {"task": "help with code", "prompt": "Fix my Python loop, which skips the last item of the list."}),
    ("Book a table.", {"task": "book a table", "prompt": "Book a table for five on Friday; two of us are vegan."}),
]


def configuration(policy: Path, partner: Path, tokens: int) -> dict[str, object]:
    """What a `foreturn.toml` would say. The policy is a model of its own, because it gets new weights."""
    return {
        "models": {"policy": {"path": str(policy), "temperature": 0.8}, "partner": {"path": str(partner)}},
        "roles": {"policy": "policy", "user": "partner", "judge": "partner"},
        "rollout": {"window": 1, "samples": 2, "max_policy_tokens": tokens, "max_user_tokens": tokens},
        # Small models rarely begin with an answer. A judge to trust needs no `min_mass`.
        "metrics": [
            {"kind": "interactivity", "judging": "soft", "min_mass": 1e-6},
            {"kind": "token_amount", "lambda": 5e-4},
        ],
    }


def train(checkpoint: Path, out: Path, steps: int, tokens: int) -> MultiturnReward:
    """Trains, and saves a checkpoint and its export to `out`."""
    exported = out / "start"
    foreturn.export(checkpoint, exported, overwrite=True)
    reward = MultiturnReward(configuration(exported, exported, tokens), goal="goal", refresh="policy", empty=-1.0)
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32"),
        processing_class=AutoTokenizer.from_pretrained(checkpoint, padding_side="left"),
        reward_funcs=reward,
        callbacks=[reward.callback()],
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": prompt}], "goal": goal} for prompt, goal in TASKS]
        ),
        args=GRPOConfig(
            output_dir=str(out / "checkpoints"), max_steps=steps, learning_rate=1e-5, bf16=False, logging_steps=1,
            per_device_train_batch_size=4, num_generations=4, max_completion_length=tokens, report_to=[],
        ),
    )
    trainer.train()
    trainer.save_model(str(out / "checkpoint"))
    foreturn.export(out / "checkpoint", out / "policy", overwrite=True)
    # Also the last step's weights, which no reward has asked for yet.
    reward.refresh()
    return reward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("trained"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="the most tokens of a reply")
    given = parser.parse_args()
    reward = train(given.checkpoint, given.out, given.steps, given.tokens)
    prompt, goal = TASKS[0]
    request = {
        "conversation": [{"role": "user", "content": prompt}],
        "candidates": ["What should it be about?", "Roses are red, violets are blue."],
        "goal": goal,
    }
    live = reward.engine.rank(request)
    reward.close()
    # The export serves the same rewards, here or with `foreturn rank`: the engine in training had the same weights.
    with foreturn.Engine(configuration(given.out / "policy", given.out / "start", given.tokens)) as engine:
        served = engine.rank(request)
    assert served.rewards == live.rewards
    for candidate in served:
        print(f"{candidate.reward:+.4f} ± {candidate.std_error:.4f}  {candidate.response}")


if __name__ == "__main__":
    main()
