"""Gradients of the loss: what a small change of a weight does to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from ..core.registry import criterion
from ..core.roles import Criterion
from ..core.stats import Needs, Stats


@final
@criterion(
    "gradient", paper="arXiv:2305.11627", cost="a backward pass over the inputs; every block's hidden states on disk"
)
@dataclass(frozen=True)
class Gradient(Criterion):
    """First-order Taylor |W_ij·g_ij| with g the gradient of the loss on the calibration text (LLM-Pruner, eq. 3).

    ``order = "fisher"`` takes the diagonal of the empirical Fisher information instead, W_ij²·Σ_n g_ij², summed over
    windows n: what removing the weight costs to second order where the gradient itself vanishes.

    >>> from torch import tensor
    >>> Gradient().score(tensor([[3.0, -1.0]]), Stats.of(tokens=8, grad=tensor([[0.5, 4.0]])))
    tensor([[1.5000, 4.0000]])
    """

    order: Literal["taylor", "fisher"] = "taylor"
    """First order (gradients summed over the text), or the Fisher diagonal (their squares summed)."""

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs.GRAD if self.order == "taylor" else Needs.GRAD_SQ

    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        if self.order == "taylor":
            return (weight * stats.of_weights("grad")).abs()
        return weight.square() * stats.of_weights("grad_sq")
