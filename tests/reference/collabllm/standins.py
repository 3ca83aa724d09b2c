"""Stand-ins for modules that the references import and these fixtures don't run: torch, transformers, verl's trainer.

collabllm imports torch and transformers for models in its own process. verl's reward manager does its sums on torch
tensors of float32; `Tensor` does the same operations with numpy, in float32 and, for more digits, in float64.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np


class Tensor:
    """The few operations of torch that verl's reward manager uses."""

    def __init__(self, values: Any, dtype: Any) -> None:
        self.values = np.array(values, dtype=dtype)

    def _like(self, values: Any) -> Tensor:
        return Tensor(values, self.values.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __mul__(self, factor: float) -> Tensor:
        return self._like(self.values * factor)

    def __truediv__(self, divisor: float) -> Tensor:
        return self._like(self.values / divisor)

    def __getitem__(self, key: Any) -> Tensor:
        return self._like(self.values[key])

    def __setitem__(self, key: Any, value: Tensor) -> None:
        self.values[key] = value.values

    def view(self, *shape: int) -> Tensor:
        return self._like(self.values.reshape(shape))

    def sum(self, dim: int) -> Tensor:
        return self._like(np.add.accumulate(self.values, axis=dim).take(-1, axis=dim))

    def mean(self, dim: int) -> Tensor:
        return self._like(self.values.mean(axis=dim))

    def item(self) -> float | int:
        return self.values.item()

    def __repr__(self) -> str:
        return repr(self.values)


def module(name: str, **contents: Any) -> types.ModuleType:
    """Makes `import name` return a module with these contents."""
    made = types.ModuleType(name)
    vars(made).update(contents)
    sys.modules[name] = made
    return made


def for_collabllm() -> None:
    nothing = type("Nothing", (), {})
    module("torch", Tensor=nothing)
    names = ["AutoModelForCausalLM", "AutoTokenizer", "PreTrainedModel", "PreTrainedTokenizer", "PreTrainedTokenizerBase"]
    module("transformers", pipeline=None, **dict.fromkeys(names, nothing))


def for_verl(recipe: Path, dtype: Any) -> None:
    """`recipe` is the folder of the CollabLLM recipe; numbers become tensors of `dtype`, whichever the recipe names."""

    def clamp(tensor: Tensor, min: float, max: float) -> Tensor:  # noqa: A002
        return Tensor(np.clip(tensor.values, min, max), dtype)

    module(
        "torch",
        Tensor=Tensor,
        float32=dtype,
        clamp=clamp,
        tensor=lambda value, dtype: Tensor(value, dtype),
        stack=lambda tensors: Tensor([tensor.values for tensor in tensors], dtype),
        zeros_like=lambda tensor, dtype: Tensor(np.zeros(tensor.shape), dtype),
    )
    module("verl", DataProto=object)
    module("verl.utils.reward_score", default_compute_score=None)
    module("verl.workers.reward_manager", register=lambda _: lambda manager: manager)
    module("verl.workers.reward_manager.abstract", AbstractRewardManager=object)
    module("verl.interactions.base", BaseInteraction=type("BaseInteraction", (), {"__init__": lambda self, config: None}))
    module("verl.utils.rollout_trace", rollout_trace_op=lambda function: function)
    module("recipe", __path__=[str(recipe.parent)])
