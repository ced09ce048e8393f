"""Conjugate gradients on fixed supports: every row's survivors at once, one matrix product a step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.matmul import linear


def refit(target: Tensor, gram: Tensor, keep: Tensor, start: Tensor, steps: int, tolerance: float = 1e-6) -> Tensor:
    """Minimise tr(W G Wᵀ) − 2 tr(W Bᵀ) over W ``[rows cols]`` that are zero outside ``keep``; B = ``target``.

    With B = W₀G that is ‖(W₀ − W)X‖² up to a constant. ``gram [cols cols]`` is expected with a unit diagonal, which makes
    its diagonal the preconditioner. A row is done after ``steps``, or when its residual has shrunk to ``tolerance`` times
    its target. Never worse than ``start``: each step lowers every row's objective.
    """
    support = keep.to(target.dtype)
    weight = start * support
    residual = (target - linear(weight, gram)).mul_(support)
    direction = residual.clone()
    power = residual.square().sum(-1, keepdim=True)
    enough = tolerance**2 * (target * support).square().sum(-1, keepdim=True)
    for _ in range(steps):
        unfinished = power > enough
        if not unfinished.any():
            break
        image = linear(direction, gram).mul_(support)
        bend = (direction * image).sum(-1, keepdim=True)
        length = torch.where(unfinished & (bend > 0), power / bend, torch.zeros_like(power))
        weight.addcmul_(direction, length)
        residual.addcmul_(image, length, value=-1)
        before, power = power, residual.square().sum(-1, keepdim=True)
        direction.mul_(power / before.clamp_min(torch.finfo(power.dtype).tiny)).add_(residual)
    return weight
