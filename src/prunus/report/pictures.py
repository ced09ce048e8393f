"""Pictures of reports: curves, points with their Pareto front, maps of layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from .trained_pictures import COLOURS, DASHES, INK, MARKERS, drawn, figure, legend

_ALIKE = 0.02
"""Colours of a map span at least so much of its middle value to both sides."""
_FAR = 10.0
"""So many times one height is another in pictures with logarithms."""


def lines_svg(curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], across: str, up: str, title: str) -> str:
    """Curves of a name, places across and heights."""
    canvas, axes = figure()
    for number, (name, x, y) in enumerate(curves):
        dashes = DASHES[number // len(COLOURS) % len(DASHES)]
        axes.plot(x, y, dashes, label=legend(name), color=_colour(number), linewidth=1.6)
    return _labelled(canvas, axes, across, up, title)


class Point(NamedTuple):
    """Of a name: a place across, of which more is better, the least and the most that it was, and a height, of which less
    is better."""

    name: str
    x: float
    least: float
    most: float
    y: float


def front_svg(points: Sequence[Point], across: str, up: str, title: str, front: str, *, joined: bool = False) -> str:
    """Points; those that no other is better than in both are a front, those of one name a curve where they are ``joined``.
    Heights far apart are drawn by their logarithms."""
    canvas, axes = figure()
    series: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        series[point.name].append(point)
    for number, (name, places) in enumerate(series.items()):
        form = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)] + ("-" if joined else "")
        places.sort(key=lambda one: one.x)
        axes.errorbar(
            [one.x for one in places], [one.y for one in places], fmt=form, label=legend(name), color=_colour(number),
            xerr=[[one.x - one.least for one in places], [one.most - one.x for one in places]],
            markersize=7, linewidth=1.6, elinewidth=0.8, capsize=2,
        )  # fmt: skip
    heights = [point.y for point in points if math.isfinite(point.y)]
    if heights and max(heights) > _FAR * min(heights) > 0:
        axes.set_yscale("log")
    best = pareto(points)
    if len(best) > 1:
        axes.plot([one.x for one in best], [one.y for one in best], "--", color=INK, linewidth=1.2, label=front)
    return _labelled(canvas, axes, across, up, title)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that no other is at least as good as in both and better in one: more across, less up.

    >>> points = [Point(name, x, x, x, y) for name, x, y in [("a", 1, 5), ("b", 2, 6), ("c", 1.5, 7), ("d", 2, 9)]]
    >>> [one.name for one in pareto(points)]
    ['a', 'b']
    """
    kept = [
        one for one in points
        if not any(o.x >= one.x and o.y <= one.y and (o.x > one.x or o.y < one.y) for o in points)
    ]  # fmt: skip
    return sorted(kept, key=lambda one: one.x)


def map_svg(cells: Sequence[tuple[int, str, float]], across: str, title: str) -> str:
    """A map of values by block, across, and kind of layer, up. Values that are nearly one have nearly one colour."""
    canvas, axes = figure()
    blocks = sorted({block for block, _, _ in cells})
    kinds = list(dict.fromkeys(kind for _, kind, _ in cells))
    grid = [[float("nan")] * len(blocks) for _ in kinds]
    for block, kind, value in cells:
        grid[kinds.index(kind)][blocks.index(block)] = value
    values = [value for _, _, value in cells if math.isfinite(value)] or [0.0]
    middle, half = (max(values) + min(values)) / 2, (max(values) - min(values)) / 2
    half = max(half, _ALIKE * abs(middle))
    shown = axes.imshow(
        grid, aspect="auto", cmap="viridis", interpolation="nearest", vmin=middle - half, vmax=middle + half
    )
    axes.set_yticks(range(len(kinds)), [legend(kind) for kind in kinds], fontsize="small")
    step = max(1, len(blocks) // 10)
    axes.set_xticks(range(0, len(blocks), step), [str(block) for block in blocks[::step]])
    bar = canvas.colorbar(shown, ax=axes)
    bar.ax.tick_params(colors=INK)
    bar.outline.set_visible(False)
    axes.set_xlabel(across, color=INK)
    return drawn(canvas, axes, title)


def _labelled(canvas: Any, axes: Any, across: str, up: str, title: str) -> str:
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    return drawn(canvas, axes, title)
