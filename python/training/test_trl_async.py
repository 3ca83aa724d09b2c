"""`foreturn.trl` in TRL's asynchronous GRPO, whose rewards run in a spawned process.

Three things there need a GPU: vLLM, for which a server of a few lines stands in, that writes random letters; the kernel of
the attention, for which PyTorch's does; and the GPU's peak speed, which is logged. Trainer, worker, queues and processes are
TRL's own.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import OPTIONS, checkpoint_of, config, load
from test_trl import SETTINGS, dataset, engines_logprobs, tokenizer_of, trainers_logprobs
from transformers import TrainerCallback
from trl import chat_template_utils
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer, async_grpo_trainer, async_rollout_worker, packing

from foreturn.trl import AsyncMultiturnReward, MultiturnReward

# The worker scores about two groups ahead of the trainer, so the first ones all have the weights of the export.
STEPS = 6


class Letters(BaseHTTPRequestHandler):
    """Answers `/v1/completions` as vLLM does with `return_token_ids`."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        draw = random.Random(asked["seed"])
        tokens = [draw.choice(range(64, 90)) for _ in range(asked["max_tokens"])]
        choice = {"token_ids": tokens, "logprobs": {"token_logprobs": [-3.0] * len(tokens)}}
        body = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Letters)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()


def attention(
    query: Any, key: Any, value: Any, ends_q: Any, ends_k: Any, *lengths: int, softmax_scale: float, **kwargs: Any
) -> Any:
    """`flash_attn_varlen_func`, causal: sequences of queries, each of which ends where its keys end."""
    made = []
    for a, b, c, d in zip(ends_q, ends_q[1:], ends_k, ends_k[1:], strict=False):
        q, k, v = (part.transpose(0, 1) for part in (query[a:b], key[c:d], value[c:d]))
        mask = torch.ones(b - a, d - c, dtype=torch.bool).tril(d - c - (b - a))
        settings: dict[str, Any] = {"attn_mask": mask, "scale": softmax_scale, "enable_gqa": True}
        made.append(torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], **settings)[0].transpose(0, 1))
    return torch.cat(made)


class Nowhere:
    """The trainer's own transfer, which would send to vLLM over NCCL. It reads some of the weights, and counts calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def send_weights(self, iterator: Any) -> None:
        next(iterator)
        self.calls.append("send_weights")

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


class Reporting(MultiturnReward):
    """Notes in a file, at each call in its process, which weights the engine has."""

    file: Path

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        assert "trainer_state" not in columns and "log_metric" not in columns
        given = super().__call__(prompts, completions, **columns)
        report = {"version": self._follower.step, "logprobs": engines_logprobs(self).tolist(), "rewards": given}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
        return given


class ReportingAsync(AsyncMultiturnReward):
    """The same as a coroutine function."""

    file: Path

    async def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:  # type: ignore[override]
        given = await super().__call__(prompts, completions, **columns)
        report = {"version": self._follower.step, "logprobs": engines_logprobs(self).tolist(), "rewards": given}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
        return given


class Versions(TrainerCallback):
    """The trainer's log-probabilities after each step: those of the weights that it has just sent."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self.logprobs: list[torch.Tensor] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.plain.load_state_dict(model.state_dict())
        self.logprobs.append(trainers_logprobs(self.plain))

    on_step_end = on_train_begin


@pytest.mark.parametrize(
    ("kind", "policy", "learning_rate"),
    [
        (Reporting, "exported", 1e-2),
        (ReportingAsync, "exported", 1e-2),
        # SmolLM2-135M, with steps that change it without destroying it.
        (Reporting, "real", 1e-4),
    ],
)
def test_the_reward_in_the_other_process_has_the_trainers_weights(
    kind: Any, policy: str, learning_rate: float, server: str, request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported: Path = request.getfixturevalue(policy)
    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda: True)
    monkeypatch.setattr(packing, "_flash_attn", lambda: SimpleNamespace(flash_attn_varlen_func=attention))
    monkeypatch.setattr(async_grpo_trainer, "get_peak_flops_per_device", lambda *arguments: 1e12)
    reward = kind(config(exported), goal="goal", refresh="policy", **OPTIONS)
    reward.file = tmp_path / "report.jsonl"
    args = AsyncGRPOConfig(
        output_dir=str(tmp_path), vllm_server_base_url=server, num_generations=4, per_device_train_batch_size=4,
        max_completion_length=8, token_budget=0, max_inflight_tasks=4, max_staleness=100, weight_sync_steps=1,
        queue_maxsize=1, dtype="float32", **SETTINGS | {"max_steps": STEPS, "learning_rate": learning_rate},
    )
    tokenizer = tokenizer_of(exported)
    # The worker parses replies, and knows how to for the templates of published models.
    tokenizer.chat_template = chat_template_utils.qwen3_instruct_2507_chat_template
    nowhere, versions = Nowhere(), Versions(load(exported))
    trainer = AsyncGRPOTrainer(
        model=str(checkpoint_of(exported)), reward_funcs=reward, args=args, train_dataset=dataset(),
        processing_class=tokenizer, weight_transfer=nowhere, callbacks=[versions],
    )
    trainer.weight_transfer = reward.weight_transfer(trainer.weight_transfer)
    trainer.train()
    assert nowhere.calls[:4] == ["init_weight_transfer", "pause", "send_weights", "resume"]
    assert nowhere.calls.count("send_weights") == STEPS + 1
    reports = [json.loads(line) for line in reward.file.read_text().splitlines()]
    for report in reports:
        wanted = versions.logprobs[report["version"]]
        assert (torch.tensor(report["logprobs"], dtype=torch.float64) - wanted).abs().max() < 1e-4
        assert all(isinstance(value, float) for value in report["rewards"])
    assert len({report["version"] for report in reports}) >= 3, "the process did not get new weights"
