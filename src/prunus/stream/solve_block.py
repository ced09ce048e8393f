"""One block: observe its inputs, solve its Sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..core.method import Method
from ..core.plan import Step
from ..core.problem import Problem, Solution
from ..core.site import Site
from ..core.stats import Needs, Stats
from ..observe.observer import Observer
from ..observe.waves import Wave, waves

Pass = Callable[[], Iterable[Callable[[], object]]]
"""A forward pass over all windows, a call for each batch of them; the observer sees what flows."""

Kind = tuple[type[nn.Module], tuple[str, ...]]
"""A block's class and the roles of the Sites observed in it."""


def solve_block(block: nn.Module, prefix: str, steps: Sequence[Step], method: Method,
                matrix: Callable[[Site], Tensor], forward: Pass | None, budget: int,
                calls: dict[Kind, int] | None = None) -> dict[str, Solution]:  # fmt: skip
    """Solutions by Site name for the steps of one loaded block; the block itself is not changed.

    ``prefix`` is the block's path, ``matrix`` gives a Site's weight, ``budget`` bounds the bytes of moments held at
    once. Without a ``forward`` no input is looked at. ``calls`` is what :func:`observe` learns of one block for the next.
    """
    by_name = {step.site.name: step for step in steps}
    if forward is None:
        return {
            name: method.solver.solve([_problem(step, matrix(step.site), Stats.none(), method)])[0]
            for name, step in by_name.items()
        }
    needs = observed_needs(method)
    parts: dict[str, list[Solution]] = defaultdict(list)
    for wave in waves([step.site for step in steps], needs, budget):
        for sites, stats, note in observe(block, prefix, wave, needs, forward(), calls):
            weights = [_rows(matrix(site), wave) for site in sites]
            problems = [_problem(by_name[s.name], w, stats, method) for s, w in zip(sites, weights, strict=True)]
            for solution in method.solver.solve(problems):
                parts[solution.site.name].append(replace(solution, notes=(*solution.notes, *note)))
    return {name: Solution.joined(found) for name, found in parts.items()}


def observed_needs(method: Method) -> Needs:
    """What the method needs, and enough beside it to measure every layer's error."""
    return method.needs if Needs.GRAM in method.needs else method.needs | Needs.SAMPLE


def observe(block: nn.Module, prefix: str, wave: Wave, needs: Needs, runs: Iterable[Callable[[], object]],
            calls: dict[Kind, int] | None = None) -> list[tuple[list[Site], Stats, tuple[str, ...]]]:  # fmt: skip
    """Sites that share an input, their Stats and notes on them, from one pass over the windows (``runs``).

    How often Sites are reached in a pass is kept in ``calls`` and relied on for later blocks of the same kind.
    """
    known = calls if calls is not None else {}
    kind = (type(block), tuple(site.role for site in wave.sites))
    with Observer(block, prefix, wave.sites, needs, wave.experts, known.get(kind)) as observer:
        for run in runs:
            observer.watch(run)
    if observer.calls is not None:
        known[kind] = observer.calls
    return [(sites, *_weights_alone_where_unseen(stats, wave)) for sites, stats in observer.result()]


def _weights_alone_where_unseen(stats: Stats, wave: Wave) -> tuple[Stats, tuple[str, ...]]:
    """Experts that no token reached are pruned as if X = I, by their weights alone, and the note names them."""
    unseen = stats.tokens == 0
    if not unseen.any():
        return stats, ()
    moments = dict(stats.moments)
    for name, moment in stats.moments.items():
        if name != "sample":
            blank = torch.eye(moment.shape[-1]) if name == "gram" else torch.ones(moment.shape[-1])
            moments[name] = moment.clone()
            moments[name][unseen.to(moment.device)] = blank.to(moment)
    first = wave.experts.start if wave.experts is not None else 0
    numbers = ", ".join(str(first + k) for k in unseen.nonzero().flatten().tolist())
    return Stats(stats.tokens, moments), (f"no token reached experts {numbers}: pruned by their weights alone",)


def _rows(matrix: Tensor, wave: Wave) -> Tensor:
    return matrix if wave.experts is None else matrix[wave.experts.start : wave.experts.stop]


def _problem(step: Step, weight: Tensor, stats: Stats, method: Method) -> Problem:
    return Problem(step.site, weight, stats, step.sparsity, step.pattern, method.criterion)
