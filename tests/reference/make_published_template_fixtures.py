"""Makes tests/fixtures/templates/{trl,llama_cpp}.json: what transformers makes of conversations with published templates.

    pip install transformers==4.57.6 jinja2==3.1.6
    python3 tools/fetch.py templates
    python tests/reference/make_published_template_fixtures.py target/downloads/templates/trl
    python tests/reference/make_published_template_fixtures.py target/downloads/templates/llama_cpp

TRL (Apache 2.0) and llama.cpp (MIT, in the sources of llama-cpp-python) carry the published templates of many model
families. They are fetched, not committed. For each template, a fixture has one line per rendering: SHA-256 of the text,
or the error. A newer package's templates have to be unpacked by hand once, because the fetch takes the names from the
fixture.
"""

import datetime
import hashlib
import json
import pathlib
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "templates"
DATE = datetime.datetime(2024, 7, 26)
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


USER, REPLY = ("user", "What is 2+2?  "), ("assistant", "It's \"4\".\n")
CONVERSATIONS = [
    said(USER),
    said(("system", "Be brief."), USER),
    said(USER, REPLY, ("user", "Zoë's <b>3+3</b> & 你好?")),
    said(("system", " Be\nbrief. "), USER, REPLY, ("user", "And?"), ("assistant", "<think>\nHm.\n</think>\n\n6"), ("user", "Sure?")),
    said(USER, REPLY),
    said(("system", "Be brief."), USER, ("assistant", ""), ("tool", '{"sum": 4}'), ("assistant", "4")),
    said(USER, ("assistant", "Let me look."), ("tool", "4"), ("tool", "5"), ("user", "Thanks")),
    said(("developer", "Be brief."), USER),
    said(USER, ("user", "Again"), REPLY),
    said(REPLY),
    [],
]
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "number", "description": "It's \"one\" <addend>", "default": 1e-07},
        "b": {"type": ["integer", "null"], "enum": [1, 2.5, None, True]},
        "c": {"type": "array", "items": {"type": "object", "properties": {"items": {"type": "string"}}}},
        "d": {"type": "array"},
    },
    "required": ["a"],
}
TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "Adds\nnumbers.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
ARGUMENTS = [{}, {"tools": TOOLS}, {"enable_thinking": False, "thinking": True, "reasoning_effort": "high", "tools": []}]


def render(template, messages, arguments, prompt):
    view = {"documents": None, "tools": None, "strftime_now": DATE.strftime, **NAMED, **arguments}
    try:
        text = _compile_jinja_template(template).render(messages=messages, add_generation_prompt=prompt, **view)
    except Exception as error:  # noqa: BLE001 (whatever is raised is the expectation)
        return f"error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return hashlib.sha256(text.encode()).hexdigest()


def cases():
    for messages in CONVERSATIONS:
        for arguments in ARGUMENTS:
            for prompt in (False, True):
                yield {"messages": messages, "arguments": arguments, "add_generation_prompt": prompt}


def main(folder):
    templates = {}
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        templates[path.name] = [
            render(source, case["messages"], case["arguments"], case["add_generation_prompt"]) for case in cases()
        ]
    fixture = {"date": DATE.date().isoformat(), "named": NAMED, "cases": list(cases()), "templates": templates}
    out = FIXTURES / f"{folder.name}.json"
    out.write_text(json.dumps(fixture, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(len(templates), "templates,", sum(map(len, templates.values())), "renderings")


main(pathlib.Path(sys.argv[1]).resolve())
