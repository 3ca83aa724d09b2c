#!/usr/bin/env python3
"""Records what numpy, scipy and statsmodels make of the numbers of a sweep (`foreturn evaluate --sweep`).

    pip install -r tests/reference/requirements-metrics.txt
    tests/reference/make_sweep_fixtures.py

Writes tests/fixtures/evaluate/sweep.json: rows as `responses.jsonl` has them, made up here so that they hold ties, missing
samples, conversations that end early and both ways of pairing; the judge's comparisons; and the numbers of each kind. Kendall's
tau is scipy's. The noise is the residual mean square of statsmodels' analysis of variance. Returns are products with the matrix
of discounts, as ArCHer's code computes `mc_return`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pandas
import statsmodels.formula.api as formula
from scipy import stats
from statsmodels.stats.anova import anova_lm

OUT = Path(__file__).parents[1] / "fixtures/evaluate/sweep.json"
Json = dict[str, Any]
TASKS, RESPONSES, SAMPLES, TURNS = 9, 4, 5, 3
WEIGHTS = {"a": 1.0, "b": -0.5, "c": 0.0}
KINDS = ["w=0", "w=1", "w=2", "w=3", "w=3,samples=2", "w=2,metrics=c", "w=2,metrics=a+c", "returns", "returns=1", "preference",
         "preference=judge"]


def rows(random: np.random.Generator) -> tuple[list[Json], list[Json]]:
    swept, compared = [], []
    for task in range(TASKS):
        luck = random.normal(size=(SAMPLES, TURNS + 1))
        responses = []
        for response in range(RESPONSES):
            value = random.normal() + 0.4 * response
            def metrics(noise: float) -> Json:
                # Coarse numbers tie.
                return {"a": round(float(value + noise), 1), "b": float(random.uniform()),
                        "c": float(random.integers(0, 2))}
            futures = []
            for sample in range(SAMPLES):
                if task == 2 and response == 1 and sample == 3:
                    continue  # a metric failed
                ends = int(random.integers(1, TURNS + 1))
                values = [metrics(luck[sample, turn] + 0.5 * random.normal()) for turn in range(ends)]
                values += [values[-1]] * (TURNS - ends)
                said = [{"role": role, "content": f"{role} {turn}"} for turn in range(ends) for role in ("user", "assistant")]
                futures.append({"sample": sample, "messages": said, "values": values,
                                "ended": "window" if ends == TURNS else "context"})
            responses.append({"response": f"r{response}", "now": metrics(0.0), "futures": futures})
        tokens = {"sampling": np.cumsum(random.uniform(0.5, 2, TURNS)).tolist(), "scoring": random.uniform(0.1, 1, TURNS + 1).tolist()}
        swept.append({"policy": "p", "id": f"t{task}", "conversation": [{"role": "user", "content": "?"}], "responses": responses,
                      "weights": WEIGHTS, "paired": task % 2 == 0, "tokens": tokens, "seed": task, "models": {}, "bitwise": False})
        tables = {}
        for sample in complete(swept[-1]):
            table = np.full((RESPONSES, RESPONSES), 0.5)
            for one in range(RESPONSES):
                for other in range(one):
                    table[one, other] = random.uniform()
                    table[other, one] = 1 - table[one, other]
            tables[str(sample)] = table.tolist()
        compared.append({"samples": tables, "tokens": float(random.uniform(1, 2))})
    return swept, compared


def complete(row: Json) -> list[int]:
    sets = [{future["sample"] for future in response["futures"]} for response in row["responses"]]
    return sorted(set.intersection(*sets))


class Kind:
    def __init__(self, text: str) -> None:
        self.reading, *rest = text.split(",")
        options = dict(part.split("=") for part in rest)
        self.metrics = options["metrics"].split("+") if "metrics" in options else None
        self.samples = int(options["samples"]) if "samples" in options else None

    def reward(self, values: Json) -> float:
        if self.metrics is None:
            return sum(WEIGHTS[name] * value for name, value in values.items())
        return sum((WEIGHTS[name] or 1.0) * values[name] for name in self.metrics)

    def values(self, row: Json, compared: Json, samples: list[int]) -> np.ndarray:
        """By response and sample."""
        samples = samples[: self.samples]
        if self.reading == "w=0":
            return np.array([[self.reward(response["now"])] for response in row["responses"]])
        if self.reading == "preference=judge":
            tables = np.array([compared["samples"][str(sample)] for sample in samples])
            return ((tables.sum(axis=2) - 0.5) / (RESPONSES - 1)).T
        by: Callable[[Json, Json], float]
        if self.reading.startswith("w="):
            by = lambda _, future: self.reward(future["values"][int(self.reading[2:]) - 1])
        elif self.reading == "preference":
            by = lambda _, future: self.reward(future["values"][-1])
        else:
            gamma = float(self.reading.partition("=")[2] or 0.95)
            def by(response: Json, future: Json) -> float:
                reached = np.array([0.0, self.reward(response["now"]), *map(self.reward, future["values"])])
                rewards = np.diff(reached)
                row_of = np.cumprod(np.full(len(rewards), gamma)) if gamma else None
                matrix = np.triu(row_of.reshape(1, -1) / row_of.reshape(-1, 1))
                return float((rewards * matrix).sum(axis=1)[0])
        table = np.array([[by(response, next(f for f in response["futures"] if f["sample"] == sample)) for sample in samples]
                          for response in row["responses"]])
        if self.reading != "preference":
            return table
        won = np.zeros_like(table)
        for one in range(RESPONSES):
            others = np.delete(table, one, axis=0).ravel()
            for sample, own in enumerate(table[one]):
                # The statistic of Mann and Whitney, of one against all.
                won[one, sample] = stats.mannwhitneyu([own], others).statistic / len(others)
        return won

    def tokens(self, row: Json, compared: Json) -> float:
        share = min(self.samples or SAMPLES, len(complete(row))) / len(complete(row)) if self.samples else 1.0
        sampling, scoring = row["tokens"]["sampling"], row["tokens"]["scoring"]
        if self.reading == "w=0":
            return scoring[0]
        if self.reading.startswith("w="):
            window = int(self.reading[2:])
            return (sampling[window - 1] + scoring[window]) * share
        if self.reading == "preference":
            return (sampling[-1] + scoring[-1]) * share
        if self.reading == "preference=judge":
            return (sampling[-1] + compared["tokens"]) * share
        return sampling[-1] * share + scoring[0] + sum(scoring[1:]) * share


def spread(values: np.ndarray, paired: bool) -> tuple[float, float]:
    means = values.mean(axis=1)
    if values.shape[1] == 1:
        return 0.0, float(np.var(means, ddof=1))
    frame = pandas.DataFrame([{"y": values[i, j], "response": i, "sample": j} for i in range(values.shape[0]) for j in range(values.shape[1])])
    model = formula.ols("y ~ C(response) + C(sample)" if paired else "y ~ C(response)", frame).fit()
    noise = float(anova_lm(model).loc["Residual", "mean_sq"])
    return noise, max(0.0, float(np.var(means, ddof=1)) - noise / values.shape[1])


def column(values: list[float | None]) -> Json | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    error = float(stats.sem(known))
    low, high = stats.t.interval(0.95, len(known) - 1, loc=np.mean(known), scale=error) if error else (np.mean(known),) * 2
    return {"mean": float(np.mean(known)), "std_error": error, "interval": [float(low), float(high)], "tasks": len(known)}


def tau(one: np.ndarray, other: np.ndarray) -> float | None:
    found = float(stats.kendalltau(one, other).statistic)
    return None if math.isnan(found) else found


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def main() -> None:
    swept, compared = rows(np.random.default_rng(19))
    whole = Kind("w=3")
    by_kind: dict[str, list[Json]] = {}
    for text in KINDS:
        kind = Kind(text)
        by_kind[text] = []
        for row, judged in zip(swept, compared):
            samples = complete(row)
            halves = [kind.values(row, judged, samples[half::2]).mean(axis=1) for half in (0, 1)]
            worth = [whole.values(row, judged, samples[half::2]).mean(axis=1) for half in (1, 0)]
            values = kind.values(row, judged, samples)
            noise, between = spread(values, row["paired"])
            tokens = kind.tokens(row, judged)
            per_sample = tokens if kind.reading == "w=0" else tokens / values.shape[1]
            chosen = [float(value[half == half.max()].mean()) for half, value in zip(halves, worth)]
            by_kind[text].append({
                "estimates": values.mean(axis=1), "halves": halves, "chosen": float(np.mean(chosen)), "tokens_k": tokens,
                "noise": noise, "noise_at_1k": noise * per_sample, "between": between, "repeat": tau(*halves)})
    kinds = []
    for text, tasks in by_kind.items():
        of = {name: column([task[name] for task in tasks])
              for name in ("chosen", "repeat", "tokens_k", "noise", "noise_at_1k", "between")}
        total = of["between"]["mean"] + of["noise_at_1k"]["mean"]
        kinds.append({"name": text, "reward": column([float(task["estimates"].mean()) for task in tasks]), **of,
                      "reliability_at_1k": of["between"]["mean"] / total})
    agreement, differences = [], []
    for at, text in enumerate(KINDS):
        for other in KINDS[:at]:
            pairs = list(zip(by_kind[text], by_kind[other]))
            apart = [mean([tau(a["halves"][0], b["halves"][1]), tau(a["halves"][1], b["halves"][0])]) for a, b in pairs]
            agreement.append({"kind": text, "with": other, "apart": column(apart),
                              "same": column([tau(a["estimates"], b["estimates"]) for a, b in pairs])})
            differences.append({"kind": text, "minus": other, **column([a["chosen"] - b["chosen"] for a, b in pairs])})
    unchosen = column([float(whole.values(row, judged, complete(row)).mean()) for row, judged in zip(swept, compared)])
    document = {"rows": swept, "compared": compared,
                "expected": {"kinds": kinds, "unchosen": unchosen, "agreement": agreement, "differences": differences}}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
