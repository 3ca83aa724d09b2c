"""The example that distils rewards into a score head runs, and its export scores as the trainer's model does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import checkpoint_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import foreturn

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_reward_model.py"
CONVERSATIONS = [
    [{"role": "user", "content": "Write a poem."}, {"role": "assistant", "content": text}]
    for text in ("What about?", "Roses are red.", "No.")
]


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_rewards_become_a_score_head(quantize: str | None, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(EXAMPLE), "--checkpoint", str(checkpoint_of(exported)), "--out", str(out)]
    done = subprocess.run([*command, "--steps", "2", "--tokens", "8"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "pairs as the rewards do" in done.stdout.splitlines()[-1]

    tokenizer = AutoTokenizer.from_pretrained(out / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(out / "checkpoint", dtype=torch.float32).eval()
    wanted = []
    for conversation in CONVERSATIONS:
        tokens = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            wanted.append(model(**tokens).logits.item())
    reward = out / "reward"
    if quantize is not None:
        foreturn.export(out / "checkpoint", reward, quantize=quantize, overwrite=True)
    with foreturn.Engine(models={"reward": reward}) as engine:
        given = [score.value for score in engine.score("reward", CONVERSATIONS)]
    assert given == pytest.approx(wanted, abs=1e-4 if quantize is None else 0.05)
    assert len(set(given)) == 3
