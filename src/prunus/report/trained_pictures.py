"""The pictures of a training recipe: score against sparsity, and over epochs."""

from __future__ import annotations

import io
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

INK, GRID = "#7d8590", "#8c959f"
"""Greys that can be read on white and on black."""
COLOURS = ("#2f81f7", "#e3742f", "#2da44e", "#e5534b", "#a371f7", "#b08800", "#db61a2", "#1b9e9e")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", ":", "-.")
"""Of curves that have one colour."""
_MANY = 8
"""Names of more curves stand beside a picture, not in it."""


def accuracy_svg(record: Mapping[str, Any]) -> str:
    """The score of every run against its sparsity, runs of a series joined, the spread over seeds as bars, the first run as
    a line across."""
    canvas, axes = figure()
    first, *rows = record["rows"]
    axes.axhline(first["score"], linestyle="--", linewidth=1.2, color=INK, label=legend(first["run"]))
    series: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        series[row["series"]].append(row)
    colours = _colours(record)
    for number, (name, members) in enumerate(series.items()):
        members = sorted(members, key=lambda row: row["sparsity"])
        axes.errorbar(
            [100 * row["sparsity"] for row in members], [row["score"] for row in members],
            yerr=[row["score_spread"] or 0 for row in members], label=legend(name), markersize=5, linewidth=1.6, capsize=3,
            color=colours[name], marker=MARKERS[number % len(MARKERS)],
        )  # fmt: skip
    axes.set_xlabel("zeros among weights, %", color=INK)
    axes.set_ylabel(score_label(record), color=INK)
    return drawn(canvas, axes, f"{record['model']} on {record['data']}")


def training_svg(record: Mapping[str, Any]) -> str:
    """The score on test examples behind every epoch, of runs that were trained: the mean over seeds, and its spread, in the
    colours of :func:`accuracy_svg`."""
    canvas, axes = figure()
    colours, met = _colours(record), Counter[str]()
    for row in record["rows"]:
        curves = [[epoch["test_score"] for epoch in result["history"]]
                  for result in record["results"] if result["run"] == row["run"]]  # fmt: skip
        if not curves[0]:
            continue
        epochs = list(range(1, len(curves[0]) + 1))
        middle = [mean(values) for values in zip(*curves, strict=True)]
        first = row is record["rows"][0]
        colour = INK if first else colours[row["series"]]
        dashes = "-" if first else DASHES[met[row["series"]] % len(DASHES)]
        met[row["series"]] += not first
        axes.plot(epochs, middle, dashes, label=legend(row["run"]), color=colour, linewidth=1.6, marker="o", markersize=3)
        if len(curves) > 1:
            around = [stdev(values) for values in zip(*curves, strict=True)]
            low, high = _around(middle, around)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.set_xlabel("epoch", color=INK)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(score_label(record), color=INK)
    return drawn(canvas, axes, f"{record['model']} on {record['data']}")


def _colours(record: Mapping[str, Any]) -> dict[str, str]:
    """A colour for each series, of all runs but the first."""
    series = dict.fromkeys(row["series"] for row in record["rows"][1:])
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(series)}


def _around(middle: Sequence[float], around: Sequence[float]) -> tuple[list[float], list[float]]:
    low = [value - spread for value, spread in zip(middle, around, strict=True)]
    high = [value + spread for value, spread in zip(middle, around, strict=True)]
    return low, high


def legend(name: str) -> str:
    """A name as a legend shows it: as it is, no formula in it, and not left out where it begins with ``_``."""
    plain = "".join(sign for sign in " ".join(name.split()) if sign.isprintable()).replace("$", "\\$")
    return f" {plain}" if plain.startswith("_") else plain


def score_label(record: Mapping[str, Any]) -> str:
    """What the scores of a record are."""
    return "test perplexity" if record["metric"] == "perplexity" else "test accuracy, %"


def figure() -> tuple[Any, Any]:
    """An empty picture and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    return figure, figure.add_subplot()


def drawn(canvas: Any, axes: Any, title: str) -> str:
    """The picture as SVG without a background, in colours that can be read on white and on black."""
    from matplotlib import rc_context

    axes.set_title(title, parse_math=False, fontsize="medium", color=INK, wrap=True)
    axes.grid(alpha=0.35, color=GRID, linewidth=0.6)
    axes.tick_params(colors=INK)
    for side in axes.spines.values():
        side.set_color(GRID)
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > _MANY:
        canvas.legend(handles, labels, loc="outside right upper", framealpha=0, labelcolor=INK, fontsize="small")
    elif handles:
        axes.legend(framealpha=0, labelcolor=INK, fontsize="small")
    written = io.StringIO()
    # the same picture has the same bytes, and letters of any script
    with rc_context({"svg.hashsalt": "prunus", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of the font that room is measured with
        canvas.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
    return written.getvalue()
