"""A tiny Llama that FSDP2 spreads over two processes, in training. Writes how far each process's engine was from it.

    torchrun --standalone --nproc_per_node 2 two_shards.py EXPORT FOLDER [lora]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from conftest import load, make_model
from peft import LoraConfig, get_peft_model
from test_trl import STEPS, TOKENS, engines_logprobs, reward_of, trainers_logprobs
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


def adapted(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False))


def main(exported: Path, folder: Path, *options: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    wrap = adapted if "lora" in options else lambda model: model
    model, whole = wrap(load(exported)), wrap(make_model())
    for layer in [module for module in model.modules() if isinstance(module, LlamaDecoderLayer)]:
        fully_shard(layer)
    fully_shard(model)
    reward = reward_of(exported)
    callback = reward.callback()
    callback.on_train_begin(None, SimpleNamespace(global_step=0), None, model=model)
    optimizer = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], lr=1.0)
    seen: list[dict[str, float]] = []
    for step in range(1, STEPS + 1):
        # Each process has a batch of its own.
        tokens = torch.tensor([TOKENS[rank:]])
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        # PyTorch's own way to the whole of it.
        whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
        wanted = trainers_logprobs(whole)
        changed = (engines_logprobs(reward) - wanted).abs().max().item()
        callback.on_step_end(None, SimpleNamespace(global_step=step), None, model=model)
        reward.refresh()
        seen.append({"changed": changed, "distance": (engines_logprobs(reward) - wanted).abs().max().item()})
    shard = next(model.parameters()).to_local()
    report = {"seen": seen, "part": shard.numel() / next(whole.parameters()).numel()}
    (folder / f"seen-{rank}.json").write_text(json.dumps(report))
    reward.close()
    # Nobody leaves while another one still uses the connection.
    torch.distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
    # Threads of gloo end some interpreters with an abort on their way out (torch 2.15).
    sys.stdout.flush()
    os._exit(0)
