"""From what a person asks of an axis to a number that the config can say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import RecipeError
from ..models.numbers import HEADS
from .axes import Anatomy, Axis

_LIKED = 64
"""Widths are rounded to multiples of this, or of a smaller power of two where they are small."""
_FINE = 16
_COUNTED = ("heads", "kv_groups", "experts")
"""Axes whose units are counted, not rounded to multiples that hardware likes."""


@dataclass(frozen=True)
class Wanted:
    """A size that was asked for: a ``share`` of what there is, a ``count`` of what stays, or how many go (``less``)."""

    text: str
    share: float | None = None
    count: int | None = None
    less: int | None = None

    @classmethod
    def parse(cls, text: str | float) -> Wanted:
        """Read ``0.75``, ``75%``, ``0.75x``, ``1152`` or ``-4``.

        >>> Wanted.parse("75%").share, Wanted.parse("1152").count, Wanted.parse(-4).less
        (0.75, 1152, 4)

        Raises:
            ValueError: if it is none of these.
        """
        word = str(text).strip()
        if re.fullmatch(r"-\d+", word):
            return cls(word, less=-int(word))
        if re.fullmatch(r"\d+", word) and int(word) > 0:
            return cls(word, count=int(word))
        found = re.fullmatch(r"(\d*\.?\d+)(x|%)?", word)
        share = float(found[1]) / (100 if found[2] == "%" else 1) if found else 0.0
        if not 0 < share <= 1:
            raise ValueError(f"'{word}' is neither a share that stays (0.75, 75%), a number that stays (1152) nor one that "
                             "goes (-4)")  # fmt: skip
        return cls(word, share=share)

    def of(self, size: int, step: int = 1) -> int:
        """What stays of ``size``; a share is rounded to the nearest multiple of ``step``."""
        if self.count is not None:
            return self.count
        if self.less is not None:
            return size - self.less
        return min(size, max(step, round((self.share or 0) * size / step) * step))


def step_of(axis: Axis) -> int:
    """The multiple that sizes of an axis are rounded to where a share was asked for."""
    if axis.name in _COUNTED:
        return axis.groups
    return max(liked_step(axis.size, _LIKED), _least_step(axis))


def liked_step(size: int, most: int) -> int:
    """The largest power of two, at most ``most``, that divides a size and is no more than an eighth of it."""
    step = 1
    while 2 * step <= most and size % (2 * step) == 0 and 16 * step <= size:
        step *= 2
    return step


def fine_step(axis: Axis) -> int:
    """The smaller multiple that a search for a target may go by, so that the target is met closely."""
    return max(_least_step(axis), min(step_of(axis), _FINE))


def _least_step(axis: Axis) -> int:
    """The smallest step at which every coupling and number of an axis stays whole."""
    return next(step for step in range(1, axis.size + 1) if axis.size % step == 0 and fits_axis(axis, axis.size - step))


def half_of(axis: Axis, buildable: Callable[[dict[str, int]], bool]) -> int:
    """What can stay of an axis that is nearest to half of it; all of it where nothing can go."""
    half = Wanted.parse(0.5).of(axis.size, step_of(axis))
    return _nearest(axis.size, half, lambda n: can_stay(axis, n, buildable)) or axis.size


def sizes_of(axis: Axis, buildable: Callable[[dict[str, int]], bool]) -> list[int]:
    """What can stay of an axis whose units are counted, largest first."""
    return [n for n in range(axis.size - axis.groups, 0, -axis.groups) if can_stay(axis, n, buildable)]


def can_stay(axis: Axis, size: int, buildable: Callable[[dict[str, int]], bool]) -> bool:
    """Whether a size of an axis is whole everywhere and there is a model with it."""
    return size == axis.size or (fits_axis(axis, size) and buildable(axis.config(size)))


def fits_axis(axis: Axis, size: int) -> bool:
    """Whether every coupling and number of an axis is whole with ``size`` of it left, and as many stay in every group."""
    whole = all(coupling.units * size % axis.size == 0 for coupling in axis.couplings)
    scaled = all(abs(times * size - round(times * size)) < 1e-9 for times in axis.scaled.values())
    return whole and scaled and size % axis.groups == 0


def spread(wanted: Mapping[str, Wanted], anatomy: Anatomy) -> dict[str, Wanted]:
    """A share of ``neurons`` as that share of every feed-forward width: also experts' and shared experts', which have
    numbers of their own. What is asked of one of them by name goes before."""
    found = dict(wanted)
    share = wanted.get("neurons")
    if share is not None and share.share is not None:
        widths = [name for name, axis in anatomy.axes.items() if "intermediate" in axis.number and name not in found]
        found |= dict.fromkeys(widths, share)
        if widths and "neurons" not in anatomy.axes:
            del found["neurons"]
    return found


def choose_sizes(anatomy: Anatomy, wanted: Mapping[str, Wanted], buildable: Callable[[dict[str, int]], bool],
                 least: Mapping[str, int]) -> dict[str, int]:  # fmt: skip
    """The size of every axis that is cut.

    ``buildable`` tells whether there is a model with these numbers in its config; ``least`` the smallest size that some
    axes may have.

    Raises:
        RecipeError: with every fault: an axis that there is not, a size that cannot be, with the nearest that can.
    """
    faults: list[str] = []
    sizes: dict[str, int] = {}
    for name, asked in sorted(wanted.items(), key=lambda one: one[0] != "kv_groups"):  # heads stay in groups that stay
        axis = anatomy.axes.get(name)
        if axis is None:
            faults.append(f"{name}: {_absent(anatomy, name)}")
            continue
        if name == "heads" and "kv_groups" in sizes:
            try:
                sizes[name] = _heads_in_groups(anatomy, asked, sizes["kv_groups"])
            except ValueError as error:
                faults.append(f"{name} {asked.text}: {error}")
            continue
        size = asked.of(axis.size, step_of(axis))
        lowest = max(1, least.get(name, 1))

        def fits(n: int, axis: Axis = axis, lowest: int = lowest) -> bool:
            return lowest <= n <= axis.size and can_stay(axis, n, buildable)

        if size == axis.size and asked.share is not None and asked.share < 1:
            near = _nearest(axis.size, axis.size - 1, fits)
            faults.append(f"{name} {asked.text}: nothing would go, it shrinks in steps of {step_of(axis)} of {axis.size}"
                          + (f"; the nearest that can stay is {near}" if near else ""))  # fmt: skip
        elif not fits(size):
            near = _nearest(axis.size, size, fits) if size <= axis.size else None
            reason = f"of {axis.size} at least {lowest} have to stay" if size < lowest else (
                f"there are only {axis.size}" if size > axis.size else
                f"{size} of {axis.size} cannot stay: {_why(axis, size)}"
            )  # fmt: skip
            faults.append(f"{name} {asked.text}: {reason}" + (f"; the nearest that can is {near}" if near else ""))
        elif size < axis.size:
            sizes[name] = size
    if faults:
        raise RecipeError(faults)
    return {name: size for name, size in sizes.items() if size < anatomy.axes[name].size}


def _heads_in_groups(anatomy: Anatomy, asked: Wanted, left: int) -> int:
    """The size of axis heads, which counts heads as if no group had gone, so that as many stay as were asked for in the
    ``left`` groups.

    Raises:
        ValueError: with the nearest number that can.
    """
    heads, groups = anatomy.axes["heads"], anatomy.axes["kv_groups"]
    wanted, most = asked.of(heads.size, left), heads.size // groups.size * left
    if wanted % left or not left <= wanted <= most:
        near = min(range(left, most + 1, left), key=lambda n: (abs(n - wanted), n))
        raise ValueError(
            f"{wanted} cannot stay in {left} of {groups.size} key/value groups, as many in each; "
            f"the nearest that can is {near}"
        )
    return wanted // left * groups.size


def depth_of(asked: Wanted, count: int) -> int:
    """How many of ``count`` blocks stay.

    Raises:
        RecipeError: if none would, or more than there are.
    """
    size = asked.of(count)
    if not 1 <= size <= count:
        raise RecipeError([f"layers {asked.text}: there are {count} blocks, of which at least 1 has to stay"])
    return size


def _nearest(most: int, size: int, fits: Callable[[int], bool]) -> int | None:
    candidates = sorted(range(1, most), key=lambda n: (abs(n - size), n))
    return next((n for n in candidates if fits(n)), None)


def _why(axis: Axis, size: int) -> str:
    if axis.groups > 1 and size % axis.groups:
        return f"as many have to stay in each of {axis.groups} groups"
    if not fits_axis(axis, size):
        return "what is cut along with them would not be whole numbers"
    return f"no model can be built with {', '.join(f'{key} = {value}' for key, value in axis.config(size).items())}"


def _absent(anatomy: Anatomy, name: str) -> str:
    known = ", ".join([*(f"{axis.name} ({axis.size})" for axis in anatomy.axes.values()), "layers"])
    return f"this model cannot be cut along it; it can along {known}. `prunus inspect MODEL --couplings` says why"


def config_of(anatomy: Anatomy, sizes: Mapping[str, int]) -> dict[str, Any]:
    """What the config says once all these axes are cut."""
    changes: dict[str, Any] = {}
    for name in sizes:
        changes |= anatomy.axes[name].pinned
    for name, size in sizes.items():
        changes |= anatomy.axes[name].scaled_to(size)
    if "heads" in sizes and "kv_groups" in sizes:
        heads, groups = anatomy.axes["heads"], anatomy.axes["kv_groups"]
        changes[HEADS] = sizes["heads"] // heads.groups * (sizes["kv_groups"] * heads.groups // groups.size)
    return changes
