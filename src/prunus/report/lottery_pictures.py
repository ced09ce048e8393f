"""The pictures of a search for lottery tickets: how good, how fast learnt, how stable, by weights left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import mean
from typing import Any

from .trained_pictures import COLOURS, INK, MARKERS, drawn, figure, score_label

_STYLES = {"ticket": 0, "random-reinit": 1, "random-mask": 2, "ticket-again": 4}


def accuracy_svg(record: Mapping[str, Any]) -> str:
    """The score of tickets and controls by weights left, the spread over seeds as bars, the dense network as a line."""
    dense = next(row for row in record["rows"] if row["kind"] == "dense")
    return _by_weights_left(record, "score", "score_spread", score_label(record), dense["score"])


def speed_svg(record: Mapping[str, Any]) -> str:
    """Behind how many steps the test loss was lowest: how fast networks learn."""
    dense = next(row for row in record["rows"] if row["kind"] == "dense")
    label = "steps to the lowest test loss"
    return _by_weights_left(record, "early_step", "early_step_spread", label, dense["early_step"])


def stability_svg(record: Mapping[str, Any]) -> str:
    """The barrier between two trainings of each ticket."""
    unit = "nats" if record["metric"] == "perplexity" else "points of error"
    return _by_weights_left(record, "barrier", "barrier_spread", f"barrier, {unit}", 0.0)


def learning_svg(record: Mapping[str, Any]) -> str:
    """The score over the steps of training, of the dense network, of a few levels' tickets and reinitialised controls."""
    canvas, axes = figure()
    levels = sorted({row["level"] for row in record["rows"] if row["kind"] == "random-reinit"} or
                    {row["level"] for row in record["rows"] if row["kind"] == "ticket"})  # fmt: skip
    shown = levels[:: max(1, len(levels) // 3)][-3:]
    for number, level in enumerate((0, *shown)):
        for kind, line in (("dense", "-"), ("ticket", "-"), ("random-reinit", ":")):
            curves = _curves(record, level, kind)
            if curves:
                left = 1 - next(row for row in record["rows"] if (row["level"], row["kind"]) == (level, kind))["sparsity"]
                steps = [look["step"] for look in curves[0]]
                scores = [mean(curve[k]["test_score"] for curve in curves) for k in range(len(steps))]
                axes.plot(steps, scores, line, color=COLOURS[number], linewidth=1.6, label=f"{kind}, {left:.1%} left")
    axes.set_xlabel("steps", color=INK)
    axes.set_ylabel(score_label(record), color=INK)
    return drawn(canvas, axes, _title(record))


def _curves(record: Mapping[str, Any], level: int, kind: str) -> list[list[Mapping[str, Any]]]:
    """The looks of every seed."""
    return [
        [look for epoch in result["history"] for look in epoch["looks"]]
        for result in record["results"]
        if (result["level"], result["kind"]) == (level, kind)
    ]


def _by_weights_left(record: Mapping[str, Any], value: str, spread: str, label: str, across: float) -> str:
    canvas, axes = figure()
    axes.axhline(across, linestyle="--", linewidth=1.2, color=INK, label="dense" if value != "barrier" else None)
    for kind, number in _STYLES.items():
        rows = [row for row in record["rows"] if row["kind"] == kind and row[value] is not None]
        if kind == "ticket-again" and value != "barrier":
            continue
        if rows:
            axes.errorbar(
                [100 * (1 - row["sparsity"]) for row in rows], [row[value] for row in rows],
                yerr=[row[spread] or 0 for row in rows], label=kind if value != "barrier" else "ticket", markersize=5,
                linewidth=1.6, capsize=3, color=COLOURS[number], marker=MARKERS[number],
            )  # fmt: skip
    axes.set_xscale("log")
    ticks = [share for share in (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1) if share >= _least(record) * 0.7]
    axes.set_xticks(ticks, [f"{share:g}" for share in ticks])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("weights left, %", color=INK)
    axes.set_ylabel(label, color=INK)
    return drawn(canvas, axes, _title(record))


def _least(record: Mapping[str, Any]) -> float:
    return min(100 * (1 - float(row["sparsity"])) for row in record["rows"])


def _title(record: Mapping[str, Any]) -> str:
    return f"{record['model']} on {record['data']}"


def pictures(record: Mapping[str, Any]) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """What draws the pictures of a record, by file."""
    drawn_by = {"accuracy.svg": accuracy_svg, "speed.svg": speed_svg, "learning.svg": learning_svg}
    return drawn_by | ({"stability.svg": stability_svg} if record["recipe"]["stability"] else {})
