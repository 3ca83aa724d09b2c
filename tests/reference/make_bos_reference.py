"""Records the tokens of a conversation by how a reward model's authors call the tokenizer: tests/fixtures/bos.json.

`template`: what the template renders, without added tokens; `double`: with the tokenizer's own added; `once`: with a BOS
that the template writes cut off before the tokenizer adds its own (the recipe of Skywork-Reward's model cards).
"""

import json
import shutil
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

FIXTURES = Path(__file__).parent.parent / "fixtures"
BOS = "<|begin_of_text|>"
ADDS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [
        {"SpecialToken": {"id": BOS, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": BOS, "type_id": 1}},
        {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {BOS: {"id": BOS, "ids": [4], "tokens": [BOS]}},
}
BODY = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
CASES = {
    "both write it": dict(post_processor=ADDS, config={}, chat_template="{{ bos_token }}" + BODY),
    "the tokenizer adds it": dict(post_processor=ADDS, config={}, chat_template=BODY),
    "the template writes it": dict(post_processor=None, config={}, chat_template="{{ bos_token }}" + BODY),
    "nobody does": dict(post_processor=None, config={}, chat_template=BODY),
    "a class that adds it": dict(
        post_processor=None,
        config=dict(tokenizer_class="LlamaTokenizerFast"),
        chat_template="{{ bos_token }}" + BODY,
    ),
    "a class told to add the other": dict(
        post_processor=ADDS,
        config=dict(tokenizer_class="LlamaTokenizerFast", add_bos_token=False, add_eos_token=True),
        chat_template=BODY,
    ),
}


def tokens(case):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for file in (FIXTURES / "models" / "tokenizers" / "bytes").iterdir():
            shutil.copy(file, folder)
        (folder / "chat_template.jinja").write_text(case["chat_template"])
        for name, changes in (("tokenizer", dict(post_processor=case["post_processor"])), ("tokenizer_config", case["config"])):
            path = folder / f"{name}.json"
            value = json.loads(path.read_text())
            value.update(changes)
            if name == "tokenizer_config":
                value["bos_token"] = BOS
            path.write_text(json.dumps(value))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
        return dict(
            template=tokenizer(text, add_special_tokens=False).input_ids,
            once=tokenizer(text.removeprefix(tokenizer.bos_token)).input_ids,
            double=tokenizer(text).input_ids,
        )


cases = [dict(name=name, messages=MESSAGES, **case, tokens=tokens(case)) for name, case in CASES.items()]
(FIXTURES / "bos.json").write_text(json.dumps(cases, indent=1) + "\n")
for case in cases:
    print(case["name"], {mode: (ids[:2], ids[-2:]) for mode, ids in case["tokens"].items()})
