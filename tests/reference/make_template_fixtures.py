"""Makes tests/fixtures/templates: what transformers makes of conversations with published tokenizers and templates.

    python tools/fetch.py tokenizers
    python tests/reference/make_template_fixtures.py

Needs transformers (4.57). The tokenizers themselves are fetched, not committed; each `FAMILY.json` names the arguments of
every case, and the text and tokens that transformers gives, or the error that the template raises.
"""

import pathlib

import transformers
import transformers.utils.chat_template_utils as chat_template_utils
from make_chat_fixtures import ADVERSARIAL, BENIGN, DATE, OUT_OF_ORDER, FixedDate, chat, dump

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "fixtures" / "templates"
TOKENIZERS = ROOT / "target" / "downloads" / "tokenizers"

REASONED = [
    chat("2+2?", "<think>\nEasy.\n</think>\n\n4", "And 3+3?"),
    chat("2+2?", "<think>\nEasy.\n</think>\n\n4", "And 3+3?", "<think>\n\n</think>\n\n6"),
    chat("2+2?", "I think </think> hard.", "And?"),
]
# Template arguments that people set, by family.
ARGUMENTS = {
    "qwen3": [{"enable_thinking": False}, {"enable_thinking": True}],
    "llama3_2": [{"date_string": "26 Jul 2024"}],
}


def case_of(tokenizer, messages, options, compared):
    case = {"messages": messages, "add_generation_prompt": options.pop("add_generation_prompt")}
    if options:
        case["arguments"] = options
    if not compared:
        case["adversarial"] = True
    options = {**options, "add_generation_prompt": case["add_generation_prompt"]}
    try:
        case["text"] = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        # Text with its control tokens, and no token added before or after: what apply_chat_template tokenises.
        case["tokens"] = tokenizer.apply_chat_template(messages, tokenize=True, **options)
    except Exception as error:  # noqa: BLE001 (whatever a template raises is a fixture too)
        case["error"] = str(error)
    return case


def cases_of(family, tokenizer):
    for compared, conversations in [(True, BENIGN + OUT_OF_ORDER), (False, ADVERSARIAL + REASONED)]:
        for messages in conversations:
            for add_generation_prompt in [True, False]:
                for arguments in [{}, *(ARGUMENTS.get(family, []) if add_generation_prompt else [])]:
                    options = {"add_generation_prompt": add_generation_prompt, **arguments}
                    yield case_of(tokenizer, messages, options, compared)


def main():
    chat_template_utils.datetime = FixedDate
    OUT.mkdir(parents=True, exist_ok=True)
    folders = sorted(folder for folder in TOKENIZERS.iterdir() if folder.is_dir())
    for folder in folders:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        if not tokenizer.chat_template:
            continue
        fixture = {"vocab_size": len(tokenizer), "date": DATE.isoformat()}
        dump(OUT / f"{folder.name}.json", fixture | {"cases": list(cases_of(folder.name, tokenizer))})


if __name__ == "__main__":
    main()
