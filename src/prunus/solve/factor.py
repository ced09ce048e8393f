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
    """Factor of the inverse of H = XᵀX + damp·mean(diag)·I, in fp32, one batch entry at a time.

    Inputs that were always zero get H_jj = 1 first. One Cholesky and one triangular inverse instead of three
    factorisations: with J the reversal, JHJ = LLᵀ gives H = RRᵀ, R = JLJ upper triangular, and U = R⁻¹.
    A factorisation that fails is retried with ten times the damping, at most up to 1; the notes say so.

    Raises:
        NumericalError: if the Gram holds NaN or Inf.
        SingularGramError: if no damping up to 1 helps.
    """
    gram = stats.gram() if stats.gram().dim() == 3 else stats.gram().unsqueeze(0)
    if not torch.isfinite(gram.diagonal(dim1=-2, dim2=-1)).all():
        raise NumericalError(f"{name}: its inputs hold NaN or Inf. Check the model in this --dtype, or the text.")
    upper = torch.empty(gram.shape, device=gram.device)
    dead = gram.diagonal(dim1=-2, dim2=-1) == 0
    highest = damp
    for entry in range(len(gram)):
        tokens = int(stats.tokens[min(entry, len(stats.tokens) - 1)])
        upper[entry], used = _inverse_factor(gram[entry].float(), dead[entry], damp, f"{name} ({tokens} tokens)")
        highest = max(highest, used)
    raised = (f"damping raised from {damp:g} to {highest:g}: a Gram was singular",) if highest > damp else ()
    return InverseFactor(upper, dead, raised)


def _inverse_factor(gram: Tensor, dead: Tensor, damp: float, name: str) -> tuple[Tensor, float]:
    """U ``[cols cols]`` of one Gram, and the damping that it took."""
    reversed_gram = gram.flip(-2, -1)  # a copy
    diagonal = reversed_gram.diagonal()
    diagonal += dead.flip(-1)
    mean = diagonal.mean().clone()
    added, trial = 0.0, damp
    while True:
        diagonal += (trial - added) * mean
        added = trial
        lower, failed = torch.linalg.cholesky_ex(reversed_gram)
        if not failed.any():
            break
        trial = max(10 * trial, 1e-4)
        if trial > 1:
            cols = gram.shape[-1]
            raise SingularGramError(
                f"{name}: Gram {cols}x{cols} is singular (damp {damp:g}, raised to {added:g}). "
                f"Use at least {2 * cols} tokens (--samples, --seqlen), or set a damping such as "
                f"--solver sparsegpt:damp={max(0.01, 10 * damp):g}."
            )
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve_triangular(lower, identity, upper=False).flip(-2, -1), added
