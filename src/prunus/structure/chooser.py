"""Choosing units while a block is solved: from the statistics of what reads them, on the inputs that it will really see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.mask import Mask
from ..core.problem import Problem
from ..core.site import Site
from ..core.stats import Stats
from ..core.units import Reader, Units, Writer
from ..patterns.lines import Column
from .coupling import Coupling, Place


@dataclass(frozen=True)
class Task:
    """A coupling of which ``kept`` units are to stay, as many of each of its ``groups``."""

    coupling: Coupling
    kept: int
    groups: int = 1
    name: str = ""

    @property
    def dropped_share(self) -> float:
        return 1 - self.kept / self.coupling.units


Pick = Callable[[Task, Units], Tensor]
"""The units of a task that stay, ascending."""


def column_dim(site: Site) -> int:
    """The dimension of a Site's stored tensor that its inputs are along."""
    return (0 if site.layout.transposed else 1) + (1 if site.layout.stacked else 0)


def readers_of(tasks: Sequence[Task], site: Site) -> list[tuple[Task, int | None]]:
    """The tasks whose units a Site reads, with the entry of its stack that does."""
    dim, found = column_dim(site), []
    for task in tasks:
        for place in task.coupling.members:
            if (place.tensor, place.dim) == (site.parameter, dim):
                found.append((task, place.entry))
    return found


@dataclass
class Chooser:
    """Chooses the units of tasks when the first Site that reads them is solved; others follow.

    ``pick`` chooses those of one task. ``tensor`` gives a parameter as it is stored, in fp32, of
    those that the loaded block ``has``, ``own`` the moments of a Site's weight, and ``sites`` the Sites by parameter.
    """

    pick: Pick
    tensor: Callable[[str], Tensor]
    has: Callable[[str], bool]
    own: Callable[[Site], Mapping[str, Tensor]]
    sites: Mapping[str, Site]
    tasks: Sequence[Task]
    chosen: dict[int, Tensor] = field(default_factory=dict)

    def kept(self, task: Task) -> Tensor:
        """The units of a task that stay.

        Raises:
            KeyError: if they have not been chosen.
        """
        return self.chosen[id(task.coupling)]

    def mask(self, problem: Problem, experts: Sequence[int] | None) -> Mask:
        """Columns of a Problem's Site that stay, ``[batch rows cols]``."""
        site = problem.site
        entries = list(range(site.batch)) if experts is None else list(experts)
        keep = torch.ones(len(entries), site.cols, dtype=torch.bool, device=problem.weight.device)
        for task, entry in readers_of(self.tasks, site):
            rows = range(len(entries)) if entry is None else [entries.index(entry)] if entry in entries else []
            for row in rows:
                units = self._units(task, problem, entry, row)
                gone = torch.ones(task.coupling.units, dtype=torch.bool)
                gone[units] = False
                place = Place(site.parameter, column_dim(site), entry)
                keep[row, task.coupling.members[place][gone].flatten().to(keep.device)] = False
        return Mask(keep.unsqueeze(1).expand_as(problem.weight), Column())

    def _units(self, task: Task, problem: Problem, entry: int | None, row: int) -> Tensor:
        """The units of a task, chosen now if nobody read them before."""
        key = id(task.coupling)
        if key not in self.chosen:
            place = Place(problem.site.parameter, column_dim(problem.site), entry)
            columns = task.coupling.members[place].to(problem.weight.device)
            own = {name: moment[row] for name, moment in problem.own.items()}
            reader = Reader(problem.weight[row], columns, entry_of(problem.stats, row), problem.site.name, own)
            others = {other: at for other, at in task.coupling.members.items() if other != place and self.has(other.tensor)}
            writers = [self._writer(other, positions, problem.weight.device) for other, positions in others.items()]
            units = Units(task.coupling.units, (reader,), tuple(writers), task.groups)
            self.chosen[key] = self.pick(task, units).cpu()
        return self.chosen[key]

    def _writer(self, place: Place, positions: Tensor, device: torch.device) -> Writer:
        stored = {"": self.tensor(place.tensor)}
        site = self.sites.get(place.tensor)
        if site is not None:
            stored |= {name: site.layout.from_matrix(moment) for name, moment in self.own(site).items()}
        found = {}
        for name, tensor in stored.items():
            inside, dim = (tensor, place.dim) if place.entry is None else (tensor[place.entry], place.dim - 1)
            by_position = inside.movedim(dim, 0)[positions.to(inside.device)]
            found[name] = by_position.flatten(1).float().to(device)
        return Writer(found.pop(""), found)


def entry_of(stats: Stats, row: int) -> Stats:
    """The Stats of one batch entry."""
    at = min(row, len(stats.tokens) - 1)
    moments = {name: moment[at : at + 1] if moment.shape[0] > 1 else moment for name, moment in stats.moments.items()}
    return Stats(stats.tokens[at : at + 1], moments)
