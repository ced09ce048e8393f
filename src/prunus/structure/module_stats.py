"""What the layers of a model in memory read: statistics of the inputs of linear and convolutional layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.site import Site
from ..core.stats import Needs, Stats
from ..observe.tally import Tally

POSITIONS = 128
"""Most places of one map or sequence that are looked at, evenly spaced."""


@dataclass(frozen=True)
class ReaderLayer:
    """A layer whose weight, as a matrix ``[rows cols]``, reads what comes in; a convolution's is unfolded, its ``each``
    columns of a channel side by side."""

    path: str
    module: Any
    each: int

    @property
    def matrix(self) -> Tensor:
        """The weight in fp32, ``[rows cols]``."""
        weight: Tensor = self.module.weight
        return weight.detach().float().flatten(1)

    @property
    def site(self) -> Site:
        """The layer as a Site."""
        rows, cols = self.matrix.shape
        return Site(self.path, f"{self.path}.weight", (1, rows, cols), self.module.weight.dtype)

    def columns(self, positions: Tensor) -> Tensor:
        """Columns ``[units each]`` of units that have these ``positions [units channels]`` of what comes in."""
        return (positions.unsqueeze(-1) * self.each + torch.arange(self.each)).flatten(1)

    def rows_of(self, inputs: Tensor) -> Tensor:
        """What a batch reads, ``[windows places cols]``, some of the places where there are many."""
        if not isinstance(self.module, nn.Linear):
            return _patches(self.module, inputs)
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        return rows[:, :: _step(rows.shape[1])]


def _step(places: int) -> int:
    return -(-places // POSITIONS)


def _patches(conv: Any, inputs: Tensor) -> Tensor:
    """Some of the patches that a convolution reads, ``[windows places channels·kernel]``; no others are copied."""
    kernel, dilation, stride = conv.kernel_size, conv.dilation, conv.stride
    if any(conv._reversed_padding_repeated_twice):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        inputs = functional.pad(inputs, conv._reversed_padding_repeated_twice, mode=mode)
    if len(kernel) == 1:
        inputs, kernel, dilation, stride = inputs.unsqueeze(2), (1, *kernel), (1, *dilation), (1, *stride)
    views = inputs
    for dim in (0, 1):
        span = dilation[dim] * (kernel[dim] - 1) + 1
        views = views.unfold(2 + dim, span, stride[dim])[..., :: dilation[dim]]
    height, width = views.shape[2:4]
    places = torch.arange(0, height * width, _step(height * width), device=inputs.device)
    return views[:, :, places // width, places % width].transpose(1, 2).flatten(2)


def reader_layers(model: nn.Module) -> dict[str, ReaderLayer]:
    """The layers of a model whose inputs can be looked at, by the names of their weights."""
    found = {}
    for path, module in model.named_modules():
        conv = isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups == 1
        if conv or isinstance(module, nn.Linear):
            each = module.weight[0, 0].numel() if conv else 1
            found[f"{path}.weight" if path else "weight"] = ReaderLayer(path, module, each)
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context all modules are in evaluation mode; then each is in its own again, frozen norms too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def observe_layers(model: nn.Module, layers: Mapping[str, ReaderLayer], needs: Needs,
                   runs: Iterable[Callable[[], object]]) -> dict[str, Stats]:  # fmt: skip
    """Statistics of the inputs of ``layers``, by the names of their weights, from ``runs`` of the model in evaluation mode.

    Layers that are never called as modules have none.
    """
    tallies: dict[str, Tally] = {}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name, layer in layers.items():

            def seen(module: nn.Module, args: Any, name: str = name, layer: ReaderLayer = layer) -> None:
                if not args or not isinstance(args[0], Tensor):
                    return
                rows = layer.rows_of(args[0].detach().float())
                if name not in tallies:
                    tallies[name] = Tally(1, rows.shape[-1], needs, rows.device, [layer.site])
                tallies[name].add(0, rows)

            stack.callback(layer.module.register_forward_pre_hook(seen).remove)
        for run in runs:
            run()
    return {name: tally.stats() for name, tally in tallies.items()}
