"""Grams with their eigenvalues drawn together: what was measured on one text, taken less literally. Before any solver."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import NumericalError
from ..core.matmul import linear
from ..core.stats import Stats
from .factor import checked_gram


def tempered(stats: Stats, power: float, name: str) -> Stats:
    """Stats with Hᵖ·tr H/tr Hᵖ in the place of their Gram H, which stays as ``measured``: errors are taken from that.

    Where there are ‖X_j‖², its diagonal takes their place: criteria see it as solvers do.
    Another text has other directions. Those that the calibration text hardly has, least squares gives up for the sake of
    what it has; a power p < 1 lets them count for more, and leaves eigenvectors, and so what inputs have in common, alone.
    Inputs that were always zero stay so. Without a Gram, or with a power of 1, nothing is changed.

    Raises:
        NumericalError: if a Gram holds NaN or Inf, or its eigenvalues are not found.
    """
    if power == 1 or not stats.has("gram"):
        return stats
    gram = torch.stack([_power(one, power, name) for one in checked_gram(stats, name)])
    moments = {"gram": gram, "measured": stats.gram()}
    if stats.has("norm_sq"):
        moments["norm_sq"] = gram.diagonal(dim1=-2, dim2=-1)
    return stats.with_moments(**moments)


def _power(gram: Tensor, power: float, name: str) -> Tensor:
    """Hᵖ ``[cols cols]``, with the trace of H."""
    try:
        values, vectors = torch.linalg.eigh(gram)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NumericalError(f"{name}: the eigenvalues of its Gram are not found ({error}). Try --temper 1.") from error
    values = values.clamp_min_(0)
    raised = values.pow(power)
    raised *= values.sum() / raised.sum().clamp_min(torch.finfo(raised.dtype).tiny)
    result = linear(vectors * raised, vectors)
    dead = gram.diagonal() == 0
    result[dead] = 0
    result[:, dead] = 0
    return result
