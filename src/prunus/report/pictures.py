"""Pictures of reports: curves, points with their Pareto front, maps of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .trained_pictures import COLOURS, INK, MARKERS, drawn, figure, legend


def lines_svg(curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], across: str, up: str, title: str) -> str:
    """Curves of a name, places across and heights."""
    canvas, axes = figure()
    for number, (name, x, y) in enumerate(curves):
        axes.plot(x, y, label=legend(name), color=COLOURS[number % len(COLOURS)], linewidth=1.6)
    return _labelled(canvas, axes, across, up, title)


def front_svg(points: Sequence[tuple[str, float, float]], across: str, up: str, title: str, front: str) -> str:
    """Points of a name, a place across, of which more is better, and a height, of which less is; those that no other is
    better than in both are joined."""
    canvas, axes = figure()
    for number, (name, x, y) in enumerate(points):
        marker = MARKERS[number % len(MARKERS)]
        axes.plot([x], [y], marker, label=legend(name), color=COLOURS[number % len(COLOURS)], markersize=7)
    best = pareto(points)
    if len(best) > 1:
        axes.plot([x for _, x, _ in best], [y for _, _, y in best], "--", color=INK, linewidth=1.2, label=front)
    return _labelled(canvas, axes, across, up, title)


def pareto(points: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Those that no other is at least as good as in both and better in one: more across, less up.

    >>> pareto([("a", 1, 5), ("b", 2, 6), ("c", 1.5, 7), ("d", 2, 9)])
    [('a', 1, 5), ('b', 2, 6)]
    """
    kept = [
        one for one in points
        if not any(o[1] >= one[1] and o[2] <= one[2] and (o[1] > one[1] or o[2] < one[2]) for o in points)
    ]  # fmt: skip
    return sorted(kept, key=lambda one: one[1])


def map_svg(cells: Sequence[tuple[int, str, float]], across: str, title: str) -> str:
    """A map of values by block, across, and kind of layer, up."""
    canvas, axes = figure()
    blocks = sorted({block for block, _, _ in cells})
    kinds = list(dict.fromkeys(kind for _, kind, _ in cells))
    grid = [[float("nan")] * len(blocks) for _ in kinds]
    for block, kind, value in cells:
        grid[kinds.index(kind)][blocks.index(block)] = value
    shown = axes.imshow(grid, aspect="auto", cmap="viridis", interpolation="nearest")
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
