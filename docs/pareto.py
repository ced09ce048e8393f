"""Draws ``docs/quality.svg`` and prints the tables of docs/choosing.md from the rows of ``benchmarks/quality.py``.

pip install -c constraints.txt -e '.[bench]' && python docs/pareto.py
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib import ticker

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "benchmarks" / "rows" / "quality.jsonl"
TEXTS = {"factbook-heldout": "Factbook, held out", "persuasion": "Persuasion"}
TASKS = ("cloze", "choice")
PRESETS = ("fast", "sparsegpt", "balanced", "best")
_BESIDE = {"fast": (-20, -13), "sparsegpt": (6, 4), "balanced": (-30, -13), "best": (2, 6)}
"""Where a preset's name stands, in points from its place in the plot."""
SETTING = ("sparsity", "seed", "samples", "seqlen")
SIZE = (64, 256)
"""Windows and tokens of a window; rows of other sizes are in no table."""
BASELINE = "sparsegpt"
DENSE = "dense model"


def main() -> None:
    """Tables to the terminal, the plot to its file."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    runs = [row for row in rows if (row.get("samples"), row.get("seqlen")) == SIZE]
    print(presets_table(runs))
    dense = next((row for row in rows if row["name"] == DENSE), None)
    for sparsity in sorted({row["sparsity"] for row in runs}):
        first = [row for row in runs if row["sparsity"] == sparsity and row["seed"] == 0]
        print(f"{sparsity}:\n")
        print(methods_table([row for row in first if not changed(row["name"])], dense))
        variants = [row for row in first if changed(row["name"])]
        print(methods_table(variants, None) if variants else "")
    draw(runs)


def changed(name: str) -> bool:
    """Whether it is a preset with one choice changed."""
    return name.startswith(("balanced, ", "best, "))


def presets_table(runs: list[dict[str, Any]]) -> str:
    """How much of SparseGPT's gap each preset closes, with the range over seeds."""
    base = {tuple(row[key] for key in SETTING): row for row in runs if row["name"] == BASELINE}
    closed: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in runs:
        other = base.get(tuple(row[key] for key in SETTING))
        if other is not None and row["name"] in ("balanced", "best"):
            for text in TEXTS:
                closed[row["sparsity"], row["name"], text].append(1 - row[text]["gap"] / other[text]["gap"])
    lines = [
        "| sparsity | " + " | ".join(f"{name}, {label}" for name in ("balanced", "best") for label in TEXTS.values()) + " |"
    ]
    lines.append("|" + "---|" * 5)
    for sparsity in sorted({key[0] for key in closed}):
        cells = [spread(closed[sparsity, name, text]) for name in ("balanced", "best") for text in TEXTS]
        lines.append(f"| {sparsity} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and range in per cent."""
    if not values:
        return ""
    mean = sum(values) / len(values)
    return f"{mean:.0%} ({min(values):.0%} to {max(values):.0%})" if len(values) > 1 else f"{mean:.0%}"


def methods_table(found: list[dict[str, Any]], dense: dict[str, Any] | None) -> str:
    """Time, memory, perplexity, KL, and zero-shot accuracy where asked, row by row."""
    tasks = TASKS if any("zero_shot" in row for row in found) else ()
    heads = ["method", "time", "peak", *(f"{label}: perplexity, KL" for label in TEXTS.values()), *tasks]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    if dense is not None:
        cells = [f"{found[0][text]['dense']:.1f}, 0" for text in TEXTS]
        lines.append("| dense | | | " + " | ".join([*cells, *shares(dense, tasks)]) + " |")
    for row in sorted(found, key=lambda row: -row["factbook-heldout"]["kl"]):
        cells = [f"{row[text]['perplexity']:.1f}, {row[text]['kl']:.2f}" for text in TEXTS]
        cost = f"{row['seconds']:.0f} s | {row['peak_bytes'] / 1e9:.2f} GB"
        lines.append(f"| {row['name']} | {cost} | " + " | ".join([*cells, *shares(row, tasks)]) + " |")
    return "\n".join(lines) + "\n"


def shares(row: dict[str, Any], tasks: tuple[str, ...]) -> list[str]:
    """Zero-shot accuracies in per cent, of a kind of task the mean over both texts and its standard error."""
    scores = row.get("zero_shot")
    if scores is None:
        return [""] * len(tasks)
    cells = []
    for task in tasks:
        found = [scores[f"{text}_{task}"] for text in TEXTS]
        mean = sum(one["accuracy"] for one in found) / len(found)
        error = sum(one["stderr"] ** 2 for one in found) ** 0.5 / len(found)
        cells.append(f"{mean:.0%} ± {error:.0%}")
    return cells


def draw(runs: list[dict[str, Any]]) -> None:
    """Gap against time, a panel a sparsity: methods as points, presets by name, joined along the front."""
    mpl.rcParams["svg.hashsalt"] = "prunus"  # the same rows give the same bytes
    mpl.rcParams["svg.fonttype"] = "none"
    sparsities = sorted({row["sparsity"] for row in runs})
    size = (3.4 * len(sparsities), 6)
    figure, axes = plt.subplots(len(TEXTS), len(sparsities), figsize=size, squeeze=False, sharex=True)
    for line, (text, label) in zip(axes, TEXTS.items(), strict=True):
        for axis, sparsity in zip(line, sparsities, strict=True):
            panel(axis, [row for row in runs if row["sparsity"] == sparsity], text)
        line[0].set_ylabel(f"log(perplexity) above dense\n{label}")
    for axis, sparsity in zip(axes[0], sparsities, strict=True):
        axis.set_title(sparsity if ":" in sparsity else f"{float(sparsity):.0%}")
    for axis in axes[-1]:
        axis.set_xlabel("seconds to the written checkpoint")
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "quality.svg", metadata={"Date": None})


def panel(axis: Any, runs: list[dict[str, Any]], text: str) -> None:
    """All methods at one sparsity, judged on one text."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in runs:
        groups[row["name"]].append(row)
    points = {name: point(found, text) for name, found in groups.items()}
    others = [place for name, place in points.items() if name not in PRESETS]
    axis.scatter(*zip(*others, strict=True), color="0.7", s=14) if others else None
    for name in (name for name in PRESETS if name in points):
        axis.scatter(*points[name], s=36, zorder=3, color=f"C{PRESETS.index(name)}")
        axis.annotate(name, points[name], textcoords="offset points", xytext=_BESIDE[name], fontsize=9)
    front = pareto(list(points.values()))
    axis.plot(*zip(*front, strict=True), color="0.5", linewidth=1, zorder=1)
    axis.set_xscale("log")
    axis.set_yscale("log")  # what part of a gap is closed is the same distance everywhere
    for line, places in (
        (axis.xaxis, [10, 30, 100, 300, 1000]),
        (axis.yaxis, [0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 4]),
    ):
        line.set_major_locator(ticker.FixedLocator(places))
        line.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        line.set_minor_locator(ticker.NullLocator())
    axis.margins(x=0.25, y=0.2)


def point(found: list[dict[str, Any]], text: str) -> tuple[float, float]:
    """Geometric mean of the seconds and mean gap over seeds."""
    seconds = math.exp(sum(math.log(row["seconds"]) for row in found) / len(found))
    return seconds, sum(row[text]["gap"] for row in found) / len(found)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other is both faster and better than."""
    front: list[tuple[float, float]] = []
    for place in sorted(points):
        if not front or place[1] < front[-1][1]:
            front.append(place)
    return front


if __name__ == "__main__":
    main()
