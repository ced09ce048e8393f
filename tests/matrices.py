"""Matrices with zeros, as tools write them."""

from __future__ import annotations

import torch
from torch import Tensor


def sparse(rows: int, cols: int, density: float, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=generator)
    keep = torch.rand(rows, cols, generator=generator) < density
    return (weight * keep).to(dtype)  # a negative weight times zero is -0.0, as many tools write it


def pairs(rows: int, cols: int, n: int = 2, m: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=generator)
    groups = torch.rand(rows, cols // m, m, generator=generator)
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, groups.topk(n, dim=-1).indices, True).flatten(1)
    return torch.where(keep, weight, torch.zeros(()))


def same_bytes(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )
