"""Wanda: pruning by weights and activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from ..core.registry import criterion
from ..core.roles import Criterion
from ..core.stats import Needs, Stats


@final
@criterion("wanda", paper="arXiv:2306.11695", cost="one pass over the inputs")
@dataclass(frozen=True)
class Wanda(Criterion):
    """Weight magnitude times the norm of its input, |W_ij|·‖X_j‖₂ (eq. 1).

    ``statistic = "mean_abs"`` replaces the norm by mean |X_j|, as a widespread tutorial does; together with the
    pattern ``unstructured:scope=layer`` it is that tutorial's variant, not the paper's Wanda.

    >>> from torch import tensor
    >>> Wanda().score(tensor([[3.0, -1.0]]), Stats.of(tokens=8, norm_sq=tensor([1.0, 16.0])))
    tensor([[3., 4.]])
    """

    elementwise: ClassVar[bool] = True

    power: float = 1.0
    """Exponent of the input statistic; 0 is plain magnitude."""

    statistic: Literal["norm", "mean_abs"] = "norm"
    """What is taken of each input: its L2 norm (the paper) or its mean absolute value (the tutorial)."""

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs.NORM if self.statistic == "norm" else Needs.ABS

    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        inputs = stats.input_norm() if self.statistic == "norm" else stats.mean_abs()
        return weight.abs() * (inputs if self.power == 1.0 else inputs**self.power)
