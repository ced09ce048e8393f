"""Weights on a grid: to the nearest value, and as the codes that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.problem import Problem
from ..core.roles import Levels


def nearest(problem: Problem, weight: Tensor) -> tuple[Tensor, list[Levels]]:
    """``weight [batch rows cols]`` rounded to the grid of its Problem, every group by itself, and the groups' levels."""
    if problem.grid is None:
        return weight, []
    width = problem.grid.width(problem.site.cols)
    parts, found = [], []
    for part in weight.split(width, dim=-1):
        levels = problem.grid.fit(part, torch.ones_like(part[:, :1]), problem.site.dtype)
        parts.append(problem.grid.snap(part, levels))
        found.append(levels)
    return torch.cat(parts, dim=-1), found


def packed(problem: Problem, weight: Tensor, levels: Sequence[Levels]) -> Mapping[str, Tensor]:
    """What a Solution carries of ``weight [batch rows cols]`` that lies on a grid; nothing where there is none."""
    if problem.grid is None:
        return {}
    width = problem.grid.width(problem.site.cols)
    parts = weight.split(width, dim=-1)
    codes = torch.cat([problem.grid.codes(part, one) for part, one in zip(parts, levels, strict=True)], dim=-1)
    return {
        "codes": codes.to(problem.grid.code_dtype),
        "scales": torch.cat([one.scale for one in levels], dim=-1),
        "zeros": torch.cat([one.zero for one in levels], dim=-1),
    }
