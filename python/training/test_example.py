"""The example of docs/training.md runs as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import checkpoint_of

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_grpo.py"


def test_from_a_checkpoint_to_a_served_reward(exported: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE), "--checkpoint", str(checkpoint_of(exported)), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--steps", "2", "--tokens", "8"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    ranked = done.stdout.splitlines()[-2:]
    assert sorted(line.split("  ")[1] for line in ranked) == ["Roses are red, violets are blue.", "What should it be about?"]
    assert (tmp_path / "out" / "policy" / "genai_config.json").exists()
