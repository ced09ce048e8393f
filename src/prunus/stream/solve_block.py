"""One block: observe its inputs, solve its Sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError
from ..core.mask import Mask
from ..core.method import Method
from ..core.plan import Step
from ..core.problem import Problem, Solution
from ..core.site import Site
from ..core.stats import Needs, Stats
from ..observe.observer import Observed, Observer
from ..observe.waves import Wave, waves
from ..solve.aim import aimed
from ..solve.centre import centred
from ..solve.temper import tempered
from .coverage import USUAL, Coverage, left_dense
from .heap import return_free_memory

Masks = Callable[[Problem, "Sequence[int] | None"], Mask]
"""The mask of a Problem, whose Site may be narrowed to some of its experts."""

Call = Callable[[], object]
"""Runs a block on a batch of windows; the observer sees what flows."""

Pass = Callable[[], Iterable[Call]]
"""A forward pass over all windows, a call for each batch of them."""


class DenseRuns(NamedTuple):
    """The dense model beside the pruned one: a pass of its hidden states through the same block, and where the ``streams``
    are found that Sites' outputs are added to (:func:`~prunus.models.residual.residual_streams`)."""

    runs: Pass
    streams: Mapping[str, str]


_OWN_TARGET = "aimed at the target sparse: what the dense model has there was not observed, as of experts and shared inputs"

Kind = tuple[type[nn.Module], tuple[str, ...]]
"""A block's class and the roles of the Sites observed in it."""


Look = Callable[[nn.Module, str, Wave, Needs, Iterable[Call], "DenseRuns | None", "dict[Kind, int] | None"], list[Observed]]
"""As :func:`observe`: a block, its path, what to observe of it, the runs, those of the dense model, known calls."""


@dataclass
class BlockSolver:
    """Solves the Sites of one loaded block after another by a method; no block is changed.

    ``matrix`` gives a Site's weight and ``own`` the moments of the weight itself, ``budget`` bounds the bytes of moments
    held at once, ``coverage`` says what becomes of experts that too few tokens reach.
    """

    method: Method
    matrix: Callable[[Site], Tensor]
    budget: int
    coverage: Coverage = USUAL
    own: Callable[[Site], Mapping[str, Tensor]] = lambda site: {}
    arrange: Callable[[Problem], Problem] = lambda problem: problem
    also: Needs = Needs.NOTHING
    """Moments of inputs to observe beside those of the method: what masks are chosen by."""
    biased: Callable[[Site], bool] = lambda site: False
    """Whether a Site's layer has a bias that may make up for the mean of what its weight loses."""
    look: Look | None = None
    """How Sites are observed, if not by :func:`observe`."""
    _calls: dict[Kind, int] = field(default_factory=dict, init=False)

    def solve(self, block: nn.Module, prefix: str, steps: Sequence[Step], forward: Pass | None,
              dense: DenseRuns | None = None, masks: Masks | None = None) -> dict[str, Solution]:  # fmt: skip
        """Solutions by Site name for the steps of the block at ``prefix``; without a ``forward`` no input is looked at.

        ``dense`` is for targets that set the dense model beside the pruned one. Where ``masks`` are given no others are
        chosen.
        """
        if forward is None:
            problems = [self._problem(step, Stats.none()) for step in steps]
            if masks is not None:
                problems = [replace(problem, fixed_mask=masks(problem, None)) for problem in problems]
            return {problem.site.name: self.method.solver.solve([problem])[0] for problem in problems}
        (found,) = self.solve_each(block, prefix, [steps], forward, dense, None if masks is None else [masks])
        return found

    def solve_each(self, block: nn.Module, prefix: str, choices: Sequence[Sequence[Step]], forward: Pass,
                   dense: DenseRuns | None = None, masks: Sequence[Masks] | None = None) -> list[
        dict[str, Solution]
    ]:  # fmt: skip
        """The same for several choices of steps, each with ``masks`` of its own, from one observation of their Sites."""
        needs = observed_needs(self.method, self.also)
        asked = [{step.site.name: step for step in steps} for steps in choices]
        parts: list[dict[str, list[Solution]]] = [defaultdict(list) for _ in choices]
        if any(self.biased(step.site) for steps in choices for step in steps):
            needs |= Needs.SUM
        every = dict.fromkeys(step.site for steps in choices for step in steps)
        for wave in waves(list(every), needs, self.budget):
            beside = dense if any(not site.layout.stacked for site in wave.sites) else None
            for sites, stats, routed in (self.look or observe)(block, prefix, wave, needs, forward(), beside, self._calls):
                starved = self.coverage.starved(stats) if routed else []
                again = partial(
                    _on_all_tokens, block, prefix, Wave(tuple(sites), _ids(wave, starved), True), needs, forward
                )
                settled = self.coverage.settle(stats, starved, again)
                free, mean = centred(settled) if all(self.biased(site) for site in sites) else (settled, None)
                given = tempered(free, self.method.temper, sites[0].name)
                for steps, found, mask in zip(asked, parts, masks or repeat(None, len(choices)), strict=True):
                    problems = [self._problem(steps[site.name], free, wave.experts) for site in sites if site.name in steps]
                    if not problems:
                        continue
                    if mask is not None:
                        problems = [replace(p, fixed_mask=mask(p, wave.experts)) for p in problems]
                    problems, notes = aimed(problems, self.method.target, self.method.solver.damp)
                    problems = [replace(problem, stats=given) for problem in problems]
                    if len(problems) == 1:  # what others read too cannot change its order for one
                        problems = [self.arrange(problems[0])]
                    return_free_memory()
                    for problem, solution in zip(problems, self.method.solver.solve(problems), strict=True):
                        left = left_dense(
                            problem, solution, self.coverage.left(starved) if masks is None else problem.dense
                        )
                        told = _with_tokens(left, stats, starved) if routed and masks is None else left
                        told = told if mean is None else _with_bias(told, problem, mean)
                        found[problem.site.name].append(self._with_target(told, problem, notes))
        return [{name: Solution.joined(solutions) for name, solutions in found.items()} for found in parts]

    def _with_target(self, solution: Solution, problem: Problem, notes: Sequence[str]) -> Solution:
        """The Solution with notes on how it came to what it aims at, or that it could not aim at what the method wants."""
        if problem.aim is not None:
            return replace(solution, notes=tuple(dict.fromkeys((*notes, *solution.notes))))
        if Needs.DRIFT not in self.method.target.needs or not problem.changes:
            return solution
        return replace(solution, notes=(*solution.notes, _OWN_TARGET))

    def _problem(self, step: Step, stats: Stats, experts: Sequence[int] | None = None) -> Problem:
        """What is asked of a step's Site, or of some of its experts."""
        method, chosen = self.method, slice(None) if experts is None else list(experts)
        own = {name: moment[chosen] for name, moment in self.own(step.site).items()}
        weight = self.matrix(step.site)[chosen]
        return Problem(step.site, weight, stats, step.sparsity, step.pattern, method.criterion, grid=method.grid, own=own)


def _ids(wave: Wave, entries: Sequence[int]) -> tuple[int, ...]:
    """The experts that these batch entries of a wave are."""
    return tuple(entries) if wave.experts is None else tuple(wave.experts[entry] for entry in entries)


def _on_all_tokens(block: nn.Module, prefix: str, wave: Wave, needs: Needs, forward: Pass) -> Stats:
    """Stats of starved experts as if the router had chosen them for every token."""
    try:
        (observed,) = observe(block, prefix, wave, needs, forward())
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"{wave.sites[0].name}: too few tokens reach this expert, and it cannot be run on those of the others "
            f"({str(error).splitlines()[0]}). Choose --starved-experts magnitude or dense."
        ) from error
    return observed.stats


def _with_tokens(solution: Solution, stats: Stats, starved: Sequence[int]) -> Solution:
    """The Solution of experts with the tokens routed to each, and which were too few."""
    few = torch.zeros(len(stats.tokens), dtype=torch.bool)
    few[list(starved)] = True
    return replace(solution, extra={**solution.extra, "tokens": stats.tokens, "starved": few})


def _with_bias(solution: Solution, problem: Problem, mean: Tensor) -> Solution:
    """The Solution with what the bias has to change by, ``bias_change [batch rows]``."""
    lost = problem.weight - solution.weight.to(problem.weight)
    return replace(solution, extra={**solution.extra, "bias_change": (lost @ mean.unsqueeze(-1)).squeeze(-1)})


def kind_of(block: nn.Module, sites: Sequence[Site]) -> Kind:
    """What blocks have in common that hold Sites of the same roles."""
    return (type(block), tuple(site.role for site in sites))


def observed_needs(method: Method, also: Needs = Needs.NOTHING) -> Needs:
    """What the method needs, and enough beside it to measure every layer's error."""
    needs = method.needs | also.of_inputs
    return needs if Needs.GRAM in needs else needs | Needs.SAMPLE


def observe(block: nn.Module, prefix: str, wave: Wave, needs: Needs, runs: Iterable[Call],
            dense: DenseRuns | None = None, calls: dict[Kind, int] | None = None,
            to_the_end: bool = False) -> list[Observed]:  # fmt: skip
    """Sites that share an input and their Stats, from one pass over the windows (``runs``), maybe beside the dense model.

    A pass ends with the last Site that it reaches, unless it is wanted ``to_the_end``. How often Sites are reached in one
    is kept in ``calls`` and relied on for later blocks of the same kind.
    """
    known = calls if calls is not None else {}
    kind = kind_of(block, wave.sites)
    streams = dense.streams if dense is not None else {}
    with Observer(block, prefix, wave, needs, known.get(kind), streams, to_the_end) as observer:
        for run, beside in zip(runs, repeat(None) if dense is None else dense.runs(), strict=False):
            observer.watch(run, beside)
    if observer.calls is not None:
        known[kind] = observer.calls
    return observer.result()


def given(masks: Mapping[str, Mask]) -> Masks:
    """Masks that are known, by the Site's name."""

    def mask_of(problem: Problem, experts: Sequence[int] | None) -> Mask:
        mask = masks[problem.site.name]
        if experts is None:
            return mask
        dense = tuple(place for place, expert in enumerate(experts) if expert in mask.dense)
        return Mask(mask.keep[list(experts)], mask.pattern, dense)

    return mask_of
