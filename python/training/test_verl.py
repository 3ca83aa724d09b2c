"""`foreturn.verl` in verl's reward loop, which runs from its own wheel."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOALS, PROMPTS, checkpoint_of, make_tokenizer

import foreturn
import foreturn.verl
from foreturn.trl import MultiturnReward

COMPLETIONS = ["Roses are red.", "4, of course.", "Hello! What would you like to do?", "Use sorted()."]
# As CollabLLM's recipe writes its rows.
RECIPE: list[Any] = [
    {"interaction_kwargs": {"name": "collabllm", "task_desc": "poetry", "single_turn_prompt": None}},
    {"interaction_kwargs": {"name": "collabllm", "task_desc": "sums"}},
    {},
    {"interaction_kwargs": {"name": "collabllm", "single_turn_prompt": "Sort a list in Python."}},
]
REFERENCES = [None, "4", None, None]


@pytest.fixture
def file(exported: Path, tmp_path: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration; verl can be imported."""
    monkeypatch.syspath_prepend(str(unpacked))
    made = tmp_path / "foreturn.toml"
    made.write_text(
        f'[models.policy]\npath = "{exported}"\n[[metrics]]\nkind = "token_amount"\n'
        "[rollout]\nwindow = 1\nmax_policy_tokens = 8\nmax_user_tokens = 8\n"
    )
    return made


def wanted(file: Path) -> list[float | None]:
    """What TRL gets for the same rows."""
    reward = MultiturnReward(file, goal="goal", samples=2)
    given = reward(PROMPTS, COMPLETIONS, goal=GOALS)
    reward.close()
    return given


def batch(extra: list[Any]) -> Any:
    """Rows as verl's agent loop hands them to the reward loop: right-padded responses, with their control tokens."""
    from verl import DataProto

    tokenizer = make_tokenizer()
    said = [list(tokenizer(text + "<|im_end|>")["input_ids"]) for text in COMPLETIONS]
    width = max(map(len, said))
    responses = torch.tensor([tokens + [tokenizer.pad_token_id] * (width - len(tokens)) for tokens in said])
    mask = torch.tensor([[1] * 4 + [1] * len(tokens) + [0] * (width - len(tokens)) for tokens in said])
    columns: dict[str, list[Any]] = {
        "raw_prompt": PROMPTS,
        "data_source": ["collabllm"] * len(said),
        "reward_model": [{"style": "rule", "ground_truth": reference} for reference in REFERENCES],
        "extra_info": extra,
    }
    tensors = {"prompts": torch.zeros(len(said), 4, dtype=torch.long), "responses": responses, "attention_mask": mask}
    return DataProto.from_dict(tensors=tensors, non_tensors={name: objects(column) for name, column in columns.items()})


def objects(column: list[Any]) -> Any:
    made = np.empty(len(column), dtype=object)
    made[:] = column
    return made


def config(exported: Path, manager: dict[str, Any], function: dict[str, Any], **arguments: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.create({
        "actor_rollout_ref": {"model": {"path": str(checkpoint_of(exported)), "tokenizer_path": None}},
        "reward": {
            "reward_model": {"enable": False}, "reward_manager": manager, "custom_reward_function": function, **arguments,
        },
    })


def run(settings: Any, rows: Any) -> list[dict[str, Any]]:
    """What verl's worker computes."""
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    async def work() -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = await RewardLoopWorker(settings).compute_score_batch(rows)
        return made

    return asyncio.run(work())


MANAGER = {"source": "importlib", "name": "RewardManager", "module": {"path": "pkg://foreturn.verl"}}


def test_the_reward_manager_sees_the_conversation(file: Path, exported: Path) -> None:
    settings = config(exported, MANAGER, {"path": None}, reward_kwargs={"engine": str(file), "samples": 2})
    scored = run(settings, batch(RECIPE))
    rewards = [one["reward_score"] for one in scored]
    assert rewards == wanted(file)
    assert len(set(rewards)) == len(rewards)
    assert all(one["reward_extra_info"].keys() == {"score", "std_error", "tokens"} for one in scored)
    assert all(one["reward_extra_info"]["tokens"] > 0 for one in scored)


def test_scores_become_verls_tensor(file: Path, exported: Path) -> None:
    rows = batch(RECIPE)
    settings = config(exported, MANAGER, {"path": None}, reward_kwargs={"engine": str(file), "samples": 2})
    scores = [one["reward_score"] for one in run(settings, rows)]
    table = foreturn.verl.RewardManager.assemble_rm_scores(rows, scores)
    assert table.sum(dim=1).tolist() == torch.tensor(scores).tolist()


def test_the_function_needs_the_prompt_in_extra_info(file: Path, exported: Path) -> None:
    function = {
        "path": "pkg://foreturn.verl", "name": "compute_score", "reward_kwargs": {"engine": str(file), "samples": 2},
    }
    settings = config(exported, {"source": "register", "name": "naive"}, function)
    extra = [row | {"prompt": prompt} for row, prompt in zip(RECIPE, PROMPTS, strict=True)]
    assert [one["reward_score"] for one in run(settings, batch(extra))] == wanted(file)
    with pytest.raises(foreturn.InvalidArgument, match="extra_info has no `prompt`"):
        run(settings, batch([dict(row) for row in RECIPE]))


def test_the_environment_configures_it_as_well(file: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETURN_CONFIG", str(file))
    monkeypatch.setenv("FORETURN_SAMPLES", "2")
    foreturn.verl._configured.cache_clear()
    scored = run(config(exported, MANAGER, {"path": None}), batch([{"goal": goal} for goal in GOALS]))
    assert [one["reward_score"] for one in scored] == wanted(file)


@pytest.mark.parametrize(
    ("arguments", "goal", "kind", "reason"),
    [
        ({"sample": 2}, None, TypeError, "sample"),
        ({"samples": 2}, {"colour": "red"}, foreturn.InvalidRequest, "colour"),
        ({"samples": 2, "timeout": 1e-3, "window": 8}, None, foreturn.ModelOutput, "a response has no reward"),
    ],
)
def test_what_fails_is_an_error_and_not_a_score(
    arguments: dict[str, Any], goal: Any, kind: type[Exception], reason: str, file: Path, exported: Path
) -> None:
    settings = config(exported, MANAGER, {"path": None}, reward_kwargs={"engine": str(file)} | arguments)
    with pytest.raises(kind, match=reason):
        run(settings, batch([{"goal": goal}] * len(PROMPTS)))
