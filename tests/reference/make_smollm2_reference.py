#!/usr/bin/env python3
"""Records transformers' results on SmolLM2-135M-Instruct in float32: fixtures for our own engine.

    make references                     # in a virtual environment with requirements.txt
    python make_smollm2_reference.py --gguf FILE [--checkpoint DIR] [--out DIR]

Reads the chats in `chats.json` and writes two files:

- `greedy.json`: for each chat the prompt's tokens, the greedy reply in `tokens` (up to and with the end-of-turn token,
  64 at most), and in `tokens_past_eos` the 64 tokens that come when end-of-turn doesn't stop it. `min_margin` is the
  smallest distance between the best and the second best logit among these 64. Another float32 engine sums in another
  order and may swap tokens that are closer than its rounding, so chats with a margin below 1e-3 are refused here:
  choose another.
- `logprobs.json`: for each chat, rendered whole and without a generation prompt, its tokens and the natural logarithm
  of each token's probability given those before; `logprobs[i]` belongs to `tokens[i + 1]`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from smollm2_checkpoint import write_checkpoint

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
NEW_TOKENS = 64
LEAST_MARGIN = 1e-3
LOGPROB_DECIMALS = 6

Chat = dict[str, Any]


class Reference:
    """The checkpoint in transformers, on the CPU, in float32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None  # greedy() goes on past it

    def render(self, messages: list[dict[str, str]], generation_prompt: bool) -> list[int]:
        """The tokens of a chat. Text that looks like a control token would become one, so it is refused."""
        for message in messages:
            inside = self.tokenizer(message["content"], add_special_tokens=False).input_ids
            if set(inside) & set(self.tokenizer.all_special_ids):
                raise ValueError(f"a control token in {message['content']!r}")
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=generation_prompt)

    @torch.inference_mode()
    def greedy(self, prompt: list[int]) -> tuple[list[int], float]:
        """The greedy continuation, past the end of the turn, and its smallest top-2 margin."""
        ids = torch.tensor([prompt])
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.stack(output.logits).double().topk(2).values
        tokens = output.sequences[0, len(prompt) :].tolist()
        self.check_in_one_pass(prompt, tokens)
        return tokens, (best[..., 0] - best[..., 1]).min().item()

    @torch.inference_mode()
    def check_in_one_pass(self, prompt: list[int], tokens: list[int]) -> None:
        """Checks that decoding with a cache and all at once choose the same tokens, or the margin means nothing."""
        logits = self.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        if logits.argmax(-1).tolist() != tokens:
            raise ValueError("the cached and the uncached run disagree; choose another chat")

    @torch.inference_mode()
    def logprobs(self, tokens: list[int]) -> list[float]:
        """Log-probability of every token except the first."""
        logits = self.model(torch.tensor([tokens])).logits[0, :-1].double()
        chosen = torch.tensor(tokens[1:]).unsqueeze(-1)
        return torch.log_softmax(logits, -1).gather(-1, chosen).squeeze(-1).tolist()


def greedy_case(reference: Reference, chat: Chat) -> Chat:
    """One entry of `greedy.json`."""
    prompt = reference.render(chat["messages"], generation_prompt=True)
    past_eos, margin = reference.greedy(prompt)
    end_of_turn = reference.tokenizer.eos_token_id
    tokens = past_eos[: past_eos.index(end_of_turn) + 1] if end_of_turn in past_eos else past_eos
    print(f"  {chat['name']}: {len(prompt)} + {len(tokens)} tokens, margin {margin:.4f}")
    print(f"    {reference.tokenizer.decode(past_eos)!r}")
    if margin < LEAST_MARGIN:
        raise ValueError(f"chat {chat['name']!r}: margin {margin:.2g} is below {LEAST_MARGIN}; choose another chat")
    return {
        **chat,
        "prompt_tokens": prompt,
        "tokens": tokens,
        "tokens_past_eos": past_eos,
        "min_margin": round(margin, 6),
    }


def logprobs_case(reference: Reference, chat: Chat) -> Chat:
    """One entry of `logprobs.json`."""
    tokens = reference.render(chat["messages"], generation_prompt=False)
    logprobs = reference.logprobs(tokens)
    print(f"  {chat['name']}: {len(tokens)} tokens, mean {sum(logprobs) / len(logprobs):.4f}")
    return {**chat, "tokens": tokens, "logprobs": [round(value, LOGPROB_DECIMALS) for value in logprobs]}


def write_fixture(path: Path, made_with: Chat, cases: list[Chat]) -> None:
    """Writes one case per line, so that a diff shows which case changed."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
    text = f'{{"made_with": {json.dumps(made_with)},\n"cases": [\n{lines}\n]}}\n'
    json.loads(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(text.encode()):,} bytes")


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = REPOSITORY / "target/downloads/SmolLM2-135M-Instruct.Q4_1.gguf"
    parser.add_argument("--gguf", type=Path, default=default, help="default: %(default)s")
    parser.add_argument(
        "--checkpoint", type=Path, help="keep the Hugging Face checkpoint here (default: a temporary folder)"
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "tests/fixtures/smollm2", help="default: %(default)s")
    return parser.parse_args()


def main() -> int:
    """Converts, runs, writes."""
    arguments = parse_arguments()
    if not arguments.gguf.is_file():
        print(f"{arguments.gguf}: no such file; `tools/fetch.py model` fetches it", file=sys.stderr)
        return 1
    packages = ("torch", "transformers", "tokenizers", "gguf", "numpy")
    made_with = {
        "gguf_sha256": sha256(arguments.gguf),
        "dtype": "float32",
        **{name: version(name) for name in packages},
    }
    chats = json.loads((HERE / "chats.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.checkpoint or Path(temporary)
        write_checkpoint(arguments.gguf, folder)
        reference = Reference(folder)
        for name, case in (("greedy", greedy_case), ("logprobs", logprobs_case)):
            print(name)
            cases = [case(reference, chat) for chat in chats[name]]
            write_fixture(arguments.out / f"{name}.json", made_with, cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
