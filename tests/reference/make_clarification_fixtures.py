"""Makes tests/fixtures/clarification.json: macro averages over decisions to ask, as scikit-learn computes them.

    python tests/reference/make_clarification_fixtures.py
"""

import json
import random
import warnings

from metric_texts import ROOT
from sklearn.metrics import balanced_accuracy_score, f1_score

OUT = ROOT / "tests" / "fixtures" / "clarification.json"


def decisions(rng):
    """Pairs of (it asked, the user was ambiguous), with only one class in the first cases."""
    yield [(True, True)] * 3
    yield [(False, False)] * 3
    yield [(True, False)] * 2
    yield [(True, True), (False, True)]
    for _ in range(16):
        ambiguous, agree = rng.random(), rng.random()
        truth = [rng.random() < ambiguous for _ in range(rng.randint(2, 30))]
        yield [(answer if rng.random() < agree else not answer, answer) for answer in truth]


def main():
    warnings.simplefilter("ignore")
    cases = []
    for pairs in decisions(random.Random(3)):
        asked, ambiguous = map(list, zip(*pairs))
        cases.append(
            {
                "asked": asked,
                "ambiguous": ambiguous,
                "macro_accuracy": float(balanced_accuracy_score(ambiguous, asked)),
                "macro_f1": float(f1_score(ambiguous, asked, average="macro")),
            }
        )
    lines = ",\n".join(json.dumps(case) for case in cases)
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
