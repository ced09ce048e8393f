"""Which inputs should share a group of N:M, so that fewer important weights have to go. Used by the stage ``permute``."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 512
"""Rows that are looked at; more are sampled evenly."""
_CELLS = 1 << 26
"""Entries of the largest tensor that is made at once."""


def channel_permutation(scores: Tensor, n: int, m: int, rounds: int = 1) -> Tensor:
    """The order ``[width]`` of the columns of ``scores [rows width]`` that loses little when N of every M are kept.

    As RIA's (sec. 3.2): columns are dealt out by the sum of their scores, back and forth, one to each group in turn; then,
    slot by slot, the columns in it are assigned anew to the groups so that the sum of the scores that are kept is largest
    (the Hungarian method), ``rounds`` times. What a column adds to a group is Σ_rows max(0, score − t) with t the N-th
    highest score of the others in the group.
    """
    rows, width = scores.shape
    if rows > _ROWS:
        scores = scores[torch.linspace(0, rows - 1, _ROWS, device=scores.device).long()]
    groups = width // m
    dealt = scores.sum(0).argsort(descending=True, stable=True).view(m, groups)
    slots = torch.stack([slot if k % 2 == 0 else slot.flip(0) for k, slot in enumerate(dealt)])  # [m groups]
    for _ in range(rounds):
        for k in range(m):
            others = scores[:, slots[[j for j in range(m) if j != k]].T]  # [rows groups m-1]
            threshold = others.topk(n, dim=-1).values[..., -1]
            slots[k] = slots[k][_assigned(_gains(threshold, scores[:, slots[k]]))]
    return slots.T.flatten()


def _gains(threshold: Tensor, candidates: Tensor) -> Tensor:
    """Σ_rows max(0, c − t) of every candidate c ``[rows groups]`` in every group of ``threshold [rows groups]``."""
    rows, groups = threshold.shape
    step = max(1, _CELLS // (rows * groups))
    return torch.cat([
        (candidates.unsqueeze(1) - threshold[:, start : start + step].unsqueeze(2)).clamp_min_(0).sum(0)
        for start in range(0, groups, step)
    ])  # fmt: skip


def _assigned(gains: Tensor) -> Tensor:
    """For every group the candidate that it gets, by the largest sum of ``gains [groups candidates]``."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(gains.cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(gains.device)
