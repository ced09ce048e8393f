"""The profile: scores of any Site on demand, for allocators that compare layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..core.errors import RecipeError
from ..core.method import Method
from ..core.problem import Problem
from ..core.progress import Progress
from ..core.roles import Criterion, Profile
from ..core.site import Site
from ..core.stats import Needs, Stats
from ..observe.waves import waves
from ..patterns.unstructured import Unstructured
from ..solve.factor import inverse_factor
from .gradients import Gradients
from .heap import return_free_memory, reused_memory
from .scratch import passing_folder
from .solve_block import observe
from .sources import Source
from .trunk import Limits, Trunk


def make_profile(source: Source, sites: Sequence[Site], method: Method, windows: Tensor | None,
                 limits: Limits, progress: Progress, gradients: Gradients | None = None) -> Profile:  # fmt: skip
    """Scores from weights alone, or with the Stats of a pass of the dense model over ``windows [samples seqlen]``.

    Raises:
        RecipeError: if a Site's inputs cannot be surveyed.
    """
    criterion = method.compared_by
    own = gradients.of if gradients is not None else (lambda site: {})
    if criterion.needs.of_inputs is Needs.NOTHING or windows is None:
        return scored(source.matrix, criterion, own, {})
    outside = [site.name for site in sites if site.block is None]
    if outside:
        raise RecipeError([f"{outside[0]}: a survey of inputs covers the blocks only; give it a sparsity with --set"])
    with passing_folder() as folder, reused_memory():
        trunk = Trunk(source, windows, *limits, folder)
        stats = _dense_stats(source, sites, method, trunk, limits.budget, progress)
        trunk.close()
    return scored(source.matrix, criterion, own, stats)


def scored(matrix: Callable[[Site], Tensor], criterion: Criterion, own: Callable[[Site], Mapping[str, Tensor]],
           stats: Mapping[str, Stats]) -> Profile:  # fmt: skip
    """A profile of scores by what is known of Sites' inputs, by name, and of weights themselves."""

    def scores(site: Site) -> Tensor:
        known = stats.get(site.name, Stats.none())
        return Problem(site, matrix(site), known, 0.0, Unstructured(), criterion, own=own(site)).scores()

    return Profile(scores, matrix)


def condensed(stats: Stats, needs: Needs, damp: float, name: str) -> Stats:
    """What scores are made from: of a Gram only the diagonal of its inverse is kept."""
    moments = {key: moment for key, moment in stats.moments.items() if key != "gram"}
    if Needs.GRAM in needs:
        moments["inverse_diagonal"] = inverse_factor(stats, damp, name).inverse_diagonal()
    return Stats(stats.tokens, moments)


@torch.no_grad()
def _dense_stats(source: Source, sites: Sequence[Site], method: Method, trunk: Trunk, budget: int,
                 progress: Progress) -> dict[str, Stats]:  # fmt: skip
    """Stats of every Site in the dense model; of a Gram only the diagonal of its inverse is kept."""
    needs = method.compared_by.needs
    kept: dict[str, Stats] = {}
    trunk.embed()
    progress.start("Surveying", len(source.blocks))
    for index in range(len(source.blocks)):
        block = source.load(index)
        source.expect(index + 1)
        found_waves = waves([site for site in sites if site.block == index], needs, budget)
        for wave in found_waves:
            if wave.experts is not None:
                name = wave.sites[0].name
                raise RecipeError([f"{name}: its experts' Grams do not fit in --memory-budget for a survey; raise it"])
            last = wave is found_waves[-1]  # no weight changes: what the last pass gives enters the next block
            runs = trunk.steps(block, index) if last else trunk.runs(block, index)
            for group, found, _ in observe(block, source.prefix(index), wave, needs, runs, to_the_end=last):
                less = condensed(found, needs, method.solver.damp, group[0].name)
                kept |= {site.name: less for site in group}
        if found_waves:
            trunk.turn()
        else:
            trunk.advance(block, index)
        source.release(index)
        return_free_memory()
        progress.step()
    return kept
