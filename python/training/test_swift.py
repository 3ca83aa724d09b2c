"""examples/swift_plugin.py in ms-swift's reward code, which runs from its own wheel."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOALS, PROMPTS

from foreturn.trl import MultiturnReward

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "swift_plugin.py"
COMPLETIONS = ["Roses are red.", "4, of course.", "Hello! What would you like to do?", "Use sorted()."]


@pytest.fixture
def reward(small_config: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin's reward, found as `--reward_funcs multiturn` finds it."""
    monkeypatch.syspath_prepend(str(unpacked))
    monkeypatch.setenv("FORETURN_CONFIG", str(small_config))
    spec = importlib.util.spec_from_file_location("swift_plugin", PLUGIN)
    assert spec and spec.loader
    plugin = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "swift_plugin", plugin)
    spec.loader.exec_module(plugin)
    from swift.rewards import orms

    return orms["multiturn"](args=None)


def test_swift_gets_the_rewards_of_trl(reward: Any, small_config: Path) -> None:
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func

    samples = [
        GRPOSample(messages=[*prompt, {"role": "assistant", "content": reply}], extra={"goal": goal})
        for prompt, reply, goal in zip(PROMPTS, COMPLETIONS, GOALS, strict=True)
    ]
    made = compute_rewards_per_func(samples, [reward], [None], torch.device("cpu"))
    wanted = MultiturnReward(small_config, goal="goal")(PROMPTS, COMPLETIONS, goal=GOALS)
    assert made[:, 0].tolist() == pytest.approx(wanted, rel=1e-6)
