"""Factorising a damped Gram. Shared by every solver and criterion that needs H⁻¹."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import NumericalError, SingularGramError
from ..core.stats import Stats


@dataclass(frozen=True)
class InverseFactor:
    """``upper [batch cols cols]`` with H⁻¹ = UᵀU, U upper triangular; ``dead [batch cols]`` inputs were always zero."""

    upper: Tensor
    dead: Tensor
    notes: tuple[str, ...]

    def inverse_diagonal(self) -> Tensor:
        """diag(H⁻¹) ``[batch cols]``."""
        return self.upper.square().sum(dim=-2)


def inverse_factor(stats: Stats, damp: float, name: str) -> InverseFactor:
    """Factor of the inverse of H = XᵀX + damp·mean(diag)·I, in fp32.

    Inputs that were always zero get H_jj = 1 first. One Cholesky and one triangular inverse instead of three
    factorisations: with J the reversal, JHJ = LLᵀ gives H = RRᵀ, R = JLJ upper triangular, and U = R⁻¹.
    A factorisation that fails is retried with ten times the damping, at most up to 1; the notes say so.

    Raises:
        NumericalError: if the Gram holds NaN or Inf.
        SingularGramError: if no damping up to 1 helps.
    """
    gram = stats.gram().float()
    gram = gram.clone() if gram.dim() == 3 else gram.unsqueeze(0).clone()
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    if not torch.isfinite(diagonal).all():
        raise NumericalError(f"{name}: its inputs hold NaN or Inf. Check the model in this --dtype, or the text.")
    dead = diagonal == 0
    diagonal += dead
    mean = diagonal.mean(-1, keepdim=True)
    added, trial = 0.0, damp
    notes: tuple[str, ...] = ()
    while True:
        diagonal += (trial - added) * mean
        added = trial
        lower, failed = torch.linalg.cholesky_ex(gram.flip(-2, -1))
        if not failed.any():
            break
        trial = max(10 * trial, 1e-4)
        if trial > 1:
            cols, tokens = gram.shape[-1], int(stats.tokens.min())
            raise SingularGramError(
                f"{name}: Gram {cols}x{cols} is singular after {tokens} tokens (damp {damp:g}, raised to {added:g}). "
                f"Use at least {2 * cols} tokens (--samples, --seqlen), or set a damping such as "
                f"--solver sparsegpt:damp={max(0.01, 10 * damp):g}."
            )
        notes = (f"damping raised from {damp:g} to {trial:g}: the Gram was singular",)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).expand_as(lower)
    upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(-2, -1)
    return InverseFactor(upper, dead, notes)
