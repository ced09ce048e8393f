"""Problem and Solution: one layer before and after a solver."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from .errors import NumericalError
from .finite import all_finite
from .mask import Mask
from .matmul import energy
from .roles import Criterion, Grid, Pattern
from .site import Site
from .sparsity import zeros
from .stats import Stats

_EMPTY = "no weight is left, so that nothing passes; give it a sparsity of its own (--set), or another allocation"


@dataclass(frozen=True)
class Problem:
    """Find Ŵ near ``weight [batch rows cols]`` (fp32) that minimises ‖(W − Ŵ)X‖² with its zeros in ``pattern``.

    A ``fixed_mask`` takes the choice of zeros away from criterion and pattern. A ``grid`` asks for survivors that
    lie on a quantisation grid. ``own`` holds moments of the weights themselves, such as their gradients, each
    ``[batch rows cols]``. ``aim`` are other weights than W that Ŵ is to come near to, where another output than WX is aimed
    at; errors are told from W all the same.
    """

    site: Site
    weight: Tensor
    stats: Stats
    sparsity: float
    pattern: Pattern
    criterion: Criterion
    grid: Grid | None = None
    fixed_mask: Mask | None = None
    own: Mapping[str, Tensor] = field(default_factory=dict)
    aim: Tensor | None = None

    @property
    def aimed(self) -> Tensor:
        """The weights ``[batch rows cols]`` that a solver starts from and goes for."""
        return self.weight if self.aim is None else self.aim

    @property
    def dense(self) -> tuple[int, ...]:
        """Batch entries that a fixed mask keeps whole, whatever the pattern."""
        return self.fixed_mask.dense if self.fixed_mask is not None else ()

    @property
    def changes(self) -> bool:
        """Whether anything is dropped or rounded."""
        return self.sparsity > 0 or self.grid is not None

    def select(self, weight: Tensor, stats: Stats, start: int, stop: int) -> Tensor:
        """Keep-mask of columns ``start:stop``, chosen from ``weight [batch rows stop-start]`` as it is now.

        Projections that are fused along the rows are chosen from apart, as the layers that they are, unless the pattern
        spans them; where every row is chosen from alone that makes no difference. ``weight`` may hold the rows of several
        Problems that :meth:`chooses_like` each other.
        """
        if self.fixed_mask is not None:
            return self.fixed_mask.keep[:, :, start:stop]
        share = self._share(start, stop)
        if self.site.layout.groups > 1 and self.pattern.pools_groups:
            scores = self._scores(weight, stats, start)
            return self.pattern.select(scores.flatten(0, 1).unsqueeze(0), share).view(scores.shape)
        if self._chooses_by_row:
            return self.pattern.select(self.criterion.score(weight, stats), share)
        if self.pattern.spans_projections:
            return self.pattern.select(self._scores(weight, stats, start), share)
        keep = torch.empty_like(weight, dtype=torch.bool)
        for number, rows in enumerate(self._projections):
            keep[:, rows] = self.pattern.select(self._score(weight, stats, number, start), share)
        return keep

    def _share(self, start: int, stop: int) -> float:
        """The sparsity of columns ``start:stop``: of rows chosen from alone, windows add up to what a row drops."""
        if not self.pattern.within_rows or self.pattern.own_sparsity is not None:
            return self.sparsity
        return (zeros(stop, self.sparsity) - zeros(start, self.sparsity)) / (stop - start)

    def scores(self) -> Tensor:
        """Scores ``[batch rows cols]`` of the weights as a solver finds them."""
        return self._scores(self.aimed, self.stats, 0)

    def _scores(self, weight: Tensor, stats: Stats, start: int) -> Tensor:
        """Scores of ``weight``, whose first column is the matrix's column ``start``."""
        if len(self._projections) == 1:
            return self._score(weight, stats, 0, start)
        scores = torch.empty_like(weight)
        for number, rows in enumerate(self._projections):
            scores[:, rows] = self._score(weight, stats, number, start)
        return scores

    def reordered(self, columns: Tensor) -> Problem:
        """The same Problem with its inputs in another order, ``columns [cols]``."""
        own = {name: moment[:, :, columns] for name, moment in self.own.items()}
        aim = self.aim[:, :, columns] if self.aim is not None else None
        return replace(self, weight=self.weight[:, :, columns], stats=self.stats.permuted(columns), own=own, aim=aim)

    def _score(self, weight: Tensor, stats: Stats, number: int, start: int) -> Tensor:
        """Scores of one projection's rows of ``weight``, whose first column is the matrix's column ``start``."""
        rows, columns = self._projections[number], slice(start, start + weight.shape[-1])
        own = {name: moment[:, rows, columns] for name, moment in self.own.items()}
        if self.criterion.relative:
            row_total, column_total = self._totals[number]
            own |= {"row_total": row_total, "column_total": column_total[:, :, columns]}
        return self.criterion.score(weight[:, rows], stats.with_moments(**own))

    @cached_property
    def _totals(self) -> list[tuple[Tensor, Tensor]]:
        """Sums of |W| over each row and each column of every projection."""
        sizes = [self.weight[:, rows].abs() for rows in self._projections]
        return [(size.sum(-1, keepdim=True), size.sum(-2, keepdim=True)) for size in sizes]

    @cached_property
    def _projections(self) -> list[Tensor | slice]:
        """The rows of each projection that is fused in the matrix; all of them where there is but one."""
        parts = self.site.layout.parts
        return [part.rows(self.site.rows).to(self.weight.device) for part in parts] if parts else [slice(None)]

    @property
    def _chooses_by_row(self) -> bool:
        return self.fixed_mask is None and self.criterion.elementwise and self.pattern.within_rows

    def chooses_like(self, other: Problem) -> bool:
        """Whether the rows of both may be chosen from together, without any difference to the masks."""
        same = (self.criterion, self.pattern, self.sparsity) == (other.criterion, other.pattern, other.sparsity)
        return same and self._chooses_by_row and other._chooses_by_row


@dataclass(frozen=True)
class Solution:
    """What a solver found. ``weight`` is already rounded to the Site's stored dtype; the error is taken after that.

    ``error_of`` says what ``rel_error = lost / total`` measures: ``"output"`` ‖(W − Ŵ)X‖²/‖WX‖² over all calibration
    tokens, ``"sample"`` the same over evenly spaced tokens, ``"weight"`` ‖W − Ŵ‖²/‖W‖² where no input was looked at.
    ``extra`` carries what some solvers add: of quantised weights the ``codes [batch rows cols]``, int8 or uint8, and
    ``scales`` and ``zeros`` ``[batch rows groups]``.
    """

    site: Site
    weight: Tensor
    mask: Mask
    lost: float
    total: float
    error_of: str
    seconds: float
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, weight: Tensor, keep: Tensor, seconds: float, notes: tuple[str, ...] = (),
           extra: Mapping[str, Tensor] | None = None) -> Solution:  # fmt: skip
        """Check, round to the stored dtype and measure a solver's answer.

        Raises:
            NumericalError: if the answer holds NaN or Inf.
        """
        stored = (weight * keep).add_(0.0).to(problem.site.dtype)  # adding makes every -0.0 a 0.0
        if not all_finite(stored):
            if not all_finite(problem.weight):
                raise NumericalError(f"{problem.site.name}: its weights hold NaN or Inf before anything is pruned.")
            raise NumericalError(
                f"{problem.site.name}: the pruned weights hold NaN or Inf in {problem.site.dtype}. "
                "Use more calibration tokens, or more damping (damp= of the --solver)."
            )
        lost, total, kind = output_error(problem.weight, stored.to(problem.weight.dtype), problem.stats)
        mask = Mask(keep, problem.pattern, problem.dense)
        notes = notes if keep.any() else (*notes, _EMPTY)
        return cls(problem.site, stored, mask, lost, total, kind, seconds, notes, extra or {})

    @property
    def rel_error(self) -> float:
        """``lost / total``; a layer whose dense output is zero has error 0 if its output is unchanged, else inf."""
        if self.total <= 0:
            return 0.0 if self.lost <= 0 else float("inf")
        return self.lost / self.total

    @classmethod
    def joined(cls, parts: Sequence[Solution]) -> Solution:
        """Solutions for consecutive entries of one Site's batch as one."""
        if len(parts) == 1:
            return parts[0]
        starts = itertools.accumulate((len(part.weight) for part in parts), initial=0)
        dense = tuple(start + entry for start, part in zip(starts, parts, strict=False) for entry in part.mask.dense)
        return cls(
            parts[0].site,
            torch.cat([part.weight for part in parts]),
            Mask(torch.cat([part.mask.keep for part in parts]), parts[0].mask.pattern, dense),
            sum(part.lost for part in parts),
            sum(part.total for part in parts),
            parts[0].error_of,
            sum(part.seconds for part in parts),
            tuple(dict.fromkeys(note for part in parts for note in part.notes)),
            {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra},
        )


def output_error(weight: Tensor, pruned: Tensor, stats: Stats) -> tuple[float, float, str]:
    """‖(W − Ŵ)X‖² and ‖WX‖² over the whole batch, and what they were measured on (see :class:`Solution`).

    From a Gram G they are tr(D G Dᵀ), with D = W − Ŵ, and tr(W G Wᵀ).
    """
    if stats.has("gram"):
        kind, lost, total = "output", energy(weight - pruned, stats.measured()), energy(weight, stats.measured())
    elif stats.has("sample"):
        inputs = stats.moments["sample"].transpose(-1, -2)
        kind = "sample"
        lost = ((weight - pruned) @ inputs).square().sum(dtype=torch.float64)
        total = (weight @ inputs).square().sum(dtype=torch.float64)
    else:
        kind = "weight"
        lost = (weight - pruned).square().sum(dtype=torch.float64)
        total = weight.square().sum(dtype=torch.float64)
    return max(0.0, float(lost)), float(total), kind
