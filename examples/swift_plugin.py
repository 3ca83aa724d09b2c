"""The multiturn-aware reward in ms-swift's GRPO.

    swift rlhf --rlhf_type grpo --external_plugins examples/swift_plugin.py --reward_funcs multiturn …

ms-swift hands completions over as texts and the conversation as the column `messages`, completion included. The goal is a
column of the dataset. `FORETURN_CONFIG` names the `foreturn.toml`.
"""

import os
from typing import Any

from swift.rewards import ORM, orms

from foreturn.trl import MultiturnReward


class Multiturn(ORM):  # type: ignore[misc]
    """Scores completions by where they lead the conversation."""

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        super().__init__(args, **kwargs)
        # ms-swift leaves completions without a reward out, as long as another reward scores them.
        self._reward = MultiturnReward(os.environ["FORETURN_CONFIG"], goal="goal", on_failure="none")

    def __call__(self, completions: list[str], messages: list[Any], **columns: Any) -> list[float | None]:
        prompts = [turns[:-1] for turns in messages]
        return self._reward(prompts, completions, **columns)


orms["multiturn"] = Multiturn
