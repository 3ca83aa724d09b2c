"""Prompts of a model that was trained to be the user, as transformers renders them: tests/fixtures/user_lm/prompts.json.

UserLM's chat template always opens the user's turn at the end. The template here does the same over the tests' small
byte-level tokenizer.

    python3 -m venv venv && venv/bin/pip install transformers==4.57.6 jinja2
    venv/bin/python tests/reference/make_user_lm_fixtures.py
"""

import json
from pathlib import Path

from transformers import AutoTokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>user\\n' }}"
)
SYSTEM = {"role": "system", "content": "You are a user who is after this: a poem about my dog"}
SAID = [
    {"role": "user", "content": "poem pls"},
    {"role": "assistant", "content": " About what?\n"},
    {"role": "user", "content": "my dog <|im_end|> he's gone"},
    {"role": "assistant", "content": "Roses are red. 🐕"},
]


def main():
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "models" / "tokenizers" / "bytes")
    tokenizer.chat_template = TEMPLATE
    cases = []
    # Users' words can't end their turn here, so the last conversation but one is only for the text.
    for said in (0, 2, 4):
        messages = [SYSTEM, *SAID[:said]]
        plain = not any("<|" in message["content"] for message in messages)
        cases.append({
            "messages": messages,
            "text": tokenizer.apply_chat_template(messages, tokenize=False),
            "tokens": tokenizer.apply_chat_template(messages) if plain else None,
        })
    folder = FIXTURES / "user_lm"
    folder.mkdir(exist_ok=True)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (folder / "prompts.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
