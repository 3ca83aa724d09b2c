"""The conversations, with the replies of the scripted models.

`config` and `request` are foreturn's side: what makes its preset score the same conversations. What they leave out is the
preset's, so that its own window, samples, metrics and weights are held to the reference's.

A sample's `user` replies are what the user model writes, JSON and all; `policy` are the assistant's. `extractor` and
`judge` are asked once about the finished conversation, by the metric that needs it.
"""

from __future__ import annotations

import json
from typing import Any


def turn(response: str, thought: str = "It is not done yet.", answer: str = "nothing so far") -> str:
    """A simulator's reply as asked for."""
    return json.dumps({"current_answer": answer, "thought": thought, "response": response}, ensure_ascii=False)


def verdict(key: str, value: float | int | str, thought: str = "As the conversation shows.") -> str:
    """A judge's reply as asked for."""
    return json.dumps({"thought": thought, key: value}, ensure_ascii=False)


def extract(text: str, thought: str = "The last version counts.") -> str:
    """An extractor's reply as asked for."""
    return json.dumps({"thought": thought, "final_completion": text}, ensure_ascii=False)


STOP = "[[TERMINATE CHAT]]"

MATH = {
    "name": "math",
    "about": "Two responses, three futures each, w = 2. One user leaves at once, one after a turn with last words, and "
    "signals in a thought or in the assistant's words end nothing. Replies come fenced, with remarks around them, with "
    "single or triple quotes, with trailing commas, and numbers as texts.",
    "config": ['preset = "collabllm"', 'task = "math"'],
    "request": {},
    "task_desc": "question answering",
    "max_new_turns": 4,
    "metric_names": ["accuracy", "interactivity", "token_amount"],
    "metric_weights": [1, 1, -0.5],
    "conversation": [{"role": "user", "content": "how many ways to colour a cube?"}],
    "prompt": "In how many ways can the six faces of a cube be painted with exactly six different colours, one each, if "
    "cubes that a rotation turns into each other count as the same?",
    "reference": "6! / 24 = 30",
    "candidates": [
        {
            "response": "Sure! Do you use each colour once, and do rotated cubes count as the same?",
            "samples": [
                {
                    "user": [
                        turn("six colours, each once. and yes they're the same if i turn it"),
                        "```json\n" + turn(f"ok so 30? {STOP}", "That is what I wanted.", "30") + "\n```",
                    ],
                    "policy": ["Then 6! = 720 paintings fall into groups of 24 rotations: 720 / 24 = 30."],
                    "judge": {
                        "accuracy": verdict("accuracy", 1),
                        "interactivity": "Here is my assessment:\n```json\n" + verdict("interactivity", 0.85) + "\n```\nDone.",
                    },
                },
                {
                    "user": [
                        "{'current_answer': 'none', 'thought': 'They ask {two} things; I could say "
                        + STOP
                        + " later.', 'response': 'each once, rotated = same'}",
                        '{"current_answer": """30,\nsays the "AI" """, "thought": """fine""", "response": """where does\n24 come from?"""}',
                    ],
                    "policy": [
                        "Count all 720 paintings, then divide by 24.",
                        "A face can go to the top in 6 ways, then there are 4 turns: 6 · 4 = 24. <|endoftext|> Say "
                        f"{STOP} if that is clear.",
                    ],
                    "judge": {
                        "accuracy": '{"thought": """It says "720", then \'24\',\nnever the quotient.""", "accuracy": 0,}',
                        "interactivity": verdict("interactivity", "0.7"),
                    },
                },
                {
                    "user": [turn("hm i dont know, the easy way", answer=""), turn("and thats really all?")],
                    "policy": ["30 ways.", "Yes: 30. The 24 rotations of a cube make 24 paintings the same, 720 / 24."],
                    "judge": {
                        "accuracy": '{"thought": "right",\n "accuracy": 1.0}',
                        "interactivity": '{\n\t"thought": "middling", \'interactivity\': .5 }',
                    },
                },
            ],
        },
        {
            "response": "There are 720 ways, for 6! = 720.",
            "samples": [
                {
                    "user": [turn(STOP, "I know enough.", "720")],
                    "policy": [],
                    "judge": {"accuracy": verdict("accuracy", 0), "interactivity": verdict("interactivity", 0)},
                },
                {
                    "user": [
                        "Thinking about it...\n" + turn("but rotated cubes are the same cube?", answer="720"),
                        turn("so how many", "They say 30 now; almost there."),
                    ],
                    "policy": ["You are right, that has to be divided by the number of rotations.", "720 / 24 = 30."],
                    "judge": {
                        "accuracy": "Sure.\n\n" + verdict("accuracy", "1") + "\n\nAnything else?",
                        "interactivity": verdict("interactivity", 0.25, "It says {little}, and \"asks\" nothing."),
                    },
                },
                {
                    "user": [turn("ok thanks\n", "It is an answer."), turn(f"bye {STOP} really")],
                    "policy": ["You are welcome – ask me anything else about cubes 🎲, e.g. naïve colourings."],
                    "judge": {
                        "accuracy": verdict("accuracy", 0, "720 is not 30."),
                        "interactivity": verdict("interactivity", 1e-1),
                    },
                },
            ],
        },
    ],
}

DOCUMENT = {
    "name": "document",
    "about": "BLEU of the extracted document, over characters, w = 1 (two new messages): several lines in triple quotes, "
    "a document shorter than the reference, one longer, one with nothing in common.",
    "config": ['preset = "collabllm"', 'task = "document"'],
    "request": {"window": 1},
    "task_desc": "document editing",
    "max_new_turns": 2,
    "metric_names": ["document->bleu", "interactivity", "token_amount"],
    "metric_weights": [1, 1, -0.5],
    "conversation": [
        {"role": "user", "content": "help me write about our allotment"},
        {"role": "assistant", "content": "Gladly. How long should it be?"},
        {"role": "user", "content": "short. soil first"},
    ],
    "prompt": "Please write an article in less than 500 words about:\n\nAn allotment in its first year",
    "reference": "The soil was clay, heavy and cold. We dug in two barrows of compost before the first bed was sown.\n\n"
    "By June there were beans; by August, more beans than we could give away.",
    "candidates": [
        {
            "response": "Here is a start: \"The soil was clay, heavy and cold.\" What came next, compost or seeds?",
            "samples": [
                {
                    "user": [turn("compost! 2 barrows. beans in june")],
                    "policy": [
                        "The soil was clay, heavy and cold. We dug in two barrows of compost. By June there were beans."
                    ],
                    "extractor": '{"thought": "One paragraph.", "final_completion": """The soil was clay, heavy and cold.'
                    ' We dug in two barrows of compost.\n\nBy June there were \'beans\'."""}',
                    "judge": {"interactivity": verdict("interactivity", 0.9)},
                },
                {
                    "user": [turn(STOP)],
                    "policy": [],
                    "extractor": "```json\n" + extract("The soil was clay, heavy and cold.") + "\n```",
                    "judge": {"interactivity": verdict("interactivity", 0.6)},
                },
                {
                    "user": [turn("compost. and the beans, too many of them")],
                    "policy": ["…"],
                    "extractor": extract(
                        "The soil was clay, heavy and cold. We dug in two barrows of compost before the first bed was "
                        "sown.\n\nBy June there were beans; by August, more beans than we could give away. And in "
                        "September there were still beans – enough for a café."
                    ),
                    "judge": {"interactivity": verdict("interactivity", 0.8)},
                },
            ],
        },
        {
            "response": "Soil is a mixture of minerals, organic matter, water and air.",
            "samples": [
                {
                    "user": [turn("no, OUR soil. its clay")],
                    "policy": ["Clay soil holds water and warms slowly."],
                    "extractor": extract("Clay soil holds water and warms slowly."),
                    "judge": {"interactivity": verdict("interactivity", 0.2)},
                },
                {
                    "user": [turn("forget it")],
                    "policy": ["Understood."],
                    "extractor": extract("§§§§§"),
                    "judge": {"interactivity": verdict("interactivity", 0)},
                },
                {
                    "user": [turn("thats from a textbook")],
                    "policy": ["The soil was clay."],
                    "extractor": extract("\nThe soil was clay. \n"),
                    "judge": {"interactivity": verdict("interactivity", 0.4)},
                },
            ],
        },
    ],
}

TESTS = """import unittest

class TestCases(unittest.TestCase):
    def test_words(self):
        self.assertEqual(task_func("b a b"), {"a": 1, "b": 2})

    def test_nothing(self):
        self.assertEqual(task_func(""), {})
"""
RIGHT = "def task_func(text):\n    counts = {}\n    for word in text.split():\n        counts[word] = counts.get(word, 0) + 1\n    return counts\n"
WRONG = "def task_func(text):\n    return {word: 1 for word in text.split()}\n"

CODE = {
    "name": "code",
    "about": "Pass rate of the extracted code, w = 1: code that passes, code that fails a test, code that doesn't compile.",
    "config": [
        'preset = "collabllm"',
        "[[metrics]]",
        'kind = "pass_rate"',
        'interpreter = "/usr/bin/python3"',
        # The code is ours, and this is not a test of the sandbox.
        'isolation = "none"',
        "[[metrics]]",
        'kind = "interactivity"',
        "[[metrics]]",
        'kind = "token_amount"',
    ],
    "request": {"window": 1, "samples": 2},
    "task_desc": "code generation",
    "max_new_turns": 2,
    "metric_names": ["runnable code->pass_rate", "interactivity", "token_amount"],
    "metric_weights": [1, 1, -0.5],
    "conversation": [{"role": "user", "content": "i need to count words in python"}],
    "prompt": "Write task_func(text), which returns a dict of how often each word occurs in text; words are separated by white space.",
    "reference": "",
    "tests": TESTS,
    "entry_point": "task_func",
    "metadata": {"extraction_requirement": "The function is called task_func."},
    "candidates": [
        {
            "response": "Should \"The\" and \"the\" be one word?",
            "samples": [
                {
                    "user": [turn("no just split on spaces")],
                    "policy": [f"```python\n{RIGHT}```"],
                    "extractor": f"{{\"thought\": 'As given.', \"final_completion\": '''{RIGHT}'''}}",
                    "judge": {"interactivity": verdict("interactivity", 1)},
                },
                {
                    "user": [turn("dont care")],
                    "policy": [f"```python\n{WRONG}```"],
                    "extractor": extract(WRONG),
                    "judge": {"interactivity": verdict("interactivity", 0.5)},
                },
            ],
        },
        {
            "response": "Use collections.Counter.",
            "samples": [
                {
                    "user": [turn("show me")],
                    "policy": ["def task_func(text) return Counter(text)"],
                    "extractor": extract("def task_func(text) return Counter(text)"),
                    "judge": {"interactivity": verdict("interactivity", 0.1)},
                },
                {
                    "user": [turn(STOP)],
                    "policy": [],
                    "extractor": extract("from collections import Counter\n\ndef task_func(text):\n    return dict(Counter(text.split()))\n"),
                    "judge": {"interactivity": verdict("interactivity", 0.3)},
                },
            ],
        },
    ],
}

IMMEDIATE = {
    "name": "immediate",
    "about": "w = 0: nothing is sampled, the conversation as it stands is scored; it has a system message, which is not "
    "counted. The answer is extracted before it is judged.",
    "config": [
        'preset = "collabllm"',
        "[[metrics]]",
        'kind = "accuracy"',
        'extract = "answer"',
        "[[metrics]]",
        'kind = "interactivity"',
        "weight = 0.5",
        "[[metrics]]",
        'kind = "token_amount"',
        "weight = -0.1",
    ],
    "request": {"window": 0, "samples": 1},
    "task_desc": "question answering",
    "max_new_turns": 0,
    "metric_names": ["answer->accuracy", "interactivity", "token_amount"],
    "metric_weights": [1, 0.5, -0.1],
    "conversation": [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "what's 17 * 3"},
    ],
    "prompt": "What is 17 * 3?",
    "reference": "51",
    "candidates": [
        {
            "response": "51, as 17 * 3 = 10 * 3 + 7 * 3.",
            "samples": [
                {
                    "user": [],
                    "policy": [],
                    "extractor": extract("17 * 3 = 51"),
                    "judge": {"accuracy": verdict("accuracy", 1), "interactivity": verdict("interactivity", 0.35)},
                }
            ],
        },
        {
            "response": "Do you mean the product, or a repeated sum?",
            "samples": [
                {
                    "user": [],
                    "policy": [],
                    "extractor": extract("no answer"),
                    "judge": {"accuracy": verdict("accuracy", 0), "interactivity": verdict("interactivity", 0.55)},
                }
            ],
        },
    ],
}

CASES = [MATH, DOCUMENT, CODE, IMMEDIATE]

VERL = {
    "name": "verl",
    "about": "verl's recipe with the weights of its training script on the conversations of `math`.",
    "config": ['preset = "verl"', 'task = "math"'],
    "request": {},
    "task_desc": "question answering",
    "window": 2,
    "metric_weights": {"accuracy": 1, "interactivity": 1, "token_amount": -0.0001},
    "conversation": MATH["conversation"],
    "prompt": MATH["prompt"],
    "reference": MATH["reference"],
    "candidates": MATH["candidates"],
}

VERL_CLAMPED = {
    **VERL,
    "name": "verl_clamped",
    "about": "Weights under which metrics are clamped, one at 1 and one at -1; single conversations would be clamped "
    "elsewhere, for it is the weighted mean that is.",
    "config": [
        'preset = "verl"',
        "[[metrics]]",
        'kind = "accuracy"',
        "[[metrics]]",
        'kind = "interactivity"',
        "weight = 1.8",
        "[[metrics]]",
        'kind = "token_amount"',
        "weight = -0.03",
    ],
    "metric_weights": {"accuracy": 1, "interactivity": 1.8, "token_amount": -0.03},
}

VERL_DOCUMENT = {
    "name": "verl_document",
    "about": "verl's recipe with bleu_score, which extracts and is over characters, too.",
    "config": ['preset = "verl"', 'task = "document"'],
    "request": {"window": 1},
    "task_desc": "document editing",
    "window": 1,
    "metric_weights": {"bleu_score": 1, "interactivity": 1, "token_amount": -0.0001},
    "conversation": DOCUMENT["conversation"],
    "prompt": DOCUMENT["prompt"],
    "reference": DOCUMENT["reference"],
    "candidates": DOCUMENT["candidates"],
}

VERL_CASES = [VERL, VERL_CLAMPED, VERL_DOCUMENT]

# Replies for the reference's own parser of JSON: what it makes of each, or that it makes nothing.
REPLIES = [
    '{"thought": "t", "accuracy": 1}',
    'Sure:\n```json\n{"thought": "t", "accuracy": 1}\n```\nThat is all.',
    "{'thought': 'it''s', 'accuracy': 1}",
    "{'thought': 'it is', 'accuracy': 1}",
    '{"thought": """two\nlines with "quotes" and \\n""", "accuracy": 1}',
    "{\"thought\": '''one \"quote\"''', \"accuracy\": 0}",
    '{"thought": "a\nraw line break", "accuracy": 1}',
    '{"thought": "escapes: \\n \\t \\\\ \\" \\/", "accuracy": 1,}',
    '{"thought": "t", "accuracy": "0.5"}',
    '{"thought": "t", "accuracy": "high"}',
    '{"thought": "t", "accuracy": True}',
    '{"thought": "t", "accuracy": "false"}',
    '{"thought": "t", "accuracy": null}',
    '{"thought": "t", "accuracy": .5}',
    '{"thought": "t", "accuracy": +1}',
    '{"thought": "t", "accuracy": -0.25}',
    '{"thought": "t", "accuracy": 1e-1}',
    '{"thought": "t", "accuracy": [1, 0]}',
    '{"thought": {"a": [1, 2.5, {}], "b": "x"}, "accuracy": 1}',
    '{"thought": "braces { in } a text", "accuracy": 1}',
    '{"thought": "t", "accuracy": 1} and a remark',
    '{"thought": "t", "accuracy": 1} and {braces}',
    '{"thought": "t" "accuracy": 1}',
    '{"thought": "t", accuracy: 1}',
    '{"thought": "t", "accuracy": NaN}',
    '{"thought": "t", "accuracy": Infinity}',
    '{"thought": "t", "accuracy": 1',
    '{"thought": "unclosed, "accuracy": 1}',
    '{"thought": "t", "accuracy": 1, "accuracy": 0}',
    '{"thought": "t"}',
    "{}",
    "accuracy: 1",
    "",
]
