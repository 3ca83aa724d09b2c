"""Makes tests/fixtures/bleu.json: BLEU of 200 pairs of texts, as sacrebleu and NLTK compute it.

    python tests/reference/make_bleu_fixtures.py

`scores[i]` is sacrebleu's score / 100 under `settings[i]` (keys as in `[[metrics]]`), `nltk` is
`sentence_bleu([reference], hypothesis)` on the strings themselves.
"""

import json
import logging
import random
import warnings

from metric_texts import CODE, PROSE, ROOT, sentences
from nltk.translate.bleu_score import sentence_bleu
from sacrebleu.metrics import BLEU

OUT = ROOT / "tests" / "fixtures" / "bleu.json"

SETTINGS = [
    {},
    {"lowercase": True},
    {"tokenizer": "none"},
    {"tokenizer": "char"},
    {"smoothing": "none"},
    {"smoothing": "floor"},
    {"smoothing": "floor", "smooth_value": 0.01},
    {"smoothing": "add_k"},
    {"smoothing": "add_k", "smooth_value": 0.5, "effective_order": False},
    {"effective_order": False},
    {"smoothing": "none", "effective_order": False},
    {"max_order": 2},
    {"tokenizer": "char", "max_order": 6, "smoothing": "floor"},
]


def sacrebleu(settings):
    return BLEU(
        lowercase=settings.get("lowercase", False),
        tokenize=settings.get("tokenizer", "13a"),
        smooth_method=settings.get("smoothing", "exp").replace("_", "-"),
        smooth_value=settings.get("smooth_value"),
        max_ngram_order=settings.get("max_order", 4),
        effective_order=settings.get("effective_order", True),
    )


def changed(text, rng):
    """`text` as another writer might have phrased it."""
    words = text.split(" ")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(words))
        match rng.randrange(6):
            case 0:
                words = words[:at] + words[at + 1 :] or ["x"]
            case 1:
                words.insert(at, rng.choice(words))
            case 2:
                other = rng.randrange(len(words))
                words[at], words[other] = words[other], words[at]
            case 3:
                words[at] = rng.choice(["the", "3.5", "well,", "(no)", "可以", "👍", "A-1"])
            case 4:
                words[at] = words[at].swapcase()
            case 5:
                words = words[: max(1, at)]
    return " ".join(words)


def pairs():
    rng = random.Random(20240607)
    texts = PROSE + CODE + sentences()
    made = [("", ""), ("", "a"), ("a", ""), ("a b", "c d"), ("a a a a a a", "a"), ("a b c", "a b c")]
    made += [(text, text) for text in rng.sample(texts, 14)]
    made += [tuple(rng.sample(texts, 2)) for _ in range(30)]
    made += [(changed(text, rng), text) for text in PROSE + CODE]
    while len(made) < 200:
        text = rng.choice(texts)
        made.append((changed(text, rng), changed(text, rng)) if rng.random() < 0.3 else (changed(text, rng), text))
    return made


def main():
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    metrics = [sacrebleu(settings) for settings in SETTINGS]
    lines = []
    for hypothesis, reference in pairs():
        scores = [metric.sentence_score(hypothesis, [reference]).score / 100 for metric in metrics]
        case = {
            "hypothesis": hypothesis,
            "reference": reference,
            "scores": scores,
            "nltk": float(sentence_bleu([reference], hypothesis)),
        }
        lines.append(json.dumps(case, ensure_ascii=False))
    settings = json.dumps(SETTINGS)
    body = ",\n".join(lines)
    OUT.write_text(f'{{"settings": {settings},\n"pairs": [\n{body}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
