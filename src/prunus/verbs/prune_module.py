"""Pruning any torch module in memory, in place: the part of `prune` that needs no text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ProofError, RecipeError
from ..core.method import Method
from ..core.plan import Plan
from ..core.progress import Progress
from ..core.roles import Profile
from ..core.site import Site
from ..core.stats import Needs
from ..models.feed import Call, first_batches, runs_of
from ..models.modes import evaluating, free_norms, recalibrate
from ..models.modules import unwrapped
from ..recipe import Recipe
from ..stream.module_loop import ModuleLoop, Own
from ..stream.module_profile import ModuleTrials, module_gradients, module_profile
from ..stream.module_source import ModuleSource, Run
from ..stream.planning import Request, plan_steps
from ..stream.select import select_sites
from ..stream.trials import trial_levels
from .prepare import choice_of, limits_of

INPUTS = 1024
"""Inputs of the data that are looked at, if no other number is asked for."""


@dataclass(frozen=True)
class Fed:
    """What a module is run on: batches of ``data``, by ``call(model, batch)`` if not as usual, and ``loss(model, batch)``.
    ``recalibrated``: batch norms take their running statistics anew from it in the end."""

    data: Iterable[Any] | None = None
    call: Call | None = None
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    recalibrated: bool = True


def prune_module(whole: nn.Module, recipe: Recipe, fed: Fed, progress: Progress) -> tuple[Plan, list[dict[str, Any]], dict[
    str, Tensor
]]:  # fmt: skip
    """Prune a module in place; its Plan, a record a Site, and masks (True = kept) by parameter, in the parameters' shapes.

    On any failure the module is as it was.
    """
    method = _method(recipe, fed)
    model = unwrapped(whole)
    norms = free_norms(model) if fed.recalibrated else []
    batches = first_batches(fed.data, recipe.samples or INPUTS) if fed.data is not None else []
    runs = runs_of(model, batches, fed.call)
    with evaluating(model), torch.no_grad():
        source = ModuleSource(model, runs[0] if runs else None)
        own: dict[str, dict[str, Tensor]] = {}
        plan = _plan(source, recipe, method, (runs, batches, fed.loss), own, progress)
        loop = ModuleLoop(source, plan, runs, limits_of(recipe).budget, own, progress)
        before = {name: value.clone() for name, value in model.named_buffers()}
        try:
            records = loop.run()
            recalibrate(norms, runs if norms else [])
            masks = _masks(source, plan, loop)
        except BaseException:
            source.restore()
            for name, value in before.items():
                model.get_buffer(name).copy_(value)
            raise
    return plan, records, masks


def _method(recipe: Recipe, fed: Fed) -> Method:
    """The recipe's method for a module, of whose channels and blocks stages know nothing.

    Raises:
        RecipeError: if settings have no effect on a module, or data is missing.
    """
    method = recipe.build_method()
    faults = []
    stages = [spec for spec in recipe.stage or () if spec != "none"]
    if stages:
        faults.append(f"stage {stages}: stages work on the blocks of language models, not on a module with data")
    if recipe.own_text or recipe.calibration is not None:
        faults.append("own_text and calibration are text for language models: a module is calibrated on its data=")
    bare = replace(method, stages=())
    if fed.data is None and bare.looks_at_inputs:
        faults.append(f"method '{recipe.method}' looks at inputs: give data= (a DataLoader), or choose method='magnitude'")
    if fed.loss is None and bare.criterion.needs != bare.criterion.needs.of_inputs:
        faults.append("the criterion looks at gradients: give loss=, called with the model and a batch")
    if faults:
        raise RecipeError(faults)
    return bare


def _plan(source: ModuleSource, recipe: Recipe, method: Method,
          fed: tuple[Sequence[Run], Sequence[Any], Callable[[nn.Module, Any], Tensor] | None],
          own: dict[str, dict[str, Tensor]], progress: Progress) -> Plan:  # fmt: skip
    """The complete Plan; gradients that it or the run needs join ``own``."""
    runs, batches, loss = fed
    selection = select_sites(source, choice_of(recipe))
    needs = method.criterion.needs | method.compared_by.needs
    if loss is not None and needs & (Needs.GRAD | Needs.GRAD_SQ):
        losses = [partial(loss, source.model, batch) for batch in batches]
        own |= module_gradients(source, selection.sites, losses, needs)
    request = Request(method, recipe.wanted(), recipe.pins(), recipe.loose_pattern())
    survey = partial(_survey, source, method, runs, limits_of(recipe).budget, own, request, progress)
    steps, more = plan_steps(source, selection, request, survey)
    return Plan(
        model=type(source.model).__name__,
        fingerprint="in memory",
        method_name=recipe.method,
        method=method,
        steps=tuple(steps),
        untouched={**selection.untouched, **more},
        settings={"sparsity": recipe.sparsity, "set": list(recipe.set), "seed": recipe.seed, "batches": len(runs)},
        parameters=sum(parameter.numel() for parameter in source.model.parameters()),
    )


def _survey(source: ModuleSource, method: Method, runs: Sequence[Run], budget: int, own: Own, request: Request,
            progress: Progress, compared: Sequence[Site], limited: Sequence[Site]) -> Profile:  # fmt: skip
    profile = module_profile(source, [*compared, *limited], method, runs, budget, own)
    if not (method.allocator.needs_trials and compared and request.target is not None):
        return profile
    levels = trial_levels(method, request.target.sparsity)
    trials = ModuleTrials(source, method, compared, levels, runs, budget, own, progress)
    trials.build()
    return replace(profile, levels=levels, evaluate=trials.evaluate)


def _masks(source: ModuleSource, plan: Plan, loop: ModuleLoop) -> dict[str, Tensor]:
    """Masks by parameter, once it is proved that the parameters obey them."""
    found = {}
    for step in plan.steps:
        mask = step.site.layout.from_matrix(loop.masks[step.site.name].keep)
        written = int(torch.count_nonzero(source.parameter(step.site).detach()[~mask]))
        if written:
            raise ProofError(f"{step.site.name}: {written} weights that its mask drops are not zero.")
        found[step.site.parameter] = mask
    return found


def zeros_of(model: nn.Module, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of zeros of the pruned Sites, and of all parameters."""
    weights = sum(record["parameters"] for record in records)
    kept = sum(record["nonzeros"] for record in records)
    every = sum(parameter.numel() for parameter in model.parameters())
    nonzeros = sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())
    return {"sparsity": 1 - kept / weights, "sparsity_total": 1 - nonzeros / every}
