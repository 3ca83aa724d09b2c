"""Makes tests/fixtures/jinja/snippets.json: what transformers' template environment makes of tests/reference/jinja/snippets.py.

    pip install transformers==4.57.6 jinja2==3.1.6
    python tests/reference/make_jinja_fixtures.py

Each case is a template with its text or its error. A text that differs from one rendering to the next (an address, a
random choice) cannot be compared; such a case is marked with `varies`. The snippets must name
every filter, test and global function of Jinja, and every method of Python's str, list, tuple and dict.
"""

import json
import pathlib
import re
import sys

from jinja2 import __version__
from transformers.utils.chat_template_utils import _compile_jinja_template

sys.path.insert(0, str(pathlib.Path(__file__).parent / "jinja"))
from snippets import SNIPPETS  # noqa: E402

OUT = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "jinja" / "snippets.json"
VIEW = {"messages": [{"role": "user", "content": "Hi"}], "tools": None, "documents": None, "add_generation_prompt": False}


def assert_complete():
    environment = _compile_jinja_template("").environment
    names = {*environment.filters, *environment.tests, *environment.globals}
    names |= {name for kind in (str, list, tuple, dict) for name in dir(kind) if not name.startswith("_")}
    words = "\n".join(SNIPPETS)
    missing = [name for name in sorted(names) if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words)]
    assert not missing, f"no snippet uses {missing}"


def render(template):
    try:
        # A fresh copy of the messages and of the compiled template for each, so that blocks and macros keep nothing.
        return {"text": _compile_jinja_template(template).render(**json.loads(json.dumps(VIEW)))}
    except Exception as error:  # noqa: BLE001 (whatever is raised is the expectation)
        return {"error": f"{type(error).__name__}: {error}"}


def case_of(template):
    first = render(template)
    text = first.get("text", "")
    varies = " at 0x" in text or any(render(template) != first for _ in range(6))
    # Half a surrogate pair is not a text outside of Python.
    varies |= any("\ud800" <= c <= "\udfff" for c in text)
    return {"template": template, **({"varies": True} if varies else first)}


assert_complete()
cases = [case_of(template) for template in dict.fromkeys(SNIPPETS)]
lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
print(f"{len(cases)} cases with Jinja {__version__}, {sum('error' in case for case in cases)} of them errors")
