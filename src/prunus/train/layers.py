"""The layers of a model that is trained sparse: what each keeps beside its parameter, and how masks are chosen."""

from __future__ import annotations

from collections.abc import Sequence
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
from ..stream.select import Choice, select_sites


@final
@dataclass(frozen=True)
class Moved(Criterion):
    """Scores that a schedule keeps."""

    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        return stats.of_weights("moved")


@dataclass
class SparseLayer:
    """A Site's parameter with its ``mask`` (1 = kept, in the parameter's shape and dtype), the ``dense`` values that
    dropped weights keep and the ``score`` that a schedule does, where there are such, and a step's whole ``gradient``
    where one is waited for."""

    site: Site
    parameter: nn.Parameter
    mask: Tensor
    dense: Tensor | None = None
    score: Tensor | None = None
    gradient: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """The weights, dropped ones with what they keep."""
        return self.parameter.detach() if self.dense is None else self.dense

    @property
    def live(self) -> int:
        """How many weights are kept."""
        return int(torch.count_nonzero(self.mask))


@dataclass(frozen=True)
class Asked:
    """What is asked of the layers: by which method their masks are chosen, of what ``target``, with which pins."""

    method: Method
    target: Target | None
    pins: Sequence[Pin]
    loose: Pattern
    choice: Choice


class Chooser:
    """Chooses the masks of a model's layers, at any sparsity."""

    def __init__(self, model: nn.Module, asked: Asked) -> None:
        self.source = ModuleSource(model, None)
        self.asked = asked
        self._known: dict[float, list[Step]] = {}
        self.selection = select_sites(self.source, asked.choice)

    def layers(self) -> list[SparseLayer]:
        """Every layer, whole."""
        parameters = [(site, self.source.parameter(site)) for site in self.selection.sites]
        return [SparseLayer(site, parameter, torch.ones_like(parameter.detach())) for site, parameter in parameters]

    def steps(self, layers: Sequence[SparseLayer], sparsity: float, criterion: Criterion) -> list[Step]:
        """The sparsity and pattern of every layer that is not left whole, if all together are to be so sparse.

        Raises:
            RecipeError: if patterns do not fit, or settings name no layer.
        """
        by_name = {layer.site.name: layer for layer in layers}
        asked = self.asked
        if sparsity in self._known:
            return self._known[sparsity]
        own = asked.target is not None and asked.target.n is not None
        target = asked.target if own or asked.target is None else Target(sparsity)

        def survey(compared: Sequence[Site], limited: Sequence[Site]) -> Profile:
            return scored(lambda site: matrix_of(by_name[site.name]), criterion, lambda site: _own(by_name[site.name]), {})

        request = Request(replace(asked.method, criterion=criterion), target, asked.pins, asked.loose)
        steps, _ = plan_steps(self.source, self.selection, request, survey)
        if not asked.method.allocator.needs_profile and not any(pin.threshold is not None for pin in asked.pins):
            self._known[sparsity] = steps  # they do not hang on the weights
        return steps

    @torch.no_grad()
    def choose(self, layers: Sequence[SparseLayer], sparsity: float, by_score: bool = False) -> None:
        """Give every layer the mask of its best weights, by the method's criterion or by the score that layers keep."""
        criterion = Moved() if by_score else self.asked.method.criterion
        steps = {step.site.name: step for step in self.steps(layers, sparsity, criterion)}
        for layer in layers:
            step = steps.get(layer.site.name)
            if step is None:
                layer.mask.fill_(1)
            else:
                chosen = _select(layer, step, criterion)
                layer.mask.copy_(layer.site.layout.from_matrix(chosen))


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
