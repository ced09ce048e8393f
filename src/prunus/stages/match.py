"""Block matching: survivors are tuned until the block gives what the dense model gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from ..core.differentiable import differentiable
from ..core.errors import NumericalError
from ..core.problem import Solution
from ..core.registry import stage
from ..core.roles import BlockRuns, BlockStage

_LOSS_SCALE = 2.0**20
"""Gradients of a mean over tokens are tiny: so much larger, float16 holds them, and Adam's ε is small beside them."""


@final
@stage("match", paper="arXiv:2503.04992", cost="three forward passes' work an epoch, and the dense model's hidden states")
@dataclass(frozen=True)
class Match(BlockStage):
    """Adam on a pruned block's survivors (Wanda++'s regional optimisation, sec. 3.3). Zeros and what was left dense stay.

    The input is what the pruned blocks before give, the target what the dense model has behind this block, so that errors
    made upstream are corrected too. The loss is the mean over tokens of ‖y − ŷ‖²/‖y‖²: what follows normalises every
    token, and a few tokens of enormous norm would otherwise be all that counts. The learning rate falls to zero on a cosine
    and is relative to the root mean square of each matrix, so that one value serves models of any scale. A block has many
    survivors for each token of a short text, and much tuning fits that text and loses elsewhere: fewer epochs are safer
    where Grams are not tempered and all text is of one kind (docs/choosing.md).
    """

    tunes: ClassVar[bool] = True

    epochs: int = 4
    """Passes over the calibration windows."""

    lr: float = 0.005
    """Adam's first learning rate, in units of the root mean square of a matrix's survivors."""

    batch_tokens: int = 1024
    """Tokens of one step."""

    seed: int = 0
    """Seed of the order of the batches."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.lr <= 0 or self.batch_tokens < 1:
            raise ValueError(
                f"epochs {self.epochs} and batch_tokens {self.batch_tokens} must be at least 1, lr {self.lr} positive"
            )

    @property
    def passes(self) -> int:
        return 2 + 3 * self.epochs

    def apply(self, runs: BlockRuns, solutions: Mapping[str, Solution]) -> dict[str, Solution]:
        tuned = [_Tuned(runs.parameter(solution.site), solution) for solution in solutions.values()]
        name = tuned[0].solution.site.name
        before = runs.error()
        if not math.isfinite(before):
            raise NumericalError(f"{name}: its block overflows once it is pruned. With float16 try --dtype float32.")
        self._descend(runs, tuned)
        for one in tuned:
            one.settle()
        after = runs.error()
        if not math.isfinite(after):
            raise NumericalError(
                f"{name}: matching its block diverged (lr {self.lr:g}). Try a smaller one: --stage match:lr={self.lr / 5:g}"
            )
        if after >= before:
            for one in tuned:
                one.undo()
            note = f"matching left its block as it was (error {before:.4g}, would be {after:.4g})"
            return {name: replace(solution, notes=(*solution.notes, note)) for name, solution in solutions.items()}
        return {one.solution.site.name: one.result(before, after) for one in tuned}

    def _descend(self, runs: BlockRuns, tuned: Sequence[_Tuned]) -> None:
        groups = [{"params": [one.master], "lr": self.lr * one.scale} for one in tuned]
        optimizer = torch.optim.Adam(groups)
        steps = self.epochs * len(runs)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(self.seed)
        parameters = [one.parameter for one in tuned]
        with differentiable(parameters):
            for _ in range(self.epochs):
                for number in torch.randperm(len(runs), generator=generator).tolist():
                    with torch.enable_grad():
                        loss = runs.distance(number) * _LOSS_SCALE
                        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
                    for one, grad in zip(tuned, grads, strict=True):
                        one.take(grad)
                    optimizer.step()
                    schedule.step()
                    for one in tuned:
                        one.show()


class _Tuned:
    """One Site's parameter, with survivors in fp32 beside it."""

    def __init__(self, parameter: nn.Parameter, solution: Solution) -> None:
        self.parameter = parameter
        self.solution = solution
        self.tuned = solution.site.layout.from_matrix(solution.mask.pruned_survivors()).to(parameter.device)
        self.first = parameter.detach().clone()
        self.master = self.first.to(torch.float32, copy=True)
        self.scale = float((self.master * self.tuned).square().sum().div(self.tuned.sum().clamp_min(1)).sqrt())

    def take(self, grad: Tensor | None) -> None:
        """Hand a gradient to the survivors; None where nothing depends on them (an expert without tokens)."""
        self.master.grad = None if grad is None else grad.float().mul_(self.tuned)

    def show(self) -> None:
        """Let the block compute with the present values."""
        self.parameter.data.copy_(self.master)

    def settle(self) -> None:
        """Round to the stored dtype; zeros, and entries left dense, stay as they were."""
        stored = self.master.add(0.0).to(self.solution.site.dtype)  # adding makes every -0.0 a 0.0
        self.parameter.data.copy_(torch.where(self.tuned, stored, self.first))

    def undo(self) -> None:
        self.parameter.data.copy_(self.first)

    def result(self, before: float, after: float) -> Solution:
        """The Solution with the tuned weights; its error is now that of the whole block."""
        site = self.solution.site
        weight = site.layout.to_matrix(self.parameter.detach()).to(site.dtype, copy=True)
        extra = {**self.solution.extra, "matched": torch.tensor([before, after], dtype=torch.float64)}
        return replace(self.solution, weight=weight, lost=after, total=1.0, error_of="block", extra=extra)
