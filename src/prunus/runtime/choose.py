"""Dense or packed: each layer is run in the way that is faster on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..core.progress import Progress
from .arranged import Arranged, densified
from .linear import PackedLinear
from .load import Loaded, swap

_ROUNDS = 7
COLD_BYTES = 256 << 20
"""Dense weights that one round goes through, where the model has so many: what a layer really meets comes from memory, not
from a cache that the layer before it has filled."""


@dataclass(frozen=True)
class Choice:
    """Layers of one shape and layout, ``seconds`` a token that each takes packed and dense, and which was kept."""

    layout: str
    rows: int
    cols: int
    layers: int
    packed_seconds: float
    dense_seconds: float
    keeps_packed: bool


def keep_fastest(loaded: Loaded, progress: Progress) -> list[Choice]:
    """Time the packed layers of each shape against dense ones at one token, and make those dense that gain nothing.

    Dense is what the layer's values allow: fp32 by torch, or for codes the same codes with their zeros on prunus's dense
    kernel. Both take turns; medians are compared.
    """
    groups: dict[tuple[str, int, int, int], list[str]] = defaultdict(list)
    for path, module in loaded.model.named_modules():
        if isinstance(module, PackedLinear) and not module.arranged.layout.startswith("dense"):
            one = module.arranged
            groups[one.layout, one.rows, one.cols, one.group].append(path)
    choices = []
    progress.start("Timing layers", len(groups))
    for (layout, rows, cols, _), paths in groups.items():
        some = paths[: max(1, min(len(paths), COLD_BYTES // (4 * rows * cols)))]
        packed: list[Any] = [loaded.model.get_submodule(path) for path in some]
        packed_seconds, dense_seconds = times((packed, [_dense(module) for module in packed]), torch.randn(1, cols))
        keeps = packed_seconds < dense_seconds
        choices.append(Choice(layout, rows, cols, len(paths), packed_seconds, dense_seconds, keeps))
        for path in () if keeps else paths:
            swap(loaded.model, path, _dense(loaded.model.get_submodule(path)))
            loaded.layers[path] = "dense: faster here"
        progress.step(f"{layout} {rows}×{cols}")
    return choices


def _dense(module: PackedLinear) -> nn.Module:
    """The same layer with its zeros multiplied."""
    arranged: Arranged | None = densified(module.arranged, module.kernels)
    return module.unpacked() if arranged is None else PackedLinear(arranged, module.bias, module.kernels)


@torch.no_grad()
def times(sides: Sequence[Sequence[Callable[[Tensor], Tensor]]], x: Tensor) -> list[float]:
    """Median seconds a layer of each side on the activations ``x [tokens cols]``; sides take turns."""
    spent: list[list[float]] = [[] for _ in sides]
    for turn in range(_ROUNDS + 1):
        for side, seconds in zip(sides, spent, strict=True):
            _wait_for(x)
            start = perf_counter()
            for layer in side:
                layer(x)
            _wait_for(x)
            if turn:
                seconds.append((perf_counter() - start) / len(side))
    return [median(seconds) for seconds in spent]


def _wait_for(x: Tensor) -> None:
    """Until the device where ``x`` lies has done all that it was given."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
