"""Levers: what a search may move, each from the whole down in steps that the model allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import RecipeError
from .axes import Anatomy, Axis
from .sizes import Wanted, can_stay, fine_step, spread

LEVERS = ("neurons", "heads", "kv_groups", "width", "experts", "layers")
LEAST = 0.25
"""No search takes a lever below this share."""
_FEW = 6


@dataclass(frozen=True)
class Lever:
    """``choices`` are sizes by axis (``layers``: blocks), the whole (nothing cut) first; ``shares`` what stays of it.

    ``costly``: what goes is chosen by passes of the model, more of them for every step down.
    """

    name: str
    choices: tuple[Mapping[str, int], ...]
    shares: tuple[float, ...]
    costly: bool = False


def levers_of(anatomy: Anatomy, blocks: int, along: Sequence[str], given: Sequence[str],
              least: Mapping[str, int], buildable: Callable[[dict[str, int]], bool]) -> list[Lever]:  # fmt: skip
    """The levers of a model: those of ``along`` (none: all there are) but for axes whose size was ``given``.

    Raises:
        RecipeError: if one of ``along`` is none of this model.
    """
    found = []
    for name in along or LEVERS:
        lever = None
        if name in given:
            raise RecipeError([f"along {name}: its size is given, so it cannot be searched; leave one of the two out"])
        if name == "layers":
            sizes = range(blocks, max(1, round(blocks * LEAST)) - 1, -1)
            choices = ({}, *({"layers": n} for n in sizes if n < blocks))
            lever = Lever(name, choices, tuple(n / blocks for n in sizes), costly=True)
        else:
            lever = _lever(name, anatomy, given, least, buildable)
        if lever is not None and len(lever.choices) > 1:
            found.append(lever)
        elif along:
            known = ", ".join([*anatomy.axes, "layers"])
            raise RecipeError([f"along {name}: this model cannot be cut along it in steps; it can along {known}"])
    return found


def searched(along: Sequence[str], given: Sequence[str]) -> list[str]:
    """The names of the levers that would be searched where nothing is said of them."""
    return [name for name in along or LEVERS if name not in given]


def _lever(name: str, anatomy: Anatomy, given: Sequence[str], least: Mapping[str, int],
           buildable: Callable[[dict[str, int]], bool]) -> Lever | None:  # fmt: skip
    """A lever of one axis; of neurons, of every feed-forward width in the same share."""
    axes = [anatomy.axes[one] for one in spread({name: Wanted.parse("0.5")}, anatomy) if one in anatomy.axes]
    axes = [axis for axis in axes if axis.name not in given]
    if not axes:
        return None
    first = max(axes, key=lambda axis: axis.size // fine_step(axis))
    step = fine_step(first)
    lever = _at_step(name, anatomy, (first, axes), step, least, buildable)
    while len(lever.choices) < _FEW and step > 1:  # some models refuse most sizes of a coarse step
        step //= 2
        lever = _at_step(name, anatomy, (first, axes), step, least, buildable)
    return lever


def _at_step(name: str, anatomy: Anatomy, axes: tuple[Axis, Sequence[Axis]], step: int, least: Mapping[str, int],
             buildable: Callable[[dict[str, int]], bool]) -> Lever:  # fmt: skip
    """The sizes of the first axis in steps, and with each the others' in the same share."""
    first, together = axes
    choices: list[Mapping[str, int]] = [{}]
    shares = [1.0]
    for size in range(first.size - step, 0, -step):
        share = size / first.size
        sizes = {axis.name: Wanted("", share=share).of(axis.size, min(step, fine_step(axis))) for axis in together}
        if share < LEAST or any(n < least.get(axis, 1) for axis, n in sizes.items()):
            break
        if sizes != choices[-1] and all(can_stay(anatomy.axes[axis], n, buildable) for axis, n in sizes.items()):
            choices.append({axis: n for axis, n in sizes.items() if n < anatomy.axes[axis].size})
            shares.append(share)
    return Lever(name, tuple(choices), tuple(shares))
