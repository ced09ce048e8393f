"""Stats: what the inputs of one or more Sites looked like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag, auto

import torch
from torch import Tensor


class Needs(Flag):
    """The moments that a method asks the observer to collect."""

    NOTHING = 0
    NORM = auto()
    """``norm_sq [batch cols]``: sum of squared inputs."""
    ABS = auto()
    """``abs_sum [batch cols]``: sum of absolute inputs."""
    SUM = auto()
    """``sum [batch cols]``: sum of inputs."""
    WINDOWS = auto()
    """``window_sq [batch cols]``: over windows, the sum of the squared mean absolute input of each."""
    GRAM = auto()
    """``gram [batch cols cols]``: XᵀX. Gives the norm as its diagonal."""
    DRIFT = auto()
    """``drift [batch cols cols]``: (X₀ − X)ᵀX with X₀ the same layer's inputs in the dense model; of a layer whose output
    is added to a residual stream ``behind [batch rows cols]`` instead: (t₀ − t)ᵀX with t the stream behind the dense layer.
    """
    GRAD = auto()
    """``grad [batch rows cols]``: gradient of the dense model's loss with respect to the weights."""
    GRAD_SQ = auto()
    """``grad_sq [batch rows cols]``: squares of the gradients of each window's loss, summed over windows."""
    SAMPLE = auto()
    """``sample [batch kept cols]``: evenly spaced input rows, to measure an output error without a Gram."""

    @property
    def of_inputs(self) -> Needs:
        """Those that are sums over a layer's inputs; gradients are not."""
        return self & ~(Needs.GRAD | Needs.GRAD_SQ)


_SQUARE = ("gram", "drift", "measured")
"""Moments that have a row for every input too."""


@dataclass(frozen=True)
class Stats:
    """Sums over the inputs X ``[tokens cols]`` of every Site that reads them.

    ``tokens [batch]`` counts the rows of X (an expert counts those routed to it). ``moments`` holds the sums by
    name, see :class:`Needs`; each carries a leading batch axis, which broadcasts where it is left out.
    """

    tokens: Tensor
    moments: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, tokens: int, **moments: Tensor) -> Stats:
        """Stats of a single input; ``tokens`` is a plain number.

        >>> Stats.of(tokens=8, norm_sq=torch.tensor([1.0, 16.0])).input_norm()
        tensor([[1., 4.]])
        """
        return cls(torch.tensor([tokens]), moments)

    @classmethod
    def none(cls) -> Stats:
        """Stats for methods that look at weights alone."""
        return cls(torch.zeros(1, dtype=torch.int64))

    def _moment(self, name: str) -> Tensor:
        if name not in self.moments:
            have = ", ".join(sorted(self.moments)) or "none"
            raise KeyError(f"Stats hold no '{name}' (they hold: {have}); declare it in `needs`")
        return self.moments[name]

    def norm_sq(self) -> Tensor:
        """‖X_j‖² of every input j, ``[.. cols]``."""
        if "norm_sq" in self.moments:
            return self.moments["norm_sq"]
        return self._moment("gram").diagonal(dim1=-2, dim2=-1)

    def input_norm(self) -> Tensor:
        """‖X_j‖₂ as a row, ``[.. 1 cols]``, to multiply a weight ``[.. rows cols]``."""
        return self.norm_sq().sqrt().unsqueeze(-2)

    def mean_abs(self) -> Tensor:
        """mean |X_j| as a row, ``[.. 1 cols]``; zero where no token was seen."""
        total = self._moment("abs_sum")
        count = self.tokens.clamp_min(1).to(total)
        return (total / (count.unsqueeze(-1) if total.dim() > 1 else count)).unsqueeze(-2)

    def mean(self) -> Tensor:
        """Mean of every input, ``[.. cols]``; zero where no token was seen."""
        total = self._moment("sum")
        count = self.tokens.clamp_min(1).to(total)
        return total / (count.unsqueeze(-1) if total.dim() > 1 else count)

    def variance(self) -> Tensor:
        """Variance of every input, ``[.. cols]``."""
        total = self.norm_sq()
        count = self.tokens.clamp_min(1).to(total)
        return (total / (count.unsqueeze(-1) if total.dim() > 1 else count) - self.mean().square()).clamp_min(0)

    def gram(self) -> Tensor:
        """XᵀX, ``[.. cols cols]``."""
        return self._moment("gram")

    def measured(self) -> Tensor:
        """XᵀX as it was measured, ``[.. cols cols]``, also where solvers are given another :meth:`gram`."""
        return self.moments["measured"] if self.has("measured") else self.gram()

    def drift(self) -> Tensor:
        """(X₀ − X)ᵀX, ``[.. cols cols]``."""
        return self._moment("drift")

    def inverse_diagonal(self) -> Tensor:
        """What a solver knows of diag((XᵀX)⁻¹), as a row ``[.. 1 cols]``."""
        return self._moment("inverse_diagonal").unsqueeze(-2)

    def of_weights(self, name: str) -> Tensor:
        """A moment of the weights themselves, ``[.. rows cols]`` or broadcastable to it."""
        return self._moment(name)

    def has(self, name: str) -> bool:
        """Whether this moment was collected."""
        return name in self.moments

    def columns(self, start: int, stop: int, **replace: Tensor) -> Stats:
        """The same Stats of inputs ``start:stop`` only; ``replace`` overrides moments with narrower ones."""
        narrow: dict[str, Tensor] = {}
        for name, moment in self.moments.items():
            if name in replace:
                continue
            narrow[name] = moment[..., start:stop, start:stop] if name in _SQUARE else moment[..., start:stop]
        return Stats(self.tokens, {**narrow, **replace})

    def permuted(self, order: Tensor) -> Stats:
        """The same Stats of inputs in another ``order [cols]``."""
        moments = {name: moment[..., order] for name, moment in self.moments.items()}
        squares = {name: moment[..., order, :] for name, moment in moments.items() if name in _SQUARE}
        return Stats(self.tokens, {**moments, **squares})

    def with_moments(self, **moments: Tensor) -> Stats:
        """A copy with these moments added or replaced."""
        return Stats(self.tokens, {**self.moments, **moments})
