"""Cutting block after block, at dense shapes: choose units, repair what reads them, lay zeros where something goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.method import Method
from ..core.plan import Step
from ..core.problem import Solution
from ..core.roles import ExpertImportance, Importance
from ..core.site import Site
from ..patterns.lines import Column
from ..stream.gradients import Gradients
from ..stream.sources import CheckpointSource
from ..stream.trunk import Trunk
from ..targets.sparse import Sparse
from .chooser import Chooser, Pick, Task, readers_of
from .coupling import Coupling
from .cut import Cut, Kept
from .expert_survey import choose_experts, survey_experts
from .masked_block import MaskedModule


@dataclass(frozen=True)
class Choice:
    """How units are chosen and how what reads them is repaired."""

    importance: Importance
    experts: ExpertImportance
    method: Method


@dataclass
class BlockCutter:
    """``tasks`` are the couplings to choose units of, by block; ``fixed`` those whose units were chosen before.

    ``pick`` chooses the units of a task in place of the importance.
    """

    source: CheckpointSource
    choice: Choice
    tasks: Mapping[int, Sequence[Task]]
    fixed: Sequence[Kept]
    gradients: Gradients | None = None
    pick: Pick | None = None
    seen: dict[str, dict[str, list[int]]] = field(default_factory=dict, init=False)
    """Of every block whose experts were chosen, how many tokens came to each, and which were unseen."""
    _now: MaskedModule | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.shapes = {name: tuple(value.shape) for name, value in self.source.model.state_dict().items()}
        sites = {site.parameter: site for found in self.source.found for site in found.sites}
        units = {id(kept.coupling): kept.units for kept in self.fixed}
        given = [Task(kept.coupling, len(kept.units)) for kept in self.fixed]
        pick = self.pick or (lambda task, units: self.choice.importance.choose(units, task.kept))
        self.chooser = Chooser(pick, self._tensor, self._has, self.own, sites, [*given, *self._all()], units)
        self.known = Cut(self.fixed, self.shapes)

    def _all(self) -> list[Task]:
        return [task for tasks in self.tasks.values() for task in tasks]

    def own(self, site: Site) -> Mapping[str, Tensor]:
        """The moments of a Site's own weight."""
        return self.gradients.of(site) if self.gradients is not None else {}

    @property
    def units(self) -> dict[str, list[int]]:
        """The units that stay of everything that was cut, by where each coupling is first met."""
        given = {str(kept.coupling.first): kept.units.tolist() for kept in self.fixed}
        return {**given, **{str(task.coupling.first): self.chooser.kept(task).tolist() for task in self._all()}}

    def remember(self, index: int, units: Sequence[Sequence[int]]) -> None:
        """Units of a block that were chosen in a run before."""
        for task, one in zip(self.tasks.get(index, ()), units, strict=True):
            self.chooser.chosen[id(task.coupling)] = torch.tensor(one)

    def begin(self, index: int, block: nn.Module) -> MaskedModule:
        """A loaded block, of which what was chosen before is masked."""
        self._now = MaskedModule(block, self.source.prefix(index), self.known, self.source.stored_dtype)
        return self._now

    def choose_experts(self, index: int, module: MaskedModule, runs: Callable[[], Iterable[Callable[[], object]]]) -> None:
        """Experts go first, by what they give in these runs of the block; their routers pass over them from here on."""
        for task in [task for task in self.tasks.get(index, ()) if task.coupling.experts]:
            routed = survey_experts(module.module, module.prefix, task.coupling, runs())
            kept = choose_experts(self.choice.experts, routed, task.kept, task.groups)
            self.chooser.chosen[id(task.coupling)] = kept
            self.seen[module.prefix] = {"tokens": routed.tokens.long().tolist(), "unseen": routed.unseen.tolist()}
            module.lay(self.cut(index))

    def steps(self, index: int) -> list[Step]:
        """Sites of a block that read units of which some go."""
        steps = []
        for site in self.source.found[index].sites:
            read = readers_of(self.chooser.tasks, site)
            if read:
                steps.append(Step(site, min(0.999, max(task.dropped_share for task, _ in read)), Column()))
        return steps

    def biased(self, site: Site) -> bool:
        """Whether a Site's layer has a bias that makes up for the mean of what goes."""
        method = self.choice.method
        plain = method.solver.bias and not site.layout.stacked and isinstance(method.target, Sparse)
        return plain and self.shapes.get(bias_of(site)) == (site.rows,)

    def repaired(self, index: int) -> list[str]:
        """The parameters of a block that get other values."""
        sites = [step.site for step in self.steps(index)]
        return [*(site.parameter for site in sites), *(bias_of(site) for site in sites if self.biased(site))]

    def finish(self, index: int, module: MaskedModule, solutions: Mapping[str, Solution]) -> Cut:
        """Lay the repaired weights on the block, and zeros where something goes."""
        cut = self.cut(index)
        module.lay(cut)
        module.set({s.site.parameter: s.site.layout.from_matrix(s.weight.float()) for s in solutions.values()})
        for solution in solutions.values():
            if "bias_change" in solution.extra:
                bias = bias_of(solution.site)
                changed = module.value(bias).float() + solution.extra["bias_change"][0]
                module.set({bias: changed.to(self.source.stored_dtype(bias)).float()})  # as it will be written
        module.lay(cut)
        self._now = None
        return cut

    def cut(self, index: int) -> Cut:
        """All that goes of a block: what was fixed, and units chosen in it, or in another where a coupling spans blocks."""
        prefix = self.source.prefix(index)
        chosen = [
            Kept(task.coupling, self.chooser.kept(task))
            for task in self._all()
            if id(task.coupling) in self.chooser.chosen and reaches(task.coupling, prefix)
        ]
        return Cut([*self.fixed, *chosen], self.shapes)

    def outside(self) -> MaskedModule:
        """What is outside the blocks, masked; it has to be loaded."""
        source = self.source
        return MaskedModule(source.model, "", self.known, source.stored_dtype, lambda name: not source.is_inside(name))

    def embed(self, trunk: Trunk) -> None:
        """Embed a Trunk's windows again, as the masked model does, where that is something else."""
        if self.known.positions:
            self.source.load_outside(head=False)
            with self.source.held_outside(), self.outside().masked():
                trunk.embed()
            self.source.release_outside()

    def _has(self, name: str) -> bool:
        return self._now is not None and name in self._now.parameters

    def _tensor(self, name: str) -> Tensor:
        if self._now is None:
            raise KeyError(name)
        return self._now.value(name).float()


def bias_of(site: Site) -> str:
    """The name that the bias of a Site's layer would have."""
    return site.parameter.removesuffix(".weight") + ".bias"


def tasks_by_block(source: Any, tasks: Sequence[Task]) -> dict[int, list[Task]]:
    """Tasks by the first block that their units are in."""
    found: dict[int, list[Task]] = {}
    for task in tasks:
        index = min(k for k in range(len(source.blocks)) if reaches(task.coupling, source.prefix(k)))
        found.setdefault(index, []).append(task)
    return found


def reaches(coupling: Coupling, prefix: str) -> bool:
    """Whether a coupling has members in the block at ``prefix``."""
    return any(place.tensor.startswith(f"{prefix}.") for place in coupling.members)
