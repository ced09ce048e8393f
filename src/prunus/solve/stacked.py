"""Problems that share their inputs, solved with their rows above one another. No solver of its own: several use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.problem import Problem, Solution
from ..core.stats import Stats


def spans_of(problems: Sequence[Problem]) -> list[slice]:
    """Which rows of the stack are whose."""
    ends = torch.tensor([problem.site.rows for problem in problems]).cumsum(0).tolist()
    return [slice(end - problem.site.rows, end) for problem, end in zip(problems, ends, strict=True)]


@dataclass(frozen=True)
class Stacked:
    """``weight [batch rows cols]`` of all Problems, fp32; ``spans`` say which rows are whose."""

    problems: Sequence[Problem]
    weight: Tensor
    spans: Sequence[slice]

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Stacked:
        """The weights that the Problems aim at."""
        weights = [problem.aimed for problem in problems]
        return cls(problems, torch.cat(weights, dim=1) if len(weights) > 1 else weights[0], spans_of(problems))

    def choose(self, weight: Tensor, stats: Stats) -> Tensor:
        """Keep-mask of ``weight [batch rows cols]`` as it is now, each Problem by its own pattern and sparsity."""
        cols = weight.shape[-1]
        pairs = zip(self.problems, self.spans, strict=True)
        return torch.cat([problem.select(weight[:, span], stats, 0, cols) for problem, span in pairs], dim=1)

    def solutions(self, weight: Tensor, keep: Tensor, seconds: float, notes: tuple[str, ...] = (),
                  extras: Sequence[Mapping[str, Tensor]] | None = None) -> list[Solution]:  # fmt: skip
        """One Solution a Problem. Rows that lost nothing keep what they aim at to the last bit, unless on a grid."""
        if extras is None and weight is not self.weight:
            whole = keep.all(dim=-1, keepdim=True)
            weight = torch.where(whole, self.weight, weight) if whole.any() else weight
        each = seconds / weight.shape[1]
        return [
            Solution.of(problem, weight[:, span], keep[:, span], each * problem.site.rows, notes, extra)
            for problem, span, extra in zip(self.problems, self.spans, extras or [{}] * len(self.problems), strict=True)
        ]
