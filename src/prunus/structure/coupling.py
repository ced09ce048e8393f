"""Couplings: groups of tensors that shrink together, and which places of each belong to one unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .links import Links


class Place(NamedTuple):
    """A dimension of a tensor; ``entry``: of one matrix of a stack alone (its dimensions are counted with the stack's)."""

    tensor: str
    dim: int
    entry: int | None = None

    def __str__(self) -> str:
        entry = "" if self.entry is None else f"[{self.entry}]"
        return f"{self.tensor}{entry} dim {self.dim}"


@dataclass(frozen=True)
class Coupling:
    """``units`` that can be cut one by one, each from all ``members`` at once.

    ``members[place] [units each]`` are the positions along that dimension that a unit has. ``averaged`` are the modules
    that take a mean over all units (norms), so that the mean changes with their number.
    """

    members: Mapping[Place, Tensor]
    averaged: tuple[str, ...] = ()
    experts: bool = False
    """Whether the units are experts, which their router has to pass over."""

    @cached_property
    def units(self) -> int:
        """How many there are."""
        return len(next(iter(self.members.values())))

    @property
    def first(self) -> Place:
        """The place it is known by."""
        return next(iter(self.members))


def gain_of(module: str) -> str:
    """The name of a norm's gain."""
    return f"{module}.weight"


@dataclass(frozen=True)
class Traced:
    """What a trace found: couplings, and places that have to stay, with the reason."""

    couplings: tuple[Coupling, ...]
    fixed: Mapping[Place, str]


def couplings_of(links: Links) -> Traced:
    """The couplings of a trace: components of linked places, those that have the same members side by side as units.

    A component that reaches what has to stay, or that is the only one of its kind, is no unit.
    """
    components = links.components()
    reasons = links.reasons(components)
    positions: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
    for owner in links.owners:
        place = Place(owner.tensor, owner.dim, owner.entry)
        for position, component in enumerate(components[owner.start : owner.start + owner.size].tolist()):
            positions[component][place].append(position)
    averaged = _averaged(links, components)
    families: dict[tuple[tuple[Place, int], ...], list[int]] = defaultdict(list)
    fixed: dict[Place, str] = {}
    for component, members in positions.items():
        if component in reasons:
            fixed |= {place: reasons[component] for place in members if place not in fixed}
        else:
            families[tuple((place, len(at)) for place, at in members.items())].append(component)
    found = []
    for signature, units in families.items():
        if len(units) == 1:
            fixed |= {place: "one unit only: nothing would be left" for place, _ in signature if place not in fixed}
            continue
        together = {place: torch.tensor([positions[unit][place] for unit in units]) for place, _ in signature}
        modules = tuple(module for module, over in averaged.items() if over & set(units))
        bare = [module for module in modules if Place(gain_of(module), 0) not in together]
        if bare:
            reason = f"{bare[0]} takes the mean over it, and has no gain to make up for fewer"
            fixed |= {place: reason for place in together if place not in fixed}
        else:
            found.append(Coupling(together, modules))
    return Traced(tuple(found), fixed)


def _averaged(links: Links, components: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> dict[str, set[int]]:
    """The components that each module takes a mean over."""
    found: dict[str, set[int]] = defaultdict(set)
    for average in links.averaged:
        found[average.module] |= set(np.unique(components[average.atoms]).tolist())
    return found
