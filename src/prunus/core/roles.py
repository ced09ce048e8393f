"""The roles: what a criterion, a pattern, an allocator, a solver, a grid and a block stage must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from .site import Site
from .stats import Needs, Stats

if TYPE_CHECKING:
    from .problem import Problem, Solution


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

    def swap_group(self, cols: int) -> int | None:
        """Within how many consecutive columns of a row a zero and a survivor may change places; None: nowhere."""
        return None

    def fault(self, rows: int, cols: int) -> str | None:
        """Why a matrix of this shape cannot take the pattern; None if it can."""
        return None

    @property
    def own_sparsity(self) -> float | None:
        """The sparsity that the pattern itself fixes (N:M), or None."""
        return None


@dataclass(frozen=True)
class Profile:
    """What a first pass over the model found, for allocators that need it.

    ``scores(site)`` computes the Site's scores ``[batch rows cols]`` afresh, so that no more than one Site's are held at a
    time; ``weight(site)`` reads its weights in fp32.
    """

    scores: Callable[[Site], Tensor]
    weight: Callable[[Site], Tensor]


class Allocator(ABC):
    """How sparse is each layer?"""

    needs_profile: ClassVar[bool] = False
    scored_by: ClassVar[str | None] = None
    """The criterion whose scores the profile holds; None: the method's own."""

    @abstractmethod
    def split(self, sites: Sequence[Site], target: float, profile: Profile | None) -> dict[str, float]:
        """Sparsity by Site name, such that the parameter-weighted mean is ``target``."""


class Solver(ABC):
    """What becomes of the survivors?"""

    needs: ClassVar[Needs] = Needs.NOTHING
    damp: float = 0.01
    """Damping of the Gram, as a fraction of its mean diagonal, wherever its inverse is taken."""

    @abstractmethod
    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        """One Solution a Problem. All Problems share one Stats, hence one factorisation and one stacked solve."""


class Grid(ABC):
    """Must the survivors be quantised?"""

    @abstractmethod
    def snap(self, weight: Tensor, column: int) -> Tensor:
        """The grid points nearest to ``weight [batch rows]``, one column of the matrix."""


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


class BlockStage(ABC):
    """Work on a block as a whole, after its Sites are solved and before it is written."""

    batch_tokens: int
    """Most tokens of a batch."""

    @abstractmethod
    def apply(self, runs: BlockRuns, solutions: Mapping[str, Solution]) -> dict[str, Solution]:
        """New solutions by Site name. The block holds the given ones, and whatever this leaves in it."""
