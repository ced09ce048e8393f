"""1-swap refinement: a dropped weight comes back and a kept one goes in its place, as long as that lowers the error.

No solver of its own: several have it as an option.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.matmul import linear
from .normal import Scaled
from .stacked import Stacked

_SHORTLIST = 16
"""Candidates on either side of a swap, by what each changes alone, of which all pairs are weighed."""
_LEAST = 1e-6
"""Of a row's energy, what a swap must gain."""
_PAIRS = 1 << 24
"""Pairs of candidates, of all groups of all rows, that are weighed at once."""


def refined(stack: Stacked, scaled: Scaled, weight: Tensor, keep: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Weight and mask ``[batch rows cols]`` of all Problems, in scaled inputs, after :func:`swap`.

    Fixed masks, and patterns in which nothing may change places, are left as they are, unmasked values too.
    """
    if not rounds:
        return weight, keep
    weight, keep = weight.clone(), keep.clone()
    for problem, span in zip(stack.problems, stack.spans, strict=True):
        group = problem.pattern.swap_group(problem.site.cols) if problem.fixed_mask is None else None
        if group is None:
            continue
        pairs = problem.site.cols // group * min(_SHORTLIST, group) ** 2  # of a row
        rows = max(1, _PAIRS // pairs)
        for entry, layer in enumerate(scaled.layers):
            for start in range(span.start, span.stop, rows):
                place = (entry, slice(start, min(start + rows, span.stop)))
                weight[place], keep[place] = swap(
                    scaled.dense[place], weight[place], layer.gram, keep[place], group, rounds
                )
    return weight, keep


def swap(dense: Tensor, weight: Tensor, gram: Tensor, keep: Tensor, group: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Refine ``weight [rows cols]`` and its mask ``keep`` by at most ``rounds`` swaps a row, each the best of its row.

    With e = w − ŵ and c = eG, letting u back at its dense value and dropping q changes the row's error eGeᵀ by
    −2w_u c_u + w_u²G_uu + 2ŵ_q c_q + ŵ_q²G_qq − 2w_u ŵ_q G_uq. Swaps stay within ``group`` consecutive columns (all of them
    for unstructured patterns, M for N:M), so that every pattern that counts within them holds. Of a group wider than the
    shortlist only the pairs of the best candidates are weighed. Returns the new weight and mask.
    """
    weight, keep = weight * keep, keep.clone()
    slope = linear(dense - weight, gram)
    own = gram.diagonal()
    least = _LEAST * (linear(dense, gram) * dense).sum(-1)
    rows = torch.arange(len(weight), device=weight.device)
    for _ in range(rounds):
        back = torch.where(keep, torch.inf, dense * (dense * own - 2 * slope))
        out = torch.where(keep, weight * (weight * own + 2 * slope), torch.inf)
        change, u, q = _best_pairs(back, out, dense, weight, gram, group)
        chosen = change < -least
        if not chosen.any():
            break
        at, u, q = rows[chosen], u[chosen], q[chosen]
        came, went = dense[at, u].unsqueeze(1), weight[at, q].unsqueeze(1)
        slope[at] += went * gram[q] - came * gram[u]
        weight[at, u], weight[at, q] = came.squeeze(1), 0.0
        keep[at, u], keep[at, q] = True, False
    return weight, keep


def _best_pairs(back: Tensor, out: Tensor, dense: Tensor, weight: Tensor, gram: Tensor, group: int) -> tuple[
    Tensor, Tensor, Tensor
]:  # fmt: skip
    """The best swap of every row: its change ``[rows]``, the column that comes back and the one that goes."""
    back, out = back.unflatten(-1, (-1, group)), out.unflatten(-1, (-1, group))  # [rows groups group]
    width = min(_SHORTLIST, group)
    first = torch.arange(0, gram.shape[0], group, device=gram.device).view(1, -1, 1)
    gain_back, u = back.topk(width, dim=-1, largest=False)
    gain_out, q = out.topk(width, dim=-1, largest=False)
    u, q = (u + first).flatten(1), (q + first).flatten(1)
    came = dense.gather(1, u).view_as(gain_back).unsqueeze(-1)
    went = weight.gather(1, q).view_as(gain_out).unsqueeze(-2)
    shared = gram[u.view_as(gain_back).unsqueeze(-1), q.view_as(gain_out).unsqueeze(-2)]
    change = gain_back.unsqueeze(-1) + gain_out.unsqueeze(-2) - 2 * came * went * shared
    best, place = change.flatten(1).nan_to_num(nan=torch.inf).min(-1)
    number, pair = place // (width * width), place % (width * width)
    rows = torch.arange(len(best), device=best.device)
    return best, u[rows, number * width + pair // width], q[rows, number * width + pair % width]
