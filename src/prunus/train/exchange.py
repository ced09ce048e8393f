"""Weights of a layer that die, and as many that grow."""

from __future__ import annotations

import torch
from torch import Tensor

from .layers import SparseLayer


@torch.no_grad()
def exchange(layer: SparseLayer, share: float, growth: Tensor) -> Tensor:
    """Drop a share of the layer's live weights, the smallest, and let as many others grow, those of the highest ``growth``;
    where they grew, bool in the parameter's shape.

    All but the survivors are candidates, those that just died too (RigL, alg. 1): what dies and grows at once goes on as it
    was. The number of live weights stays what it is.
    """
    live = layer.mask.flatten() != 0
    count = min(int(share * int(live.sum())), int((~live).sum()))
    if not count:
        return torch.zeros_like(layer.mask, dtype=torch.bool)
    size = layer.values.flatten().abs().float()
    dying = torch.where(live, size, torch.inf).topk(count, largest=False).indices
    survivors = live.clone()
    survivors[dying] = False
    wanted = growth.flatten().float().masked_fill(survivors, -torch.inf)
    kept = survivors.clone()
    kept[wanted.topk(count).indices] = True
    layer.mask.copy_(kept.view_as(layer.mask))
    return (kept & ~live).view_as(layer.mask)
