"""The texts for the references of the metrics: prose, code, other scripts, and text that breaks tokenizers."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROSE = [
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "On 3 May 1999, 12,345.67 people (roughly 5% of the town) asked: \"why?\"",
    "It's 7-8 o'clock; don't wait -- we'll be there at 10:30 a.m., won't we?",
    "Prices rose from $1.50 to $2.75, i.e. by 83.3%, between 2019-2021.",
    "See https://example.org/a_b?c=d&e=f#g, or write to me@example.org.",
    "AT&amp;T said &quot;5 &lt; 6 &gt; 4&quot; and &apos;left&apos;.",
    "a hyphen-\nated word, and <skipped> a line\nthat is broken",
    "## Title\n\n- one *item*\n- another `item`\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "Der Fluß fließt über die Straße; „Grüße“, sagte sie – und ging…",
    "L’été dernier, j’ai mangé 3,5 kg de crêpes à l’œuf.",
    "İstanbul'da IŞIK, ısırgan otu ve iğde. ΟΔΥΣΣΕΥΣ ΣΑΣ",
    "今天天气很好,我们去公园散步吧。你觉得怎么样?",
    "彼は「はい」と答えた。ＡＢＣ１２３、全角の文字です。",
    "안녕하세요, 세계! 오늘은 2024년 1월 1일입니다.",
    "السلام عليكم، كيف حالك؟ ١٢٣",
    "नमस्ते दुनिया, यह एक परीक्षण है।",
    "emoji 👩‍👩‍👧‍👦 and flags 🇩🇪🇫🇷 and 👍🏽, e\u0301 against é",
    "tabs\tand\u00a0odd\u2003spaces\u3000here \x1c and \u200b zero width \ufeff",
    "ends in spaces   \n\n\n",
    "   \n  begins with them",
    "line one\r\nline two\r\n\r\nline four",
    "<|endoftext|> is text, and so are <|fim_prefix|> and [INST] </s>",
    "!!!???...,,,;;;:::---___***((([[[{{{}}}]]])))///\\\\\\|||~~~```^^^&&&%%%$$$###@@@",
    "......",
    "1,000,000.00-2.5 -3 .5 5. ,7 7, 1-2-3 a-1 1-a",
    "wordwordword" * 8,
    "AAAAAAAA aaaaaaaa 00000000",
    "x",
    "word",
    "?",
    " ",
    "\n",
    "",
]

CODE = [
    "def area(r):\n    \"\"\"The area of a circle.\"\"\"\n    return 3.14159 * r ** 2\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; } // dot product",
    "fn main() {\n    let x: Vec<u8> = vec![1, 2, 3];\n    println!(\"{:?}\", &x[..2]);\n}",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 AND city != 'Paris' GROUP BY name;",
    "{\"a\": [1, 2.5, null], \"b\": {\"c\": \"d\\n\"}}",
    "if x == 1:\n\tprint('one')\nelse:\n\tprint(f\"{x!r} is not one\")",
    "\\frac{a^2 + b^2}{c_1} = \\sqrt{2} \\approx 1.4142",
]


def sentences():
    """Sentences of the licences, which are in the repository and don't change."""
    found = []
    for name in ["LICENSE-MIT", "LICENSE-APACHE"]:
        text = (ROOT / name).read_text(encoding="utf-8")
        for part in re.split(r"\n\s*\n|(?<=[.;:])\s+(?=[A-Z(\"])", text):
            part = part.strip()
            if 20 < len(part) < 400:
                found.append(part)
    return found
