"""What is kept of a solved Site beside its weights: its record, and the levels of its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.mask import covered
from ..core.packing import packed_bytes
from ..core.problem import Solution
from ..core.roles import Grid, scale_dtype


def stored_levels(solutions: Sequence[Solution], grid: Grid | None) -> dict[str, Tensor]:
    """Scales and zeros of weights on a grid, by what is stored of them; what was left dense as a whole is on none."""
    found: dict[str, Tensor] = {}
    if grid is None:
        return found
    for solution in [one for one in solutions if len(one.mask.dense) < one.site.batch]:
        parameter, levels = solution.site.parameter, solution.extra
        if "scales" in levels:
            found[f"{parameter}.scales"] = levels["scales"].to("cpu", scale_dtype(solution.site.dtype)).contiguous()
        if "zeros" in levels and grid.zero_bits:
            found[f"{parameter}.zeros"] = levels["zeros"].to("cpu", torch.uint8).contiguous()
    return found


def site_record(solution: Solution, grid: Grid | None, block_seconds: float) -> dict[str, Any]:
    """What ``prunus.json`` says of one Site; ``block_seconds`` are those of its whole block."""
    cover = covered(solution.weight, solution.mask.pattern, solution.mask.dense)
    record: dict[str, Any] = {
        "name": solution.site.name,
        "block": solution.site.block,
        "layer": solution.site.role,
        "shape": list(solution.site.shape) if solution.site.batch > 1 else list(solution.site.shape[1:]),
        "parameters": solution.site.numel,
        "sparsity": int((~cover).sum()) / solution.site.numel,
        "nonzeros": int(torch.count_nonzero(solution.weight)),
        "packed_bytes": packed_bytes(solution, grid),
        "rel_error": solution.rel_error,
        "error_of": solution.error_of,
        "seconds": round(solution.seconds, 4),
        "block_seconds": round(block_seconds, 4),
        "permuted": "order" in solution.extra,
        "notes": list(solution.notes),
    }
    if "matched" in solution.extra:
        record["block_error"] = dict(zip(("before", "after"), solution.extra["matched"].tolist(), strict=True))
    if "tokens" in solution.extra:
        record["experts"] = {
            "tokens": solution.extra["tokens"].tolist(),
            "starved": solution.extra["starved"].nonzero().flatten().tolist(),
            "dense": list(solution.mask.dense),
        }
    return record


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """A block's errors in a few words, for the progress bar."""
    if not records:
        return "nothing to prune"
    mean = sum(record["rel_error"] for record in records) / len(records)
    return f"error {mean:.4f}"
