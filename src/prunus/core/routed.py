"""What was seen of a layer's experts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Routed:
    """Sums ``[experts]`` over the tokens that were routed to each expert j: how many (``tokens``), of its gate g_j(x)
    (``gates``), of ‖f_j(x)‖ (``norms``) and of their product (``gated``).
    """

    tokens: Tensor
    gates: Tensor
    norms: Tensor
    gated: Tensor

    @property
    def unseen(self) -> Tensor:
        """The experts that no token came to, by number: nothing is known of them."""
        return (self.tokens == 0).nonzero().flatten()

    def mean(self, total: Tensor) -> Tensor:
        """A sum as a mean over the expert's tokens; zero where there were none."""
        return total / self.tokens.clamp_min(1)
