"""Least squares on fixed supports by one factorisation a row, in fp64, or one for all rows that share their support."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import SingularGramError

_CHUNK = 64 << 20
"""Bytes of Grams of supports held at once."""
_RIDGES = (0.0, 1e-6, 1e-4, 1e-2)
"""What is added to the unit diagonal, one after another, until every factorisation succeeds."""


def exact_refit(target: Tensor, gram: Tensor, keep: Tensor, name: str) -> tuple[Tensor, float]:
    """The W ``[rows cols]``, zero outside ``keep``, with (W G)_s = B_s on every row's support s; B = ``target``.

    ``gram [cols cols]`` has a unit diagonal. Where some G_ss is singular a ridge is added to all; it is returned as well.

    Raises:
        SingularGramError: if even the largest ridge does not help.
    """
    for ridge in _RIDGES:
        solved = _solve_rows(target.double(), gram.double(), keep, ridge)
        if solved is not None:
            return solved.to(target.dtype), ridge
    raise SingularGramError(
        f"{name}: a Gram of its survivors is singular even with {_RIDGES[-1]:g} on its unit diagonal. Use more tokens of "
        "other text, or check the model."
    )


def shares_support(keep: Tensor) -> bool:
    """Whether all rows of a mask ``[rows cols]`` are the same: whole columns go."""
    return bool((keep == keep[:1]).all())


def _solve_together(target: Tensor, gram: Tensor, support: Tensor, ridge: float) -> Tensor | None:
    """The same for all rows on one support ``[cols]``."""
    square = gram[support][:, support]
    square.diagonal().add_(ridge)
    factor, info = torch.linalg.cholesky_ex(square)
    if bool(info.any()):
        return None
    solved = torch.zeros_like(target)
    solved[:, support] = torch.cholesky_solve(target[:, support].T, factor).T
    return solved


def _solve_rows(target: Tensor, gram: Tensor, keep: Tensor, ridge: float) -> Tensor | None:
    rows, most = len(keep), int(keep.sum(-1).max()) if keep.numel() else 0
    solved = torch.zeros_like(target)
    if not most:
        return solved
    if shares_support(keep):
        return _solve_together(target, gram, keep[0], ridge)
    step = max(1, _CHUNK // (8 * most * most))
    for start in range(0, rows, step):
        chunk = keep[start : start + step]
        places = (~chunk).to(torch.uint8).argsort(dim=-1, stable=True)[:, :most]  # survivors first, then padding
        real = chunk.gather(-1, places)
        square = gram[places.unsqueeze(-1), places.unsqueeze(-2)] * (real.unsqueeze(-1) & real.unsqueeze(-2))
        square.diagonal(dim1=-2, dim2=-1).add_(torch.where(real, ridge, 1.0))
        factor, info = torch.linalg.cholesky_ex(square)
        if bool(info.any()):
            return None
        aim = (target[start : start + step].gather(-1, places) * real).unsqueeze(-1)
        found = torch.cholesky_solve(aim, factor).squeeze(-1)
        solved[start : start + step].scatter_(-1, places, found * real)
    return solved
