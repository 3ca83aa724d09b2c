"""GRPO whose groups are split over two processes of accelerate. Writes what each of them saw.

    ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 two_processes.py EXPORT FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from test_trl import engines_logprobs, grpo, reward_of, trainers_logprobs


def main(exported: Path, folder: Path) -> None:
    reward = reward_of(exported, empty=0.0)
    seen: list[dict[str, Any]] = []

    class Noting:
        __name__ = "noting"
        callback = staticmethod(reward.callback)

        def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
            given = reward(prompts, completions, **columns)
            model = trainer.accelerator.unwrap_model(trainer.model)
            step = columns["trainer_state"].global_step
            distance = (engines_logprobs(reward) - trainers_logprobs(model)).abs().max().item()
            torch.save(model.state_dict(), folder / f"weights-{step}-{trainer.accelerator.process_index}.pt")
            seen.append({
                "step": step, "prompts": prompts, "completions": completions, "goals": columns["goal"], "rewards": given,
                "distance": distance,
            })
            return given

    # A group of 4 is 2 completions in each process.
    trainer = grpo(Noting(), exported, folder, per_device_train_batch_size=2)
    assert trainer.accelerator.num_processes == 2
    trainer.train()
    (folder / f"seen-{trainer.accelerator.process_index}.json").write_text(json.dumps(seen))
    reward.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    # Threads of gloo end some interpreters with an abort on their way out (torch 2.15).
    sys.stdout.flush()
    os._exit(0)
