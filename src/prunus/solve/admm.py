"""ADMM: weights and mask found together, by splitting the layer's error from the pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, final

import torch
from torch import Tensor

from ..core.problem import Problem, Solution
from ..core.registry import solver
from ..core.roles import Solver
from ..core.stats import Needs
from .conjugate import refit
from .factor import inverse_of, scoring_stats
from .normal import Normal, Scaled, times
from .regrid import finished
from .stacked import Stacked
from .swap import refined


@final
@solver("admm", paper="arXiv:2406.07831", cost="a Gram, a factorisation a penalty and a product a step")
@dataclass(frozen=True)
class Admm(Solver):
    """Alternating directions with the projection inside (ALPS; the splitting of arXiv:2401.02938), then a polish.

    With inputs scaled to unit energy (W₀, G), penalty ρ and dual U: Ŵ ← (W₀G + ρ(Z − U))(G + ρI)⁻¹; Z ← Ŵ + U under the
    mask that criterion and pattern choose from it; U ← U + Ŵ − Z. With the criterion ``wanda`` that choice is the Euclidean
    projection. Every Ŵ is over-relaxed, αŴ + (1 − α)Z, so that fewer alternations are needed. ρ grows from a soft to a
    hard constraint, one factorisation of the shared G + ρI each time, and U is rescaled so that ρU stays. Last, conjugate
    gradients on the final support.
    """

    needs: ClassVar[Needs] = Needs.GRAM
    copies: ClassVar[float] = 18.0

    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal."""

    steps: int = 12
    """Alternations; earlier penalties get more of them."""

    rho: float = 0.2
    """First penalty, relative to the unit diagonal."""

    growth: float = 4.0
    """Factor from one penalty to the next."""

    penalties: int = 3
    """How many penalties; each takes a factorisation."""

    relaxation: float = 1.6
    """Over-relaxation: how far beyond Z each Ŵ is taken, 1 for not at all."""

    polish: int = 3
    """Conjugate-gradient steps on the final support."""

    swaps: int = 0
    """1-swaps a row by which the final mask is refined before the polish."""

    def __post_init__(self) -> None:
        if not 0 <= self.damp <= 1 or self.rho <= 0 or self.growth < 1:
            raise ValueError(
                f"damp {self.damp} must be in [0, 1], rho {self.rho} positive and growth {self.growth} at least 1"
            )
        if min(self.steps, self.polish, self.swaps) < 0 or self.penalties < 1:
            raise ValueError(
                f"steps {self.steps}, polish {self.polish} and swaps {self.swaps} must be at least 0, "
                f"penalties {self.penalties} at least 1"
            )

    @property
    def products(self) -> int:
        return 2 + self.steps + self.polish + self.penalties

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        start = perf_counter()
        scores, notes = scoring_stats(problems, self.damp)
        stack = Stacked.of(problems)
        scaled = Scaled.of(stack, self.damp)
        layers, dense = scaled.layers, scaled.dense
        target = times(dense, [layer.gram for layer in layers])

        def choose(weight: Tensor) -> Tensor:
            return stack.choose(weight / scaled.scale, scores)

        found = self._alternate(layers, dense, target, choose, problems[0].site.name)
        found, keep = refined(stack, scaled, found, choose(found), self.swaps)
        polished = [refit(target[k], layer.gram, keep[k], found[k], self.polish) for k, layer in enumerate(layers)]
        return finished(stack, torch.stack(polished).div_(scaled.scale), keep, perf_counter() - start, notes, self.damp)

    def _alternate(self, layers: Sequence[Normal], dense: Tensor, target: Tensor, choose: Callable[[Tensor], Tensor],
                   name: str) -> Tensor:  # fmt: skip
        """Ŵ + U ``[batch rows cols]`` after all alternations; everything in scaled inputs."""
        penalty = self.rho
        candidate = dense.clone()
        for stage, steps in enumerate(_shares(self.steps, self.penalties)):
            inverses = [inverse_of(layer.gram, penalty, name) for layer in layers]
            dual = torch.zeros_like(dense) if stage < self.penalties - 1 else None
            for step in range(steps):
                keep = choose(candidate)
                kept = candidate * keep
                if dual is not None and step == steps - 1:
                    torch.sub(candidate, kept, out=dual)
                # Ŵ + U follows from Z = kept and U = candidate − kept without either being formed
                goal = torch.add(target, kept, alpha=2 * penalty).sub_(candidate, alpha=penalty)
                current = times(goal, inverses)
                candidate.add_(current.sub_(kept), alpha=self.relaxation)
            if dual is not None:
                candidate.sub_(dual, alpha=1 - 1 / self.growth)
            penalty *= self.growth
        return candidate


def _shares(total: int, parts: int) -> list[int]:
    """``total`` steps shared out, the first part getting most: as p : p − 1 : … : 1.

    >>> _shares(12, 3), _shares(7, 2)
    ([6, 4, 2], [5, 2])
    """
    weights = range(parts, 0, -1)
    ends = [round(total * sum(weights[: k + 1]) / sum(weights)) for k in range(parts)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
