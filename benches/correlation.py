"""Do common random numbers correlate the futures of real models?

Ranks each request of examples/requests with many samples, once with sample k of every candidate on the same random stream and
once with streams of their own, and prints the mean correlation of the candidates' rewards over the samples, metric by
metric. The number of rollouts that pairing saves follows: a difference of two means has (1 - correlation) of the variance.

    make quantized && python3 benches/correlation.py [--samples 48] [--model target/models/smollm2-135m-instruct-int8]
    [--write benches/results/correlation.json]
"""

import argparse
import itertools
import json
import math
import pathlib
import random
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = """
[models.model]
path = {model}
[rollout]
window = 1
samples = {samples}
max_user_tokens = 48
max_policy_tokens = 96
common_random_numbers = {common}
[[metrics]]
kind = "helpfulness"
[[metrics]]
kind = "interactivity"
[[metrics]]
kind = "token_amount"
"""


def rank(request, common, args):
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "foreturn.toml"
        text = SETTINGS.format(model=json.dumps(str(args.model.resolve())), samples=args.samples, common=str(common).lower())
        config.write_text(text)
        command = [ROOT / "target/release/foreturn", "rank", "--config", config, "--request", request, "--json"]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def columns(ranking):
    """By quantity, a row of values by sample for each candidate; lost rollouts are None."""
    found = {}
    for candidate in sorted(ranking["ranking"], key=lambda candidate: candidate["candidate"]):
        for name in ["reward", *candidate["metrics"]]:
            of = lambda rollout: rollout["reward"] if name == "reward" else rollout["metrics"][name]
            found.setdefault(name, []).append([of(rollout) for rollout in candidate["rollouts"]])
    return found


def correlations(rows, samples):
    """The correlation of each two candidates over these samples."""
    for a, b in itertools.combinations(rows, 2):
        pairs = [(a[at], b[at]) for at in samples if a[at] is not None and b[at] is not None]
        if len(pairs) > 2 and len(set(x for x, _ in pairs)) > 1 and len(set(y for _, y in pairs)) > 1:
            yield statistics.correlation([x for x, _ in pairs], [y for _, y in pairs])


def estimate(tables, name, samples):
    """Mean correlation over requests and pairs of candidates, and its bootstrap error over samples."""
    def mean(draw):
        found = [value for table in tables for value in correlations(table[name], draw)]
        return statistics.mean(found) if found else math.nan
    generator = random.Random(7)
    draws = [mean(generator.choices(range(samples), k=samples)) for _ in range(200)]
    return {"correlation": round(mean(range(samples)), 3), "std_error": round(statistics.stdev(draws), 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "target/models/smollm2-135m-instruct-int8")
    parser.add_argument("--write", type=pathlib.Path)
    args = parser.parse_args()
    requests = sorted((ROOT / "examples/requests").glob("*.json"))
    result = {"model": args.model.name, "samples": args.samples, "requests": [path.name for path in requests]}
    for key, common in [("common", True), ("own", False)]:
        tables = [columns(rank(request, common, args)) for request in requests]
        result[key] = {name: estimate(tables, name, args.samples) for name in tables[0]}
        for name, found in result[key].items():
            print(f"{key:7} {name:14} {found['correlation']:6.3f} +- {found['std_error']:.3f}")
    if args.write:
        args.write.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
