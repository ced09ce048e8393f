"""Reading sparsities: ``0.5``, ``50%`` and ``2:4``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A wanted sparsity; ``n`` and ``m`` are set where it was given as N:M (N kept of every M)."""

    sparsity: float
    n: int | None = None
    m: int | None = None


def parse_sparsity(text: str | float) -> Target:
    """Read a sparsity.

    >>> parse_sparsity("2:4")
    Target(sparsity=0.5, n=2, m=4)
    >>> parse_sparsity("70%").sparsity
    0.7

    Raises:
        ValueError: if it is neither a fraction in [0, 1], a percentage nor N:M with 0 < N < M.
    """
    word = str(text).strip()
    ratio = re.fullmatch(r"(\d+):(\d+)", word)
    if ratio:
        n, m = int(ratio[1]), int(ratio[2])
        if not 0 < n < m:
            raise ValueError(f"sparsity '{word}': N:M keeps N of every M weights, so 0 < N < M (as in 2:4)")
        return Target(1 - n / m, n, m)
    try:
        value = float(word[:-1]) / 100 if word.endswith("%") else float(word)
    except ValueError:
        raise ValueError(f"sparsity '{word}' is neither a fraction (0.5), a percentage (50%) nor N:M (2:4)") from None
    if not 0 <= value <= 1:
        hint = f"; for {value:g} percent write {value:g}%" if 1 < value <= 100 and not word.endswith("%") else ""
        raise ValueError(f"sparsity {word} is outside [0, 1]: it is the fraction of weights set to zero{hint}")
    return Target(value)


def zeros(count: int, sparsity: float) -> int:
    """How many of ``count`` weights a sparsity drops: ⌊count·sparsity⌋, immune to the last bit of the product.

    >>> zeros(100, 0.29), zeros(576, 0.5), zeros(3, 0.5)
    (29, 288, 1)
    """
    product = count * sparsity
    nearest = round(product)
    return nearest if abs(product - nearest) < 1e-6 * max(1.0, product * 1e-6) else math.floor(product)
