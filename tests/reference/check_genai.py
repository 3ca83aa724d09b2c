#!/usr/bin/env python3
"""Runs an exported model folder in onnxruntime-genai and compares its greedy tokens with the recorded ones.

    python check_genai.py target/models/smollm2-135m-instruct [--cases tests/fixtures/smollm2/greedy.json]
    python check_genai.py target/models/smollm2-135m-instruct-int4 --agreement 0.9

An export should be usable in other engines. This script tries one. Exits with 1 and names the first difference of each
case if there is one. Tokens are fed as recorded, so this checks graph and weights; a second look compares the
folder's tokenizer on every message's text.

A quantised export chooses another token where two are about equally likely, and goes its own way from there. With
--agreement, it is asked for each token after the recorded ones before it, and that share of them has to be the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime_genai as genai

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/smollm2/greedy.json"


def greedy(model: genai.Model, prompt: list[int], count: int) -> list[int]:
    """Up to `count` greedy tokens after `prompt`."""
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(prompt) + count)
    generator = genai.Generator(model, params)
    generator.append_tokens(prompt)
    tokens: list[int] = []
    while len(tokens) < count and not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return tokens


def choices(model: genai.Model, prompt: list[int], tokens: list[int]) -> list[int]:
    """The likeliest token after `prompt`, and after each of `tokens` except the last."""
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(prompt) + len(tokens) + 1)
    generator = genai.Generator(model, params)
    chosen: list[int] = []
    for part in [prompt, *([token] for token in tokens[:-1])]:
        generator.append_tokens(part)
        chosen.append(int(generator.get_logits()[0, -1].argmax()))
    return chosen


def token_difference(case: dict[str, Any], tokens: list[int]) -> str | None:
    """The first difference between the generated and the recorded tokens, if there is one."""
    expected = case["tokens"]
    if tokens == expected:
        return None
    # Without a difference in the common part, the shorter one ended too early.
    at = next((i for i, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1]), len(tokens))
    return f"at token {at} of {len(expected)}: recorded {expected[at : at + 4]}, got {tokens[at : at + 4]}"


def tokenizer_difference(tokenizer: genai.Tokenizer, case: dict[str, Any]) -> str | None:
    """The difference between the folder's tokens for a message and those of the recorded prompt."""
    prompt = " ".join(map(str, case["prompt_tokens"]))
    for message in case["messages"]:
        # The chat template puts the text between a role line and `<|im_end|>`, so its tokens are contiguous there.
        tokens = " ".join(map(str, tokenizer.encode(message["content"])))
        if f" {tokens} " not in prompt:
            return f"the tokenizer splits {message['content'][:40]!r}… differently"
    return None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="the exported folder, with genai_config.json")
    parser.add_argument("--cases", type=Path, default=FIXTURE, help="default: %(default)s")
    parser.add_argument("--agreement", type=float, metavar="SHARE", help="share of equal tokens that is enough")
    arguments = parser.parse_args()
    cases = json.loads(arguments.cases.read_text(encoding="utf-8"))["cases"]
    model = genai.Model(str(arguments.model))
    tokenizer = genai.Tokenizer(model)
    failures = equal = asked = 0
    for case in cases:
        expected = case["tokens"]
        differences = [tokenizer_difference(tokenizer, case)]
        if arguments.agreement is None:
            # As many as were recorded, so that a missing end of turn shows as a different last token.
            tokens = greedy(model, case["prompt_tokens"], len(expected))
            differences.append(token_difference(case, tokens))
        else:
            tokens = choices(model, case["prompt_tokens"], expected)
        same = sum(a == b for a, b in zip(tokens, expected, strict=False))
        equal, asked = equal + same, asked + len(expected)
        found = [difference for difference in differences if difference]
        failures += bool(found)
        print(f"{case['name']}: {'; '.join(found) or f'{same} of {len(expected)} tokens agree'}")
    print(f"{len(cases) - failures} passed, {failures} failed")
    too_few = arguments.agreement is not None and equal < arguments.agreement * asked
    if arguments.agreement is not None:
        print(f"{equal} of {asked} tokens agree: {'too few' if too_few else 'enough'}")
    return 1 if failures or too_few or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
