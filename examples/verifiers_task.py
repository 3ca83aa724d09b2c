"""The multiturn-aware reward in a task of `verifiers` 0.4, which prime-rl trains on.

`FORETURN_CONFIG` names the `foreturn.toml`. The engine is loaded once in each process, at the first reward.
"""

import functools
import os

import verifiers.v1 as vf

import foreturn


class Goal(vf.TaskData):
    """What the user wants, in words that the policy does not see."""

    goal: str


@functools.cache
def engine() -> foreturn.Engine:
    """The engine of this process."""
    return foreturn.Engine(os.environ["FORETURN_CONFIG"])


class Collaborative(vf.Task[Goal]):
    """A conversation whose last reply is scored by where it leads."""

    @vf.reward
    async def multiturn(self, trace: vf.Trace) -> float:
        """The reward of the last reply. What came before it is the conversation."""
        *before, last = trace.branches[0].messages
        ranking = await engine().rank_async(
            {
                "conversation": [{"role": message.role, "content": message.content} for message in before],
                "candidates": [last.content],
                "goal": {"prompt": self.data.goal},
            }
        )
        return ranking.best.reward
