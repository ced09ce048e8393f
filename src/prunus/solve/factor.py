"""Factorising a damped Gram. Shared by every solver and criterion that needs H⁻¹."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import NumericalError, SingularGramError
from ..core.finite import all_finite
from ..core.matmul import linear, transposed_square
from ..core.problem import Problem
from ..core.stats import Needs, Stats

_SMALL = 128
"""Columns of a triangle that is inverted at one stroke."""


@dataclass(frozen=True)
class InverseFactor:
    """``upper [batch cols cols]`` with H⁻¹ = UᵀU, U upper triangular; ``dead [batch cols]`` inputs were always zero."""

    upper: Tensor
    dead: Tensor
    notes: tuple[str, ...]

    def inverse_diagonal(self) -> Tensor:
        """diag(H⁻¹) ``[batch cols]``; infinite where an input was always zero, so that what reads it scores nothing."""
        return self.upper.square().sum(dim=-2).masked_fill(self.dead, torch.inf)


def inverse_factor(stats: Stats, damp: float, name: str) -> InverseFactor:
    """Factor of the inverse of H = XᵀX + damp·mean(diag)·I, in fp32, one batch entry at a time.

    Inputs that were always zero get H_jj = 1 first. One Cholesky and one triangular inverse instead of three
    factorisations: with J the reversal, JHJ = LLᵀ gives H = RRᵀ, R = JLJ upper triangular, and U = R⁻¹.
    A factorisation that fails is retried with ten times the damping, at most up to 1; the notes say so.

    Raises:
        NumericalError: if the Gram holds NaN or Inf.
        SingularGramError: if no damping up to 1 helps.
    """
    gram = checked_gram(stats, name)
    upper = torch.empty(gram.shape, device=gram.device)
    dead = gram.diagonal(dim1=-2, dim2=-1) == 0
    highest = damp
    for entry in range(len(gram)):
        tokens = int(stats.tokens[min(entry, len(stats.tokens) - 1)])
        used = _invert_into(upper[entry], gram[entry], dead[entry], damp, f"{name} ({tokens} tokens)")
        highest = max(highest, used)
    raised = (f"damping raised from {damp:g} to {highest:g}: a Gram was singular",) if highest > damp else ()
    return InverseFactor(upper, dead, raised)


def checked_gram(stats: Stats, name: str) -> Tensor:
    """XᵀX ``[batch cols cols]``.

    Raises:
        NumericalError: if its diagonal holds NaN or Inf.
    """
    gram = stats.gram() if stats.gram().dim() == 3 else stats.gram().unsqueeze(0)
    if not all_finite(gram.diagonal(dim1=-2, dim2=-1)):
        raise NumericalError(f"{name}: its inputs hold NaN or Inf. Check the model in this --dtype, or the text.")
    return gram


def scoring_stats(problems: Sequence[Problem], damp: float) -> tuple[Stats, tuple[str, ...]]:
    """The Problems' shared Stats, with diag(H⁻¹) where a criterion asks for it, and notes on how that was come by."""
    stats = problems[0].stats
    if not any(Needs.GRAM in problem.criterion.needs for problem in problems):
        return stats, ()
    factor = inverse_factor(stats, damp, problems[0].site.name)
    return stats.with_moments(inverse_diagonal=factor.inverse_diagonal()), factor.notes


def inverse_of(gram: Tensor, ridge: float, name: str) -> Tensor:
    """(G + ridge·I)⁻¹ ``[cols cols]`` of a symmetric G with a unit diagonal.

    Raises:
        SingularGramError: if that is not positive definite.
    """
    lower = gram.clone()
    lower.diagonal().add_(ridge)
    if not _invert_factor(lower):
        raise SingularGramError(
            f"{name}: its Gram {len(gram)}x{len(gram)}, scaled to a unit diagonal, is not positive with {ridge:g} added to "
            "it. Use a larger rho= or damp= of the solver, or check the model and the text."
        )
    return transposed_square(lower)


def _invert_into(upper: Tensor, gram: Tensor, dead: Tensor, damp: float, name: str) -> float:
    """Write U ``[cols cols]`` of one Gram into ``upper``, the only square of memory that it takes; returns the damping that
    it took.
    """
    trial = damp
    while True:
        upper.copy_(gram)
        _reverse(upper)
        diagonal = upper.diagonal()
        diagonal += dead.flip(-1)
        diagonal += trial * diagonal.mean()
        if _invert_factor(upper):
            break
        failed, trial = trial, max(10 * trial, 1e-4)
        if trial > 1:
            cols = gram.shape[-1]
            raise SingularGramError(
                f"{name}: Gram {cols}x{cols} is singular (damp {damp:g}, raised to {failed:g} without help). "
                f"Use at least {2 * cols} tokens (--samples, --seqlen) of other text, or check the model."
            )
    _reverse(upper)
    return trial


def _reverse(matrix: Tensor) -> None:
    """M → JMJ in place: the order of rows and of columns reversed."""
    rows = len(matrix)
    half = rows // 2
    for start in range(0, half, _SMALL):
        stop = min(start + _SMALL, half)
        top = matrix[start:stop].flip(0, 1)
        matrix[start:stop] = matrix[rows - stop : rows - start].flip(0, 1)
        matrix[rows - stop : rows - start] = top
    if rows % 2:
        matrix[half] = matrix[half].flip(0)


def _invert_factor(matrix: Tensor) -> bool:
    """H → L⁻¹ in place, where H = LLᵀ; False where H is not positive definite. Mostly matrix products.

    With H = [A Bᵀ; B C]: L₁₁⁻¹ from A, L₂₁ = B L₁₁⁻ᵀ, L₂₂⁻¹ from C − L₂₁L₂₁ᵀ, and below the diagonal −L₂₂⁻¹ L₂₁ L₁₁⁻¹.
    """
    cols = len(matrix)
    if cols <= _SMALL:
        lower, info = torch.linalg.cholesky_ex(matrix)
        identity = torch.eye(cols, dtype=matrix.dtype, device=matrix.device)
        matrix.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
        return not bool(info.any())
    half = cols // 2 // _SMALL * _SMALL or cols // 2
    first, below, last = matrix[:half, :half], matrix[half:, :half], matrix[half:, half:]
    if not _invert_factor(first):
        return False
    lower = linear(below, first)
    last -= linear(lower, lower)
    if not _invert_factor(last):
        return False
    below.copy_(linear(linear(last, lower.mT), first.mT).neg_())
    matrix[:half, half:] = 0
    return True
