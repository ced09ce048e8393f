"""The roles: what a criterion, a pattern, an allocator, a solver, a grid and a block stage must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .site import Site
from .stats import Needs, Stats

if TYPE_CHECKING:
    from .depth import DepthSurvey
    from .lesson import Lesson
    from .problem import Problem, Solution
    from .routed import Routed
    from .units import Units


class Criterion(ABC):
    """What is one weight worth?"""

    needs: ClassVar[Needs] = Needs.NOTHING
    elementwise: ClassVar[bool] = False
    """Whether a score depends on its weight and that weight's input alone, so that matrices may be scored together."""
    relative: ClassVar[bool] = False
    """Whether a weight is set against its whole row and column: Stats then hold their sums of |W| in the dense matrix,
    ``row_total [.. rows 1]`` and ``column_total [.. 1 cols]``."""

    @abstractmethod
    def score(self, weight: Tensor, stats: Stats) -> Tensor:
        """Scores ``[.. rows cols] >= 0`` of a weight of the same shape; the lowest go first.

        Called with any range of columns of both, on weights that a solver may already have changed.
        """


class Pattern(ABC):
    """Where may zeros lie?"""

    @property
    def within_rows(self) -> bool:
        """Whether each row is chosen from alone, so that matrices may be chosen from together."""
        return False

    @abstractmethod
    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        """Keep-mask (True = kept) of ``scores [.. rows cols]`` with the fraction ``sparsity`` of them dropped.

        Exact in number (ties go to the lower index first).
        """

    @abstractmethod
    def cover(self, nonzero: Tensor) -> Tensor:
        """The smallest mask of this pattern that keeps every ``nonzero [.. rows cols]``."""

    def violation(self, keep: Tensor) -> str | None:
        """What in the mask ``keep [.. rows cols]`` breaks the pattern, in words; None if nothing does."""
        extra = int((self.cover(keep) & ~keep).sum())
        return f"{extra} zeros stand where the pattern has none" if extra else None

    def window(self, cols: int, blocksize: int) -> int:
        """How many columns a left-to-right solver must choose at once; ``blocksize`` is its own habit."""
        return min(cols, blocksize)

    def position_bits(self, rows: int, cols: int) -> int:
        """Bits that say which weights of a matrix are kept: one a weight, unless the pattern leaves less to say."""
        return rows * cols

    def swap_group(self, cols: int) -> int | None:
        """Within how many consecutive columns of a row a zero and a survivor may change places; None: nowhere."""
        return None

    @property
    def spans_projections(self) -> bool:
        """Whether projections that are fused along the rows are chosen from together, and not each by itself."""
        return False

    @property
    def pools_groups(self) -> bool:
        """Whether the groups of a convolution are chosen from together, as the one layer that they are."""
        return False

    @property
    def rows_may_move(self) -> bool:
        """Whether a mask keeps the pattern when its rows change places."""
        return True

    def fault(self, rows: int, cols: int) -> str | None:
        """Why a matrix of this shape cannot take the pattern; None if it can."""
        return None

    @property
    def own_sparsity(self) -> float | None:
        """The sparsity that the pattern itself fixes (N:M), or None."""
        return None


Evaluate = Callable[[Sequence[Mapping[str, float]], int], list[float]]
"""``evaluate(candidates, tokens)``: for every candidate, which gives each Site one of the profile's levels, the mean
KL(dense ‖ candidate) a token over so many tokens."""


@dataclass(frozen=True)
class Profile:
    """What a first pass over the model found, for allocators that need it.

    ``scores(site)`` computes the Site's scores ``[batch rows cols]`` afresh, so that no more than one Site's are held at a
    time; ``weight(site)`` reads its weights in fp32. Where the allocator asks for trials, every Site has been solved at
    each of the ``levels`` of sparsity, and ``evaluate`` tries mixtures of them.
    """

    scores: Callable[[Site], Tensor]
    weight: Callable[[Site], Tensor]
    levels: tuple[float, ...] = ()
    evaluate: Evaluate | None = None


class Allocator(ABC):
    """How sparse is each layer?"""

    needs_profile: ClassVar[bool] = False
    scored_by: ClassVar[str | None] = None
    """The criterion whose scores the profile holds; None: the method's own."""
    needs_trials: ClassVar[bool] = False
    """Whether mixtures of Sites solved at several levels have to be tried."""

    @property
    def survey_tokens(self) -> int | None:
        """Tokens of the calibration text that are enough for the profile's scores; None: all of them."""
        return None

    def compares(self, site: Site) -> bool:
        """Whether the Site's scores or trials are asked for."""
        return self.needs_profile

    def levels(self, target: float) -> tuple[float, ...]:
        """The sparsities, in rising order, at which every Site has to be solved for its trials; none without trials."""
        return ()

    @abstractmethod
    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        """Sparsity by Site name, such that the parameter-weighted mean is ``target``."""


class Importance(ABC):
    """Which units (neurons, heads, channels) stay?"""

    needs: ClassVar[Needs] = Needs.NOTHING

    @abstractmethod
    def score(self, units: Units) -> Tensor:
        """What each unit is worth, ``[units] >= 0``; the lowest go first."""

    def choose(self, units: Units, kept: int) -> Tensor:
        """The ``kept`` units that stay, ascending, as many of every group."""
        return units.highest(self.score(units), kept)

    def order(self, units: Units) -> Tensor:
        """All units in the order in which they go, ``[units]``, whatever their group."""
        return self.score(units).argsort(descending=True, stable=True).flip(0)


class Depth(ABC):
    """Which blocks go?"""

    @abstractmethod
    def choose(self, survey: DepthSurvey, drop: int) -> list[int]:
        """The ``drop`` blocks that go, ascending."""


class ExpertImportance(ABC):
    """Which experts stay?"""

    @abstractmethod
    def score(self, routed: Routed) -> Tensor:
        """What each expert is worth, ``[experts] >= 0``; the lowest go first, those that no token came to before them."""


class Loss(ABC):
    """What is a healed model drawn to?"""

    needs_teacher: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = False
    """Whether the hidden states of both models are looked at, so that the teacher has to run beside the student."""
    same_channels: ClassVar[bool] = False
    """Whether the student's channels have to be known among the teacher's."""

    @property
    def asks(self) -> tuple[int, float] | None:
        """How many of the teacher's likeliest tokens are wanted, and at which temperature; None: none."""
        return None

    @abstractmethod
    def value(self, lesson: Lesson) -> Tensor:
        """The loss of a batch, a mean over its tokens; gradients flow to the student alone."""


class OutputTarget(ABC):
    """Which output Y do the survivors aim at?"""

    needs: ClassVar[Needs] = Needs.NOTHING

    @abstractmethod
    def beyond(self, weight: Tensor, stats: Stats) -> Tensor | None:
        """(Y − XWᵀ)ᵀX ``[batch rows cols]`` for a dense ``weight`` W of that shape and its real inputs X.

        None where Y is XWᵀ, or what it takes to know Y was not seen.
        """


class Solver(ABC):
    """What becomes of the survivors?"""

    needs: ClassVar[Needs] = Needs.NOTHING
    aims: ClassVar[bool] = True
    """Whether survivors get new values, so that it matters what output they aim at."""
    bias: bool = False
    """Whether biases make up for the mean of what goes, where whole inputs go (structured runs)."""
    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal, wherever its inverse is taken."""
    copies: ClassVar[float] = 4.25
    """Of a weight in fp32, held at most at once while it is solved: itself, scores, masked, its error, a mask in bytes."""

    @property
    def products(self) -> int:
        """Products of a weight ``[rows cols]`` with a matrix ``[cols cols]`` that it takes beside one factorisation."""
        return 0

    @abstractmethod
    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        """One Solution a Problem. All Problems share one Stats, hence one factorisation and one stacked solve."""


class Grid(ABC):
    """Must the survivors be quantised?

    A value is scale · (code − zero), with a scale and a zero for each row of every ``group`` of consecutive columns. Zero
    itself is always on the grid, so that what is dropped costs nothing.
    """

    bits: int
    """Bits of a code."""
    group: int
    """Consecutive columns that share a scale; 0: all."""

    @property
    @abstractmethod
    def zero_bits(self) -> int:
        """Bits of a group's zero; 0 where it is never stored."""

    @property
    @abstractmethod
    def code_dtype(self) -> torch.dtype:
        """int8 or uint8: what codes are kept in before they are packed."""

    @abstractmethod
    def fit(self, weight: Tensor, importance: Tensor, stored: torch.dtype) -> Levels:
        """The levels of one group, ``weight [batch rows width]``, whose errors count by ``importance [batch 1 width]``.

        Scales are such as 16 bits hold: bfloat16 where weights are ``stored`` so, float16 else (:func:`scale_dtype`).
        """

    @abstractmethod
    def codes(self, weight: Tensor, levels: Levels) -> Tensor:
        """The codes, whole numbers in the weight's dtype, of the values nearest to ``weight [batch rows width]``."""

    def snap(self, weight: Tensor, levels: Levels) -> Tensor:
        """Those values."""
        return levels.values(self.codes(weight, levels))

    def width(self, cols: int) -> int:
        """Columns that share a scale in a matrix of ``cols`` columns."""
        return self.group or cols

    def fault(self, cols: int) -> str | None:
        """Why a matrix of so many columns cannot take the grid; None if it can."""
        if cols % self.width(cols) == 0:
            return None
        return f"{cols} columns do not divide into the grid's groups of {self.group} (group=0: a scale a row)"


def scale_dtype(stored: torch.dtype) -> torch.dtype:
    """The 16-bit float that scales are kept in, of weights that are stored in another dtype or the same."""
    return torch.bfloat16 if stored is torch.bfloat16 else torch.float16


class Levels(NamedTuple):
    """Where the values of a group lie: ``scale`` and ``zero`` ``[batch rows 1]``, the latter a whole number."""

    scale: Tensor
    zero: Tensor

    def values(self, codes: Tensor) -> Tensor:
        """What ``codes [batch rows width]`` stand for."""
        return (codes - self.zero) * self.scale


class BlockRuns(ABC):
    """A loaded block, as it stands now, on batches of the inputs that it will really see."""

    block: nn.Module

    @abstractmethod
    def __len__(self) -> int:
        """How many batches there are."""

    @abstractmethod
    def output(self, number: int) -> Tensor:
        """Hidden states ``[windows seqlen width]`` behind the block for one batch; gradients flow where enabled."""

    @abstractmethod
    def target(self, number: int) -> Tensor:
        """What the dense model has there for the same batch."""

    @abstractmethod
    def parameter(self, site: Site) -> nn.Parameter:
        """The block's parameter that a Site is made of, in its stored layout and the compute dtype."""

    def distance(self, number: int) -> Tensor:
        """Mean over the tokens of one batch of ‖y − ŷ‖²/‖y‖², from the target to the output."""
        return self._distances(number).mean()

    @torch.no_grad()
    def error(self) -> float:
        """The same over the tokens of all batches."""
        found = [self._distances(number) for number in range(len(self))]
        return sum(float(one.sum()) for one in found) / sum(one.numel() for one in found)

    def _distances(self, number: int) -> Tensor:
        """‖y − ŷ‖²/‖y‖² of every token of one batch ``[windows seqlen]``."""
        target = self.target(number).float()
        lost = (self.output(number).float() - target).square().sum(-1)
        return lost / target.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)


class BlockStage:
    """Work on a block as a whole: an order for its layers' inputs before they are solved, or new values for all at once."""

    arranges: ClassVar[bool] = False
    """Whether :meth:`arrange` has to be asked."""
    tunes: ClassVar[bool] = False
    """Whether :meth:`apply` has work to do, for which the dense model's hidden states are carried along."""
    batch_tokens: int = 1 << 30
    """Most tokens of a batch in a run with this stage."""

    @property
    def passes(self) -> int:
        """How many forward passes over all windows its work amounts to."""
        return 0

    def arrange(self, problem: Problem, groups: int, copies: int) -> Tensor | None:
        """A new order ``[groups width]`` of the channels that a Problem's inputs are; None to leave them.

        The inputs are ``[groups copies width]``; channels change places within their group, alike in all copies.
        """
        return None

    def apply(self, runs: BlockRuns, solutions: Mapping[str, Solution]) -> dict[str, Solution]:
        """New solutions by Site name. The block holds the given ones, and whatever this leaves in it."""
        return dict(solutions)
