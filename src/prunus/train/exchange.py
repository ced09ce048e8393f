"""Weights of a layer that die, and as many that grow."""

from __future__ import annotations

import torch
from torch import Tensor

from ..patterns.lowest import keep_all_but
from .layers import SparseLayer


@torch.no_grad()
def exchange(layer: SparseLayer, share: float, growth: Tensor) -> None:
    """Drop a share of the layer's live weights, the smallest, and let as many others grow, those of the highest ``growth``.

    All but the survivors are candidates, those that just died too (RigL, alg. 1): what dies and grows at once goes on as it
    was. The number of live weights stays what it is.
    """
    live = layer.mask.flatten() != 0
    places = live.nonzero().flatten()
    count = min(int(share * len(places)), live.numel() - len(places))
    if not count:
        return
    survivors = places[keep_all_but(layer.values.flatten()[places].abs().float(), count)]
    wanted = growth.flatten().float().index_fill(0, survivors, -torch.inf)
    kept = keep_all_but(wanted, live.numel() - count).index_fill_(0, survivors, True)
    layer.mask.copy_(kept.view_as(layer.mask))
