#!/usr/bin/env python3
"""The reward part of one GRPO step: `foreturn.trl.MultiturnReward` beside `multiturn_aware_reward` of collabllm 0.0.8.

    pip install ./python onnxruntime tokenizers -r tests/reference/requirements-collabllm.txt
    pip install --no-deps collabllm==0.0.8          # and transformers with torch, which it imports
    python benches/reward_collabllm.py [--rounds 5] [--latency 20]

Both ask one local endpoint, whose replies are scripts of equal length and take `--latency` milliseconds each. So the
difference is what the libraries do between the replies. collabllm scores one completion a call; it is measured one
call after another, and with all calls in threads at once, which is as quick as it can be. The ways take turns in each
round, after a round that warms up.

The second table says what the endpoint would have to compute: the tokens of all its prompts (SmolLM2's tokenizer), and
what foreturn computes for the same batch with SmolLM2 in its own process, where prefixes are shared.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["ENABLE_COLLABLLM_LOGGING"] = "0"

from collabllm.metric import BaseMetric, SingleTurnOrChatMetric
from collabllm.reward import multiturn_aware_reward
from tokenizers import Tokenizer

import foreturn
from foreturn.trl import MultiturnReward

MODEL = Path(__file__).resolve().parents[1] / "target" / "models" / "smollm2-135m-instruct"
SAMPLES, WINDOW, PROMPTS, GROUP = 3, 2, 4, 4
WORDS = "The sea was his second home and he never came back dry from any walk that we took there together in spring. "
REPLY = (WORDS * 3).strip()
USER_REPLY = json.dumps({"current_answer": "none", "thought": "Go on.", "response": WORDS.strip()})
GOAL = {"task": "write a poem", "prompt": "A poem about my late dog, who loved the sea, in four stanzas."}
HISTORY = [
    {"role": "user", "content": "Write a poem about my dog. " + WORDS * 4},
    {"role": "assistant", "content": REPLY},
]


class Endpoint:
    """A chat endpoint with scripted replies, which keeps what it was asked."""

    def __init__(self, latency: float) -> None:
        self.prompts: list[list[dict[str, str]]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.prompts.append(asked["messages"])
                time.sleep(latency / 1000)
                reply = USER_REPLY if asked["model"] == "user" else REPLY
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
                usage = {"prompt_tokens": 1, "completion_tokens": 60, "total_tokens": 61}
                body = {"id": "x", "object": "chat.completion", "created": 0, "model": asked["model"]}
                data = json.dumps({**body, "choices": [choice], "usage": usage}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Length(BaseMetric):  # type: ignore[misc]
    """A metric that costs nothing, so that only the conversations are compared."""

    def score(self, prompt: str, groundtruth: str, completion: str, messages: Any = None, metadata: Any = None) -> float:
        return float(sum(len(message["content"].split()) for message in messages))


def length(conversations: list[Any]) -> list[float]:
    """The same in foreturn."""
    return [float(sum(len(m.content.split()) for m in c.messages)) for c in conversations]


def batch() -> tuple[list[Any], list[str]]:
    """Prompts and completions: each prompt with a group of completions."""
    prompts = [[*HISTORY, {"role": "user", "content": f"Make verse {n} longer."}] for n in range(PROMPTS)]
    return [p for p in prompts for _ in range(GROUP)], [f"{REPLY} Take {n}." for n in range(PROMPTS * GROUP)]


def of_collabllm(endpoint: Endpoint, threads: int) -> Callable[[], None]:
    SingleTurnOrChatMetric._METRIC_REGISTRY["length"] = Length

    def one(prompt: list[Any], completion: str) -> None:
        sampling = {"api_base": endpoint.address, "api_key": "none"}
        rewards = multiturn_aware_reward(
            task_desc=GOAL["task"], single_turn_prompt=GOAL["prompt"], single_turn_completion="", metadata={},
            metric_names=["length"], metric_weights=[1.0],
            chat_history=[*prompt, {"role": "assistant", "content": completion}],
            user_generation_kwargs={"model": "openai/user", **sampling},
            assistant_generation_kwargs={"model": "openai/policy", **sampling},
            num_samples=SAMPLES, max_new_turns=2 * WINDOW, verbose=False,
        )
        assert len(rewards["MR"]) == SAMPLES and all(math.isfinite(value) for value in rewards["MR"]), rewards

    def run() -> None:
        with ThreadPoolExecutor(max_workers=threads) as pool:
            list(pool.map(one, *batch()))

    return run


def of_foreturn(models: dict[str, Any]) -> tuple[Callable[[], None], dict[str, float]]:
    roles = {"policy": "policy", "user": "user" if "user" in models else "policy"}
    style = "json" if "user" in models else "text"
    lengths = {} if "user" in models else {"max_user_tokens": 64, "max_policy_tokens": 64}
    rollout = {"samples": SAMPLES, "window": WINDOW, "role_style": style, **lengths}
    config = {"models": models, "roles": roles, "rollout": rollout}
    reward = MultiturnReward(config, metrics=[foreturn.Metric("length", length)])
    seen: dict[str, float] = {}

    def run() -> None:
        prompts, completions = batch()
        goals = [GOAL] * len(prompts)
        rewards = reward(prompts, completions, goal=goals, log_metric=seen.__setitem__)
        assert all(value is not None for value in rewards), rewards

    return run, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, default=20.0, help="milliseconds of each reply")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", module="pydantic")

    endpoint = Endpoint(options.latency)
    remote = {"base_url": endpoint.address, "max_concurrent": 48}
    models = {name: {**remote, "model": name} for name in ("policy", "user")}
    ways = {
        "collabllm, one call after another": of_collabllm(endpoint, 1),
        "collabllm, all calls at once": of_collabllm(endpoint, PROMPTS * GROUP),
        "foreturn": of_foreturn(models)[0],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    asked: dict[str, list[list[dict[str, str]]]] = {}
    for round_ in range(options.rounds + 1):
        for name, run in ways.items():
            endpoint.prompts = []
            start = time.perf_counter()
            run()
            if round_:
                seconds[name].append(time.perf_counter() - start)
            asked[name] = endpoint.prompts
            assert len(endpoint.prompts) == len(batch()[0]) * SAMPLES * WINDOW * 2, (name, len(endpoint.prompts))
    rows = len(batch()[0])
    print(f"{rows} completions, {SAMPLES} samples, window {WINDOW}, replies of {options.latency:.0f} ms")
    own = statistics.median(seconds["foreturn"])
    for name, taken in seconds.items():
        ratio = statistics.median(taken) / own
        print(f"{name:36} {statistics.median(taken):7.3f} s ({min(taken):.3f} to {max(taken):.3f})  {ratio:5.1f}x  "
              f"{len(asked[name])} requests")

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for name, prompts in asked.items():
        texts = [message["content"] for messages in prompts for message in messages]
        print(f"{name:36} {sum(len(e.ids) for e in tokenizer.encode_batch(texts)):7} tokens of prompts sent")
    run, seen = of_foreturn({"policy": {"path": str(MODEL)}})
    run()
    print("foreturn with SmolLM2 in this process:", {name: round(value, 3) for name, value in seen.items()})


if __name__ == "__main__":
    main()
