"""Draws docs/allocation/*.svg and prints the tables of docs/allocation.md from docs/data/allocation.json.

    python3 docs/plots/allocation.py

Needs nothing but Python's standard library.
"""

import json
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
INK, FAINT = "#222222", "#d8d8d8"
COLOURS = ["#7a7a7a", "#c46a1b", "#1f6fb4", "#2e8b57"]
NAMES = {"fixed": "fixed", "sequential_halving": "sequential_halving", "stop_when_sure": "stop_when_sure"}


class Svg:
    """A drawing that grows by shapes."""

    def __init__(self, width, height):
        self.width, self.height, self.parts = width, height, []

    def text(self, x, y, text, anchor="start", size=13, colour=INK, extra=""):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}" {extra}>{text}</text>'
        )

    def line(self, x1, y1, x2, y2, colour=INK, width=1, extra=""):
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}" {extra}/>'
        )

    def box(self, x, y, width, height, colour, extra=""):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" {extra}/>'
        )

    def dot(self, x, y, radius, colour):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}"/>')

    def write(self, name):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="Helvetica, Arial, sans-serif">'
        )
        background = f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>'
        path = DOCS / "allocation" / name
        path.write_text("\n".join([head, background, *self.parts, "</svg>"]) + "\n")


def legend(svg, x, y, entries):
    for colour, text in entries:
        svg.box(x, y - 10, 12, 12, colour)
        svg.text(x + 18, y, text)
        x += 18 + 7.2 * len(text) + 26


def needs(data):
    """Bars: rollouts for a 90% chance of finding the best."""
    svg = Svg(760, 330)
    svg.text(20, 26, "Rollouts for a 90% chance of finding the best of eight", size=16)
    legend(svg, 20, 52, list(zip(COLOURS, NAMES.values())))
    for panel, world in enumerate(["one good", "ladder"]):
        rows = [row for row in data["rows"] if row["world"] == world]
        left, top, width, height = 62 + 378 * panel, 96, 300, 170
        highest = max(row["fixed"] for row in rows)
        step = 50 if highest < 500 else 1000
        scale = height / (step * -(-highest // step))
        title = "one good, seven equal (gap 0.316)" if world == "one good" else "evenly spaced (gaps of 0.045)"
        svg.text(left, top - 12, title)
        for tick in range(0, step * -(-highest // step) + 1, step):
            y = top + height - tick * scale
            svg.line(left, y, left + width, y, FAINT)
            svg.text(left - 8, y + 4, f"{tick:,}", "end", 12)
        for group, row in enumerate(rows):
            values = [row["fixed"], row["sequential_halving"], row["stop_when_sure"]["rollouts"]]
            for bar, value in enumerate(values):
                if value is None:
                    continue
                x = left + 12 + group * 100 + bar * 27
                svg.box(x, top + height - value * scale, 24, value * scale, COLOURS[bar])
                svg.text(x + 12, top + height - value * scale - 4, f"{value:,.0f}", "middle", 10)
            svg.text(left + 12 + group * 100 + 39, top + height + 18, f"ρ = {row['rho']}", "middle", 12)
        svg.line(left, top + height, left + width, top + height)
    svg.text(380, 316, "ρ: correlation of two candidates' rewards of one sample (common random numbers)", "middle", 12)
    svg.write("needs.svg")


def calibration(data):
    """Dots: how often the leader is the best, by the probability that was said."""
    svg = Svg(760, 350)
    svg.text(20, 26, "How often the leader is the best, by the probability given", size=16)
    legend(svg, 20, 52, list(zip(COLOURS[:3], ["fixed, S = 3", "fixed, S = 10", "stop_when_sure, at most 96"])))
    panels = [("normal", "normal noise"), ("skewed", "skewed noise"), ("twopoint", "0/1 rewards")]
    for panel, (noise, title) in enumerate(panels):
        left, top, side = 58 + 238 * panel, 90, 200
        svg.text(left, top - 10, title)
        for tick in (0, 0.25, 0.5, 0.75, 1):
            y, x = top + side * (1 - tick), left + side * tick
            svg.line(left, y, left + side, y, FAINT)
            svg.text(x, top + side + 17, f"{tick:g}", "middle", 11)
            svg.text(left - 6, y + 4, f"{tick:g}", "end", 11)
        svg.line(left, top + side, left + side, top, INK, 1, 'stroke-dasharray="4 4"')
        rows = [row for row in data["rows"] if row["noise"] == noise]
        for colour, row in zip(COLOURS, rows):
            for found in (one for one in row["bins"] if one["rankings"] >= 20):
                x, y, share = left + side * found["said"], top + side * (1 - found["was"]), found["was"]
                error = 1.96 * (share * (1 - share) / found["rankings"]) ** 0.5 * side
                svg.line(x, max(y - error, top), x, min(y + error, top + side), colour, 1.5)
                svg.dot(x, y, 4, colour)
    svg.text(380, 336, "probability given (bars: 95% of the simulation's own error)", "middle", 12)
    svg.write("calibration.svg")


def coverage(data):
    """Dots: coverage of each kind of interval under normal noise."""
    rows = [row for row in data["rows"] if row["noise"] == "normal" and row["world"] not in ("five", "twelve")]
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    kinds = [
        ("means", "means of candidates"), ("difference_to_true_best", "differences to the true best"),
        ("lead", "leads of the leader"), ("lead_without_widening", "the same, not widened"),
    ]
    svg = Svg(760, 130 + 26 * len(strategies))
    svg.text(20, 26, "Coverage of 95% intervals, normal noise (a dot for each world and correlation)", size=16)
    top, bottom = 78, 78 + 26 * len(strategies)
    for panel, (kind, title) in enumerate(kinds):
        left, width = 172 + 148 * panel, 128
        place = lambda value: left + width * (min(max(value, 0.85), 1) - 0.85) / 0.15
        svg.text(left + width / 2, top - 18, title, "middle", 11)
        svg.box(place(0.93), top - 8, place(0.97) - place(0.93), bottom - top + 8, "#e4f0e4")
        svg.line(place(0.95), top - 8, place(0.95), bottom, "#7fb07f")
        for tick in (0.9, 0.95, 1):
            svg.text(place(tick), bottom + 16, f"{tick:g}", "middle", 11)
        for at, strategy in enumerate(strategies):
            y = top + 13 + 26 * at
            svg.line(left, y, left + width, y, FAINT)
            for row in (row for row in rows if row["strategy"] == strategy):
                svg.dot(place(row[kind]), y, 3.5, COLOURS[2] if row["rho"] else COLOURS[1])
    for at, strategy in enumerate(strategies):
        svg.text(20, top + 17 + 26 * at, strategy.replace("fixed ", "fixed, S = "), size=12)
    legend(svg, 172, bottom + 40, [(COLOURS[1], "independent"), (COLOURS[2], "paired, ρ = 0.6")])
    svg.text(470, bottom + 40, "green: 93% to 97%", size=12)
    svg.write("coverage.svg")


def tables(data):
    """The tables of docs/allocation.md."""
    print("| candidates | ρ | fixed | sequential_halving | times fewer | stop_when_sure (mean) | times fewer |")
    print("|---|---|---|---|---|---|---|")
    for row in data["needs"]["rows"]:
        cells = [row["world"], row["rho"], f"{row['fixed']:,}"]
        for need in (row["sequential_halving"], row["stop_when_sure"]["rollouts"]):
            cells += ["not reached", ""] if need is None else [f"{need:,.0f}", f"{row['fixed'] / need:.1f}"]
        print("| " + " | ".join(map(str, cells)) + " |")
    keys = ["means", "difference_to_true_best", "lead", "lead_without_widening", "mean_of_leader"]
    print("\n| noise | strategy | random numbers | means | difference to the true best | lead | lead, not widened | mean of the leader |")
    print("|---|---|---|---|---|---|---|---|")
    groups = {}
    for row in data["coverage"]["rows"]:
        noise = "normal, held out" if row["world"] in ("five", "twelve") else row["noise"]
        groups.setdefault((noise, row["strategy"], "common" if row["rho"] else "independent"), []).append(row)
    for group, rows in groups.items():
        lows, highs = ([f"{100 * pick(row[key] for row in rows):.1f}" for key in keys] for pick in (min, max))
        cells = [low if low == high else f"{low} to {high}" for low, high in zip(lows, highs)]
        print("| " + " | ".join([*group, *cells]) + " |")
    print("\n| noise | strategy | " + " | ".join(["0.45 to 0.55", "0.65 to 0.75", "0.75 to 0.85", "0.85 to 0.95", "above 0.95"]) + " |")
    print("|---|---|---|---|---|---|---|")
    for row in data["calibration"]["rows"]:
        found = {one["from"]: f"{one['was']:.2f} ({one['rankings']})" for one in row["bins"]}
        cells = [found.get(edge, "") for edge in (0.45, 0.65, 0.75, 0.85, 0.95)]
        print("| " + " | ".join([row["noise"], row["strategy"], *cells]) + " |")


def main():
    data = json.loads((DOCS / "data" / "allocation.json").read_text())
    needs(data["needs"])
    calibration(data["calibration"])
    coverage(data["coverage"])
    tables(data)


if __name__ == "__main__":
    main()
