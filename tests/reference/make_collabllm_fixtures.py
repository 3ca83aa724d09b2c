#!/usr/bin/env python3
"""Records the results of the multiturn-aware reward's reference implementations on scripted conversations.

    pip install -r tests/reference/requirements-collabllm.txt
    pip install --no-deps collabllm==0.0.8 bigcodebench==0.2.5
    tests/reference/make_collabllm_fixtures.py --collabllm DIR --verl-recipe DIR

`--collabllm` is a checkout of github.com/Wuyxin/collabllm at 2611521, whose `examples/metrics` are not in the package;
`--verl-recipe` one of github.com/verl-project/verl-recipe at e7f8895. The models are scripts behind a local OpenAI-compatible
server (`collabllm/server.py`); their replies are in `collabllm/cases.py`. The references run unchanged: collabllm
through `multiturn_aware_reward`, verl through the recipe's user simulator, metrics and reward manager. verl's loop, which
needs its trainer, is not run: it drops the policy's last reply from what is scored (`_handle_generating_state` of
`tool_agent_loop.py` returns before it appends it), so its window of 2 ends with the second user message. The fixtures
score all of w turns.

Writes tests/fixtures/collabllm/*.json: the conversations, every reply, and every value that came out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["ENABLE_COLLABLLM_LOGGING"] = "0"

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "collabllm"))
import cases
import standins
from server import ScriptedServer

OUT = Path(__file__).parents[1] / "fixtures/collabllm"
Json = dict[str, Any]


def sampling(server: ScriptedServer, model: str) -> Json:
    return {"model": f"openai/{model}", "api_base": server.address, "api_key": "none"}


def in_turns(samples: list[Json], who: str) -> list[str]:
    """Replies in the order in which collabllm asks: turn by turn, and in each by sample."""
    longest = max(len(sample[who]) for sample in samples)
    return [sample[who][turn] for turn in range(longest) for sample in samples if turn < len(sample[who])]


def judged(samples: list[Json]) -> dict[str, list[str]]:
    replies: dict[str, list[str]] = {}
    for sample in samples:
        for who, reply in [("extractor", sample.get("extractor")), *sample["judge"].items()]:
            if reply is not None:
                replies.setdefault(who, []).append(reply)
    return replies


def collabllm_candidate(server: ScriptedServer, case: Json, candidate: Json) -> Json:
    from collabllm.reward import multiturn_aware_reward

    samples = candidate["samples"]
    server.script({who: in_turns(samples, who) for who in ("user", "policy")} | judged(samples))
    history = [*case["conversation"], {"role": "assistant", "content": candidate["response"]}]
    rewards, sessions = multiturn_aware_reward(
        task_desc=case["task_desc"],
        single_turn_prompt=case["prompt"],
        single_turn_completion=case["reference"],
        metadata={"test": case.get("tests"), "entry_point": case.get("entry_point"), **case.get("metadata", {})},
        metric_names=case["metric_names"],
        metric_weights=case["metric_weights"],
        chat_history=history,
        user_generation_kwargs=sampling(server, "user"),
        assistant_generation_kwargs=sampling(server, "policy"),
        reward_generation_kwargs=sampling(server, "judge"),
        num_samples=len(samples),
        max_new_turns=case["max_new_turns"],
        # One at a time, so that replies go where the script has them.
        max_workers=1,
        max_metric_workers=1,
        return_details=True,
        verbose=False,
    )
    if left := server.unfetched():
        raise RuntimeError(f"{case['name']}: replies that nobody fetched: {left}")
    said = len([message for message in history if message["role"] != "system"])
    scored = []
    for at, (sample, session) in enumerate(zip(samples, sessions, strict=True)):
        values = {name: float(rewards[name][at]) for name in case["metric_names"]}
        scored.append({**sample, "messages": session[said:], "metrics": values, "reward": float(rewards["MR"][at])})
    return {"response": candidate["response"], "samples": scored, "reward": float(np.mean(rewards["MR"]))}


def verl_messages(server: ScriptedServer, interaction: Any, case: Json, candidate: Json) -> list[list[Json]]:
    """The futures, with the user's part by the recipe's simulator."""
    start = {"single_turn_prompt": case["prompt"], "task_desc": case["task_desc"]}
    futures = []
    for sample in candidate["samples"]:
        server.script({"user": sample["user"]})
        asyncio.run(interaction.start_interaction("id", **start))
        future: list[Json] = []
        for turn in range(case["window"]):
            messages = [*case["conversation"], {"role": "assistant", "content": candidate["response"]}, *future]
            leaves, words, _, _ = asyncio.run(interaction.generate_response("id", [dict(m) for m in messages]))
            future.append({"role": "user", "content": words})
            if leaves:
                break
            future.append({"role": "assistant", "content": sample["policy"][turn]})
        if left := server.unfetched():
            raise RuntimeError(f"{case['name']}: replies that nobody fetched: {left}")
        futures.append(future)
    return futures


def verl_case(server: ScriptedServer, recipe: Path, case: Json) -> Json:
    """A batch of all candidates through the recipe's reward manager, in float64, and in float32 as in verl."""
    by_precision = {}
    for dtype in (np.float64, np.float32):
        standins.for_verl(recipe, dtype)
        for name in [name for name in sys.modules if name.startswith("recipe.")]:
            del sys.modules[name]
        from recipe.collabllm.collabllm_interation import CollabLLMInteraction
        from recipe.collabllm.reward_function import CollabLLMRewardManager, conversation_level_reward_func

        user = sampling(server, "user")
        interaction = CollabLLMInteraction({"name": "collabllm", "user_model": user.pop("model"), **user})
        futures = [verl_messages(server, interaction, case, candidate) for candidate in case["candidates"]]
        values: list[Json] = []

        async def compute(*arguments: Any, **options: Any) -> Json:
            scores = await conversation_level_reward_func(*arguments, **options)
            values.append({name: score.item() for name, score in scores.items()})  # noqa: B023
            return scores

        manager = CollabLLMRewardManager(None, 0, case["metric_weights"], sampling(server, "judge"), compute_score=compute)
        # The manager asks sample by sample, in each by candidate, and awaits all at once: one by one here.
        samples = [c["samples"][s] for s in range(len(case["candidates"][0]["samples"])) for c in case["candidates"]]
        server.script(judged(samples))
        rewards = one_at_a_time(manager, verl_batch(case, futures, dtype))
        if left := server.unfetched():
            raise RuntimeError(f"{case['name']}: replies that nobody fetched: {left}")
        by_precision[dtype] = (futures, values, rewards)
    futures, values, rewards = by_precision[np.float64]
    candidates = []
    for at, candidate in enumerate(case["candidates"]):
        of = range(at, len(values), len(case["candidates"]))
        scored = [
            {**sample, "messages": futures[at][s], "metrics": values[v]}
            for s, (sample, v) in enumerate(zip(candidate["samples"], of, strict=True))
        ]
        float32 = by_precision[np.float32][2][at]
        candidates.append(
            {"response": candidate["response"], "samples": scored, "reward": rewards[at], "reward_float32": float32}
        )
    return {**case, "candidates": candidates}


def one_at_a_time(manager: Any, data: Any) -> list[float]:
    """The manager's rewards. Its questions are asked one after another, so that replies go where the script has them."""
    gather = asyncio.gather

    async def in_order(*tasks: Any) -> list[Any]:
        return [await task for task in tasks]

    asyncio.gather = in_order
    try:
        tensor = manager(data)
    finally:
        asyncio.gather = gather
    return [float(row[row != 0].sum()) for row in tensor.values]


def verl_batch(case: Json, futures: list[list[list[Json]]], dtype: Any) -> Any:
    """The parts of a batch that the manager reads: three tokens of response each, because it rewards the last one."""
    rows = len(case["candidates"])
    whole = [
        {"messages": [[SimpleNamespace(**m) for m in [*case["conversation"], response, *future]] for future in of]}
        for of, response in zip(
            futures, [{"role": "assistant", "content": c["response"]} for c in case["candidates"]], strict=True
        )
    ]
    extra = {"prompt": case["conversation"], "interaction_kwargs": {"single_turn_prompt": case["prompt"]}}
    ones = standins.Tensor(np.ones((rows, 3)), dtype)
    batch = {"prompts": ones, "responses": ones, "attention_mask": standins.Tensor(np.ones((rows, 6)), np.int64)}
    non_tensor = {
        "data_source": ["collabllm"] * rows,
        "ground_truth": [case["reference"]] * rows,
        "extra_info": [extra] * rows,
        "messages": whole,
    }

    class Data(SimpleNamespace):
        def __len__(self) -> int:
            return rows

    return Data(batch=batch, non_tensor_batch=non_tensor)


def parsed_replies() -> list[Json]:
    """The results of the reference's parser on single replies."""
    from collabllm.utils.extract_json_reliable import extract_json

    made = []
    for reply in cases.REPLIES:
        try:
            made.append({"reply": reply, "parsed": extract_json(reply)})
        except Exception as error:  # noqa: BLE001
            made.append({"reply": reply, "error": str(error)})
    return made


def write(name: str, content: Any) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collabllm", type=Path, required=True)
    parser.add_argument("--verl-recipe", type=Path, required=True)
    options = parser.parse_args()
    server = ScriptedServer()

    standins.for_collabllm()
    for metric in ("accuracy", "bleu", "efficiency", "interactivity", "pass_rate"):
        load_example(options.collabllm, metric)
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", module="pydantic")
    for case in cases.CASES:
        done = [collabllm_candidate(server, case, candidate) for candidate in case["candidates"]]
        write(case["name"], {"implementation": "collabllm 0.0.8", **case, "candidates": done})
    write("replies", parsed_replies())
    for case in cases.VERL_CASES:
        write(case["name"], {"implementation": "verl-recipe", **verl_case(server, options.verl_recipe / "collabllm", case)})


def load_example(checkout: Path, metric: str) -> None:
    """Registers a metric of the repository's examples; their `__init__` would also import one that needs a GPU."""
    path = checkout / "examples/metrics" / f"{metric}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{metric}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main()
