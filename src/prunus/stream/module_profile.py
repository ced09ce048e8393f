"""What is found of a module before its Sites get their sparsities: scores, gradients, and trials of mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..core.differentiable import differentiable
from ..core.errors import NumericalError
from ..core.finite import all_finite
from ..core.method import Method
from ..core.plan import Step
from ..core.progress import Progress, Silent
from ..core.roles import Profile
from ..core.site import Site
from ..core.stats import Needs, Stats
from ..models.feed import output_tensor
from ..observe.waves import waves
from ..targets.sparse import Sparse
from .gradients import WEIGHT_MOMENTS
from .module_loop import Own, module_solver, observe_module
from .module_source import ModuleSource, Run
from .profile import condensed, scored
from .trials import at_level


@torch.no_grad()
def module_profile(source: ModuleSource, sites: Sequence[Site], method: Method, runs: Sequence[Run], budget: int,
                   own: Own) -> Profile:  # fmt: skip
    """Scores of any Site, with the Stats of the dense model's inputs where the criterion looks at them."""
    needs = method.compared_by.needs
    stats: dict[str, Stats] = {}
    for wave in waves(list(sites), needs, budget) if needs.of_inputs and runs else ():
        for group, found, _ in observe_module(source.model, "", wave, needs, runs):
            less = condensed(found, needs, method.solver.damp, group[0].name)
            stats |= {site.name: less for site in group}
    return scored(source.matrix, method.compared_by, lambda site: own.get(site.name, {}), stats)


def module_gradients(source: ModuleSource, sites: Sequence[Site], losses: Iterable[Callable[[], Tensor]],
                     needs: Needs) -> dict[str, dict[str, Tensor]]:  # fmt: skip
    """Gradients of the summed losses with respect to every Site, and their squares summed batch by batch, as ``needs`` ask.

    Raises:
        NumericalError: if they are not finite.
    """
    wanted = [name for name, need in WEIGHT_MOMENTS.items() if need in needs]
    parameters = {site.name: source.parameter(site) for site in sites}
    totals = gradient_sums(list(parameters.values()), losses)
    found = {}
    for site, total, squares in zip(sites, *totals, strict=True):
        if not all_finite(total):
            raise NumericalError(f"{site.name}: the gradient of the loss holds NaN or Inf. Check the loss and the data.")
        both = {"grad": total, "grad_sq": squares}
        found[site.name] = {name: site.layout.to_matrix(both[name]).float() for name in wanted}
    return found


def gradient_sums(
    parameters: Sequence[nn.Parameter], losses: Iterable[Callable[[], Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of losses summed over these, and their squares; zero for parameters that no loss hangs on."""
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    with torch.enable_grad(), differentiable(parameters):
        for loss in losses:
            gradients = torch.autograd.grad(loss(), list(parameters), allow_unused=True)
            for total, square, gradient in zip(sums, squares, gradients, strict=True):
                if gradient is not None:
                    total += gradient
                    square += gradient.square()
    return sums, squares


@dataclass
class ModuleTrials:
    """Every Site solved at every level on the dense model's inputs, in memory, and mixtures of them held against it."""

    source: ModuleSource
    method: Method
    sites: Sequence[Site]
    levels: Sequence[float]
    runs: Sequence[Run]
    budget: int
    own: Own
    progress: Progress = field(default_factory=Silent)
    _solved: dict[tuple[str, float], Tensor] = field(default_factory=dict, init=False)
    _dense: dict[int, list[Tensor]] = field(default_factory=dict, init=False)
    _rows: int = field(default=0, init=False)

    @torch.no_grad()
    def build(self) -> None:
        """Solve every Site at every level."""
        method = replace(self.method, target=Sparse(), grid=None, stages=())
        solver = module_solver(self.source, method, self.budget, self.own)
        blocks: dict[int | None, list[Site]] = {}
        for site in self.sites:
            blocks.setdefault(site.block, []).append(site)
        self.progress.start("Solving at every level", len(blocks))
        for sites in blocks.values():
            levels = [level for level in self.levels if level]
            choices = [[Step(site, level, at_level(method.pattern, level)) for site in sites] for level in levels]
            solved = solver.solve_each(self.source.model, "", choices, lambda: self.runs)
            for level, found in zip(levels, solved, strict=True):
                self._solved |= {(name, level): solution.weight for name, solution in found.items()}
            self._solved |= {(site.name, 0.0): self.source.matrix(site).to(site.dtype, copy=True) for site in sites}
            self.progress.step()

    @torch.no_grad()
    def evaluate(self, candidates: Sequence[Mapping[str, float]], tokens: int) -> list[float]:
        """Mean ‖y − ŷ‖²/‖y‖² of the model's outputs over about ``tokens`` of them, y being the dense model's."""
        runs = self._enough(tokens)
        if len(runs) not in self._dense:
            self._put({site.name: 0.0 for site in self.sites})
            self._dense[len(runs)] = [output_tensor(run()).float() for run in runs]
        found = []
        for candidate in candidates:
            self._put(candidate)
            pairs = zip(self._dense[len(runs)], (output_tensor(run()).float() for run in runs), strict=True)
            errors = torch.cat([_distances(dense, sparse) for dense, sparse in pairs])
            mean = float(errors.mean())
            found.append(mean if math.isfinite(mean) else math.inf)
        self._put({site.name: 0.0 for site in self.sites})
        return found

    def _put(self, candidate: Mapping[str, float]) -> None:
        self.source.put({site: self._solved[site.name, candidate[site.name]] for site in self.sites})

    def _enough(self, tokens: int) -> list[Run]:
        """As many runs as it takes for so many rows of output, if all give as many as the first."""
        rows = self._rows or output_tensor(self.runs[0]()).shape[:-1].numel()
        self._rows = rows
        return list(self.runs[: -(-tokens // rows)])


def _distances(dense: Tensor, sparse: Tensor) -> Tensor:
    """‖y − ŷ‖²/‖y‖² of every input's whole output."""
    wanted, got = dense.flatten(1), sparse.flatten(1)
    return (got - wanted).square().sum(1) / wanted.square().sum(1).clamp_min(torch.finfo(torch.float32).tiny)
