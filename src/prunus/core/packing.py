"""What a pruned matrix takes when only its survivors, where they stand and their scales are stored."""

from __future__ import annotations

from .problem import Solution
from .roles import Grid

_SCALE_BITS = 16


def packed_bytes(solution: Solution, grid: Grid | None) -> int:
    """Bytes of the survivors' values, their positions in the pattern, and the scales and zeros of a grid.

    Values take the grid's bits, without one those of the stored dtype; so do batch entries that were left dense.
    """
    mask, site = solution.mask, solution.site
    stored = 8 * site.dtype.itemsize
    dense = len(mask.dense)
    entry = site.rows * site.cols
    survivors = int(mask.keep.sum()) - dense * entry
    positions = mask.pattern.position_bits(site.rows, site.cols) if mask.sparsity else 0
    bits = dense * entry * stored + (site.batch - dense) * positions
    if grid is None:
        return -(-(bits + survivors * stored) // 8)
    groups = (site.batch - dense) * site.rows * (site.cols // grid.width(site.cols))
    return -(-(bits + survivors * grid.bits + groups * (_SCALE_BITS + grid.zero_bits)) // 8)
