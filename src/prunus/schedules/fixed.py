"""Masks that stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..core.registry import schedule
from ..core.schedule import Schedule


@final
@schedule("fixed", paper="arXiv:1506.02626", cost="one product a weight and step")
@dataclass(frozen=True)
class Fixed(Schedule):
    """The zeros that are there stay, or the smallest weights go before the first step and stay away (Han et al. 2015).

    With ``criterion="random", allocation="erk"`` it is static random sparse training, the control of dynamic ones.
    """

    needs_steps: ClassVar[bool] = False

    def due(self, step: int, steps: int) -> bool:
        return False
