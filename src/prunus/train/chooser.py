"""How the masks of a model's layers are chosen, at any sparsity on the way to the one that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from ..allocate.manual import Pin
from ..core.method import Method
from ..core.plan import Step
from ..core.problem import Problem
from ..core.roles import Criterion, Pattern, Profile
from ..core.site import Site
from ..core.sparsity import Target
from ..core.stats import Stats
from ..stream.module_source import ModuleSource
from ..stream.planning import Request, plan_steps
from ..stream.profile import scored
from ..stream.select import Choice, Selection, select_sites
from .layers import SparseLayer

Rise = Callable[[float], float]
"""From the sparsity that is wanted in the end to the one that is wanted now."""


@final
@dataclass(frozen=True)
class Moved(Criterion):
    """Scores that a schedule keeps."""

    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        return stats.of_weights("moved")


@dataclass(frozen=True)
class Asked:
    """What is asked of the layers: by which method their masks are chosen, of what ``target``, with which pins."""

    method: Method
    target: Target | None
    pins: Sequence[Pin]
    loose: Pattern
    choice: Choice

    def now(self, rise: Rise) -> Asked:
        """The same on the way there. What is N:M is dense, as long as that is to be so, then N:M at once."""
        pins = [replace(pin, target=_risen(pin.target, rise)) if pin.target is not None else pin for pin in self.pins]
        return replace(self, target=_risen(self.target, rise) if self.target is not None else None, pins=pins)

    @property
    def is_dense(self) -> bool:
        """Whether no sparsity is asked for at all."""
        targets = [self.target, *(pin.target for pin in self.pins)]
        return all(pin.threshold is None for pin in self.pins) and not any(one.sparsity for one in targets if one)

    @property
    def hangs_on_weights(self) -> bool:
        """Whether weights have a part in how sparse each layer is."""
        return self.method.allocator.needs_profile or any(pin.threshold is not None for pin in self.pins)


def _risen(target: Target, rise: Rise) -> Target:
    now = rise(target.sparsity)
    return target if target.n is not None and now else Target(now)


class Chooser:
    """Chooses the masks of the layers of a model that ``trained`` (ids of parameters) has, at any sparsity."""

    def __init__(self, model: nn.Module, asked: Asked, trained: Collection[int]) -> None:
        self.source = ModuleSource(model, None)
        self.asked = asked
        self._known: dict[tuple[float | None, ...], list[Step]] = {}
        found = select_sites(self.source, asked.choice)
        self.still = [site for site in found.sites if id(self.source.parameter(site)) not in trained]
        """Layers that the optimizer does not train: their masks stay as they are."""
        left = {site.name: "the optimizer does not train it" for site in self.still}
        self.selection = Selection([site for site in found.sites if site not in self.still], {**found.untouched, **left})

    def layers(self) -> list[SparseLayer]:
        """Every layer that is trained, whole."""
        return self._layers(self.selection.sites)

    def still_layers(self) -> list[SparseLayer]:
        """The others, with the zeros that they have."""
        layers = self._layers(self.still)
        for layer in layers:
            layer.mask_zeros()
        return layers

    def _layers(self, sites: Sequence[Site]) -> list[SparseLayer]:
        parameters = [(site, self.source.parameter(site)) for site in sites]
        return [SparseLayer(site, parameter, torch.ones_like(parameter.detach())) for site, parameter in parameters]

    @torch.no_grad()
    def choose(self, layers: Sequence[SparseLayer], rise: Rise) -> None:
        """Give every layer the mask of its best weights, by the score that layers keep or by the method's criterion.

        Raises:
            RecipeError: if patterns do not fit, or settings name no layer.
        """
        criterion = Moved() if any(layer.score is not None for layer in layers) else self.asked.method.criterion
        steps = {step.site.name: step for step in self._steps(layers, self.asked.now(rise), criterion)}
        for layer in layers:
            step = steps.get(layer.site.name)
            if step is None:
                layer.mask.fill_(1)
            else:
                layer.mask.copy_(layer.site.layout.from_matrix(_select(layer, step, criterion)))

    def _steps(self, layers: Sequence[SparseLayer], asked: Asked, criterion: Criterion) -> list[Step]:
        """The sparsity and pattern of every layer that is not left whole."""
        if asked.is_dense:
            return []
        key = tuple(
            one.sparsity if one is not None else None for one in (asked.target, *(pin.target for pin in asked.pins))
        )
        if key in self._known:
            return self._known[key]
        by_name = {layer.site.name: layer for layer in layers}

        def survey(compared: Sequence[Site], limited: Sequence[Site]) -> Profile:
            return scored(lambda site: matrix_of(by_name[site.name]), criterion, lambda site: _own(by_name[site.name]), {})

        request = Request(replace(asked.method, criterion=criterion), asked.target, asked.pins, asked.loose)
        steps, _ = plan_steps(self.source, self.selection, request, survey)
        if not asked.hangs_on_weights:
            self._known[key] = steps
        return steps


def _select(layer: SparseLayer, step: Step, criterion: Criterion) -> Tensor:
    """Keep-mask ``[batch rows cols]`` of a layer's best weights."""
    weight = matrix_of(layer)
    problem = Problem(layer.site, weight, Stats.none(), step.sparsity, step.pattern, criterion, own=_own(layer))
    return problem.select(weight, Stats.none(), 0, layer.site.cols)


def matrix_of(layer: SparseLayer) -> Tensor:
    """A layer's weights in fp32, ``[batch rows cols]``, dropped ones with what they keep."""
    return layer.site.layout.to_matrix(layer.values).float().contiguous()


def _own(layer: SparseLayer) -> dict[str, Tensor]:
    return {} if layer.score is None else {"moved": layer.site.layout.to_matrix(layer.score).float()}
