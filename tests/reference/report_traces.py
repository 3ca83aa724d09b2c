"""Writes the traces in tests/fixtures/report. The conversations are made up by hand. Rewards are the
weighted sums of the values; means and intervals are computed from them. Needs only Python's standard library.

    python3 tests/reference/report_traces.py tests/fixtures/report
"""

import json
import pathlib
import statistics
import sys

T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t, 97.5%, by degrees of freedom
DONE = "stop_signal"


def usage(prompt, reused, generated, seconds):
    return {"prompt_tokens": prompt, "reused_tokens": reused, "generated_tokens": generated, "seconds": seconds}


def summary(values):
    n = len(values)
    mean = statistics.fmean(values) if values else None
    error = statistics.stdev(values) / n**0.5 if n > 1 else None
    interval = [mean - T[n - 1] * error, mean + T[n - 1] * error] if n > 1 else None
    return mean, error, interval


def judged(value, answer_mass=0.97):
    """A judge's answer from logits: two answers, worth 1 and 0."""
    return {"value": value, "mass": answer_mass, "answers": [{"probabilities": [value, round(1 - value, 4)]}]}


class Trace:
    def __init__(self, name, time, conversation, candidates, goal, weights, **request):
        self.name, self.weights, self.candidates, self.rollouts = name, weights, candidates, []
        self.request = {
            "kind": "request", "schema": 1, "ranking": name, "time": time, "about": "made up for a test",
            "conversation": conversation, "candidates": candidates, "goal": goal,
            "metrics": [{"name": n, "kind": n, "weight": w} for n, w in weights.items()], **request,
        }

    def add(self, candidate, said, ended, metrics, reason=None, cost=None, **more):
        sample = sum(r["candidate"] == candidate for r in self.rollouts)
        messages = []
        for i, text in enumerate(said):
            message = {"role": "assistant" if i % 2 else "user", "content": text}
            message["tokens"] = [100 + k for k in range(len(text.split()) * 4 // 3)]
            messages.append(message)
        reward = None
        if metrics and reason is None:
            reward = sum(self.weights[n] * m["value"] for n, m in metrics.items())
        length = sum(len(t.split()) for t in said) * 4 // 3
        rollout = {
            "kind": "rollout", "ranking": self.name, "candidate": candidate, "sample": sample,
            "response": self.candidates[candidate], "messages": messages, "ended": ended,
            "seed": 9007199254740993 + 101 * sample, "reward": reward, "metrics": metrics,
            "cost": cost or {"policy": usage(540 + length, 470, length, 1.2), "user": usage(1439, 1180, 40, 0.9),
                             "judge": usage(992 + 2 * length, 850, 2, 0.4)}, **more,
        }
        if reason:
            rollout["reason"] = reason
        self.rollouts.append(rollout)

    def result(self, extra):
        ranked = []
        for c, text in enumerate(self.candidates):
            mine = [r for r in self.rollouts if r["candidate"] == c]
            good = [r for r in mine if r["reward"] is not None]
            mean, error, interval = summary([r["reward"] for r in good])
            metrics = {}
            for name, weight in self.weights.items():
                m, e, _ = summary([r["metrics"][name]["value"] for r in good])
                metrics[name] = {"mean": m, "std_error": e, "weight": weight}
                if name == "token_amount":
                    metrics[name]["saturated"] = sum(r["metrics"][name]["saturated"] for r in good) / max(len(good), 1)
                else:
                    masses = [r["metrics"][name]["mass"] for r in good if "mass" in r["metrics"][name]]
                    metrics[name]["mass"] = min(masses, default=None)
            ranked.append({
                "candidate": c, "response": text, "reward": mean, "std_error": error, "interval": interval,
                "metrics": metrics, "excluded": len(mine) - len(good), "cost": self.cost(mine),
                "rollouts": [{
                    "sample": r["sample"], "messages": r["messages"], "reward": r["reward"], "ended": r["ended"],
                    "metrics": {n: m["value"] for n, m in r["metrics"].items()}, "seed": r["seed"],
                    "counted": r["reward"] is not None, **({"reason": r["reason"]} if "reason" in r else {}),
                } for r in mine],
            })
            for rollout in ranked[-1]["rollouts"]:
                rollout["messages"] = [{"role": m["role"], "content": m["content"]} for m in rollout["messages"]]
        ranked.sort(key=lambda c: (c["reward"] is None, -(c["reward"] or 0)))
        best = ranked[0]
        for c in ranked:
            c["difference"] = None
            if c is not best and c["reward"] is not None:
                pairs = zip(best["rollouts"], c["rollouts"])
                gaps = [b["reward"] - a["reward"] for a, b in pairs if a["reward"] is not None and b["reward"] is not None]
                mean, error, interval = summary(gaps)
                c["difference"] = {"mean": mean, "std_error": error, "interval": interval}
            c["probability_best"] = extra["best"].get(c["candidate"])
        return {"kind": "ranking", "ranking": self.name, "result": {
            "schema": 1, "ranking": ranked, "cost": {**self.cost(self.rollouts), "seconds": extra["seconds"]},
            "models": {"policy": {"name": "small", "weights": "5f3c9a1e"}, "user": {"name": "larger", "weights": "b0a41c77"},
                       "judge": {"name": "larger", "weights": "b0a41c77"}},
            "bitwise": True, "complete": True,
            "allocation": {"strategy": self.request["allocation"], "rollouts": len(self.rollouts), "rounds": 1,
                           "stopped": None}}}

    @staticmethod
    def cost(rollouts):
        total = {}
        for role in ("policy", "user", "judge"):
            parts = [r["cost"][role] for r in rollouts]
            total[role] = {k: round(sum(p[k] for p in parts), 2) for k in parts[0]} if parts else usage(0, 0, 0, 0.0)
        return total


def poem():
    dog = "My dog Bruno died last week. He was thirteen and mad about the sea."
    trace = Trace(
        "poem-0001", "2026-11-25T15:00:00Z", [{"role": "user", "content": "Can you write me a poem?"}],
        ["Gladly! What should it be about, and is it for somebody in particular?",
         "Roses are red, violets are blue,\nthe sun in the morning is smiling at you.\nThe evening comes softly, the stars "
         "come out too,\nand all of them whisper: this poem's for you.",
         "What do you mean by a poem?"],
        {"task": "writing a short text together with the user",
         "prompt": "A poem of two stanzas about my late dog Bruno, who loved the sea. Sad but not heavy; no religion."},
        {"helpfulness": 1.0, "interactivity": 1.0, "token_amount": 1.0}, window=2, samples=4, seed=7, allocation="fixed")

    def values(helpful, active, tokens):
        return {"helpfulness": judged(helpful), "interactivity": judged(active, 0.91),
                "token_amount": {"value": -tokens, "saturated": False}}

    first = "I'm sorry about Bruno. Shall it be sad, or rather a fond memory? Should it rhyme?"
    trace.add(0, [dog, first, "a fond memory. rhyme is nice but no must",
                  "He ran where the waves come in white and low,\nand barked at each one as it turned to go.\n\nThe beach is "
                  "still there, and the tide, and the foam;\nsome evenings the wind brings the sound of him home."], "window",
              values(0.93, 0.88, 0.031))
    trace.add(0, [dog, first, "sad but not heavy, and nothing about heaven please",
                  "Your lead hangs still beside the door,\nthere's sand yet on the kitchen floor.\n\nI sweep it slowly, leave "
                  "a grain:\nthe sea was here, and comes again."], "window", values(0.95, 0.9, 0.034))
    trace.add(0, [dog, "Here is a poem about a dog and the sea:\n\nBruno, Bruno, good old friend,\nall good things must "
                  "have an end.", "thats a bit short, and rather blunt. never mind, thanks"], DONE, values(0.52, 0.35, 0.022))
    trace.add(0, ["about my dog", "What is your dog like? And what is the occasion?",
                  "he's dead. he liked the sea",
                  "I am sorry to hear that. He must have been good company on the beach. Would two short stanzas be right, "
                  "and may they be a little sad?"], "window", values(0.71, 0.95, 0.028))
    no = "no, it's about my dog Bruno. he died"
    sorry = "I am sorry. Here is another:\n\nBruno ran along the shore,\nBruno runs the shore no more."
    trace.add(1, [no, sorry, "better. can it have the sea in it, and be longer?",
                  "Bruno ran along the shore,\nand the waves ran with him, roar on roar.\nNow the water comes alone\nand "
                  "turns, and turns, a rounded stone."], "window", values(0.74, 0.3, 0.036))
    trace.add(1, [no, sorry, "ok thanks"], DONE, values(0.49, 0.21, 0.02))
    trace.add(1, [no, sorry, "I see, as an assistant I can help you write a longer poem about Bruno."], "failed", {},
              reason="the simulated user spoke as the assistant would", role_confusion=True)
    trace.add(1, ["nice, thx"], DONE, values(0.4, 0.15, 0.012))
    trace.add(2, ["a poem. like, with lines", "What lines would you like?", "forget it"], DONE, values(0.08, 0.3, 0.011))
    trace.add(2, ["??", "Could you explain what you need?", "a poem about my dog who died",
                  "A poem is a text in verse. What would you like to know about it?"], "length", values(0.06, 0.36, 0.018))
    trace.add(2, ["a poem. like, with lines", "Do you mean a sonnet, a ballad, or free verse?", "free verse I guess",
                  "Very well. And what is it about?"], "window", values(0.33, 0.72, 0.019))
    trace.add(2, ["a text that rhymes", "I see."], "context", values(0.11, 0.12, 0.006))
    return trace


def maths():
    trace = Trace(
        "maths-0002", "2026-11-25T15:00:02Z",
        [{"role": "user", "content": "how many ways are there to seat people at a round table"},
         {"role": "assistant", "content": "That depends on how many people there are, and on whether reflections count as "
                                          "different. What does your exercise say?"},
         {"role": "user", "content": "6 people, but two of them wont sit next to each other"}],
        ["Seat the other four first: around a circle that is 3! = 6 ways. They leave four gaps; the two who keep apart take "
         "two different ones, in order: 4 · 3 = 12. So 6 · 12 = 72.",
         "There are 6! = 720 ways in all, less the 2 · 5! = 240 where the two are neighbours: 480."],
        {"task": "solving a problem of combinatorics", "prompt": "In how many ways can six people sit around a round table "
         "if two of them refuse to sit side by side? Rotations are the same.", "reference": "72"},
        {"accuracy": 1.0, "token_amount": 0.5}, window=1, samples=3, seed=18446744073709551615, allocation="fixed")

    def values(right, answer, tokens, clamped=False):
        words = "The final answer matches the reference." if right else "The reference is 72; the answer differs."
        return {"accuracy": {"value": float(right), "extracted": answer, "answers": [
            {"text": json.dumps({"thought": words, "accuracy": int(right)}), "finish": "stop"}]},
                "token_amount": {"value": -tokens, "saturated": clamped}}

    trace.add(0, ["why 3! and not 4! for the four?", "Because turning the table changes nothing: fix one of the four, and "
                  "order the other three. So 72 stands."], "window", values(True, "72", 0.12))
    trace.add(0, ["ok makes sense, so 72"], DONE, values(True, "72", 0.08))
    trace.add(0, ["and if it was a bench?", "On a bench: 6! − 2 · 5! = 480."], "window", values(True, "72; on a bench 480", 0.11))
    trace.add(1, ["but its a round table", "You are right: 5! − 2 · 4! = 120 − 48 = 72."], "window", values(True, "72", 0.09))
    trace.add(1, ["thanks!"], DONE, values(False, "480", 0.06))
    trace.add(1, ["are you sure? " + "my friend says its 72. " * 40, "Yes: " + "720 less 240 is 480. " * 40], "length",
              values(False, "480", 1.0, True))
    return trace


def realistic():
    one, two = poem(), maths()
    two.rollouts[3]["messages"][1]["retokenized_differs"] = True
    lines = [one.request, two.request]
    for i in range(max(len(one.rollouts), len(two.rollouts))):  # Two rankings at once, as in training.
        lines += [r for trace in (one, two) for r in trace.rollouts[i : i + 1]]
    lines.append(one.result({"seconds": 9.4, "best": {0: 0.93, 1: 0.07, 2: 0.0}}))
    lines.append(two.result({"seconds": 4.1, "best": {0: 0.88, 1: 0.12}}))
    # A third was under way when the process was killed.
    third = dict(one.request, ranking="poem-0003", time="2026-11-25T15:00:11Z", seed=8)
    lines += [third] + [dict(r, ranking="poem-0003") for r in one.rollouts if r["candidate"] < 2 and r["sample"] < 2]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return text + json.dumps(dict(one.rollouts[8], ranking="poem-0003"), ensure_ascii=False)[:400]


def hostile():
    bad = [
        "</script><script>window.pwned = 1</script>",
        "<!-- <script> --!> ]]> <![CDATA[",
        "<img src=x onerror=\"window.pwned = 2\"><svg onload='window.pwned = 3'>",
        "\u202egnp.exe\u202c \u2066isolated\u2069 \u200fright to left\u200f \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
        "NUL \u0000, escape \u001b[31m, bell \u0007, delete \u007f, next line \u0085, separators \u2028 and \u2029",
        "W" * 300,
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 " + "Z\u0351\u036b\u0343" * 40,
        "javascript:window.pwned=4 &lt;b&gt; &amp; ${window.pwned=5} {{script}} {{data}} `",
        "' onfocus='window.pwned=6' autofocus x=\" style=\"position:fixed\"",
    ]
    names = ["__proto__", "constructor", "</script><img src=x onerror=window.pwned=7>", "toString"]
    ranking = "\"><script>window.pwned=8</script>"
    lines = [{
        "kind": "request", "ranking": ranking, "time": bad[0], "schema": 1, "allocation": {"strategy": bad[2]},
        "conversation": [{"role": text, "content": text} for text in bad], "candidates": bad,
        "goal": {name: text for name, text in zip(["task", bad[0], "tests", "__proto__"], bad)}, "window": 2**64 - 1,
        "metrics": [{"name": name, "kind": bad[1], "weight": 1e308} for name in names],
    }]
    for i, text in enumerate(bad):
        for sample in range(3):
            lines.append({
                "kind": "rollout", "ranking": ranking, "candidate": i, "sample": sample, "response": text,
                "messages": [{"role": "user", "content": text, "finish": text}, {"role": text, "content": bad[sample]}],
                "ended": "__proto__" if sample else text, "seed": 2**64 - 1, "reward": [None, 1e308, -1e308][sample],
                "reason": text if sample == 0 else None, "role_confusion": True,
                "metrics": {name: {"value": 1e308, "mass": -1e308, "extracted": text, "error": text, "answers": [
                    {"text": text, "finish": text}, {"probabilities": [2, -1]}, {"probabilities": [text]}, text, None, 7,
                    {"__proto__": text}, [[]]]} for name in names[: 1 if sample else 4]},
                "cost": {"policy": usage(2**64 - 1, 2**64 - 1, 0, 1e308), "user": {"prompt_tokens": 0}},
            })
    lines.append({"kind": "request", "ranking": "constructor", "conversation": [{"role": "user", "content": bad[3]}]})
    lines.append({"kind": "ranking", "ranking": "__proto__", "result": {
        "ranking": [{"candidate": 2**64 - 1, "response": None, "reward": 1e308, "interval": [-1e308, 1e308], "note": bad[0],
                     "rollouts": [{"sample": 0, "ended": None, "metrics": {"toString": 1}}], "probability_best": 2}],
        "models": {bad[0]: {"name": bad[0]}}, "allocation": {"stopped": bad[0]}}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    # Lines that can't be read: their complaints quote what was there.
    return text + json.dumps({"kind": bad[0]}) + "\n" + json.dumps({"kind": "rollout", "ranking": "x", "sample": bad[0]}) + "\n"


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "poem_and_maths.jsonl").write_text(realistic(), encoding="utf-8")
    (folder / "hostile.jsonl").write_text(hostile(), encoding="utf-8")
