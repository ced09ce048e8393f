"""What the layers of a model in memory read: statistics of the inputs of linear and convolutional layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.site import Site
from ..core.stats import Needs, Stats
from ..models.modes import evaluating
from ..models.modules import layout_of
from ..observe.applied import AppliedObserver


@dataclass(frozen=True)
class ReaderLayer:
    """A linear layer, or a convolution of one group, whose weight is a matrix ``[rows cols]`` of what comes in."""

    path: str
    module: Any
    site: Site

    @property
    def matrix(self) -> Tensor:
        """The weight in fp32, ``[rows cols]``."""
        return self.as_matrix(self.module.weight.detach())

    def as_matrix(self, stored: Tensor) -> Tensor:
        """A tensor of the weight's shape in fp32, ``[rows cols]``."""
        return self.site.layout.to_matrix(stored).float()[0]

    def columns(self, positions: Tensor) -> Tensor:
        """Columns ``[units each]`` of units that have these ``positions [units channels]`` of what comes in."""
        each = math.prod(self.site.layout.kernel)
        starts = torch.arange(each) * (self.site.cols // each)
        return (positions.unsqueeze(-1) + starts).flatten(1)


def reader_layers(model: nn.Module) -> dict[str, ReaderLayer]:
    """The layers of a model whose inputs can be looked at, by the names of their weights."""
    found = {}
    for path, module in model.named_modules():
        layout = layout_of(module, "weight")
        plain = isinstance(module, nn.Linear) or (layout is not None and layout.kernel and layout.groups == 1)
        if layout is not None and plain and not layout.transposed:
            name = f"{path}.weight" if path else "weight"
            weight = module.get_parameter("weight")
            _, rows, cols = layout.to_matrix(weight.detach()).shape
            found[name] = ReaderLayer(path, module, Site(path, name, (1, rows, cols), weight.dtype, layout=layout))
    return found


@torch.no_grad()
def observe_layers(model: nn.Module, layers: Mapping[str, ReaderLayer], needs: Needs,
                   runs: Iterable[Callable[[], object]]) -> dict[str, Stats]:  # fmt: skip
    """Statistics of the inputs of ``layers``, by the names of their weights, from ``runs`` of the model in evaluation mode.

    Layers whose weights are never applied have none.
    """
    observer = AppliedObserver({layer.module.weight: layer.site for layer in layers.values()}, needs)
    with evaluating(model):
        for run in runs:
            observer.watch(run)
    return {site.parameter: stats for sites, stats in observer.result() for site in sites}
