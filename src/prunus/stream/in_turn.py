"""The Sites of a block solved in turn: each on inputs that those before it in the block have had their part in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from ..core.exchanged import exchanged
from ..core.plan import Step
from ..core.problem import Solution
from ..core.site import Site
from ..models.turns import turns
from .arrange import Arranger
from .solve_block import BlockSolver, Call, DenseRuns, Kind, Pass, kind_of
from .sources import Source
from .trunk import Trunk


@dataclass
class InTurn:
    """Solves a loaded block by ``solver``, whose passes see what was solved before in it; the block is not changed.

    What the dense model has beside is not touched by what was solved.
    """

    source: Source
    solver: BlockSolver
    arranger: Arranger
    _known: dict[Kind, list[list[str]]] = field(default_factory=dict, init=False)

    def solve(self, index: int, steps: Sequence[Step], trunk: Trunk, dense: DenseRuns | None) -> dict[str, Solution]:
        """Solutions by Site name for the steps of a block, before their rows are put in the order of what reads them."""
        block = self.source.blocks[index]
        by_role = {step.site.role: step for step in steps}
        found: dict[str, Solution] = {}
        for roles in self._turns(index, block, [step.site for step in steps], trunk):
            forward = partial(_with, self._weights(found), partial(trunk.runs, block, index))
            turn = [by_role[role] for role in roles]
            found |= self.solver.solve(block, self.source.prefix(index), turn, forward, dense)
        return found

    def _turns(self, index: int, block: nn.Module, sites: Sequence[Site], trunk: Trunk) -> list[list[str]]:
        """Roles in the order in which they are solved; found once for all blocks of a kind."""
        kind = kind_of(block, sites)
        if kind not in self._known:
            trunk.call(index)  # of a decoder's first block the state is there from now on
            parameters = {site.role: self.source.model.get_parameter(site.parameter) for site in sites}
            entering = trunk.state.read(trunk.batches[0], self.source.device)
            self._known[kind] = turns(sites, parameters, lambda hidden: trunk.run(block, index, 0, hidden).hidden, entering)
        return self._known[kind]

    def _weights(self, found: dict[str, Solution]) -> list[tuple[nn.Parameter, Tensor]]:
        """Parameters and what they will be, as far as it is known."""
        solutions = self.arranger.folded(found).values()
        pairs = [(self.source.model.get_parameter(one.site.parameter), one) for one in solutions]
        return [(parameter, one.site.layout.from_matrix(one.weight).to(parameter)) for parameter, one in pairs]


def _with(weights: Sequence[tuple[nn.Parameter, Tensor]], forward: Pass) -> Iterator[Call]:
    """The pass, every call of it with these weights in place."""
    return (partial(_run_with, weights, run) for run in forward())


def _run_with(weights: Sequence[tuple[nn.Parameter, Tensor]], run: Callable[[], object]) -> object:
    with exchanged(weights):
        return run()
