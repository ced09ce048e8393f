"""Models that are timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from ..core.progress import Progress
from ..measure.energy import Energy, Meter
from ..runtime.decode import Decoded


class Turns:
    """So many rounds in which each of ``works`` has a model read a prompt and write new tokens; ``runs`` are what came of
    each.

    ``reads`` is what their energy is read from, ``beside`` is done once a round. Machines have faster and slower minutes,
    and rounds right behind each other tell of one of these alone: they are taken in several ``sittings``, for other work to
    come between them, each behind ``warmups`` that do not count.
    """

    def __init__(self, works: Sequence[Callable[[], Decoded]], rounds: int, sittings: int, warmups: int = 1,
                 reads: Meter | None = None, beside: Callable[[], object] = lambda: None) -> None:  # fmt: skip
        self.runs: list[list[Decoded]] = [[] for _ in works]
        self._works, self._warmups, self._reads, self._beside = works, warmups, reads, beside
        shares = [-(-rounds * k // sittings) for k in range(sittings + 1)]
        self._left = [after - before for before, after in pairwise(shares)]
        self._joules = [0.0] * len(works)

    def sit(self, progress: Progress) -> None:
        """The next sitting, with its share of the rounds."""
        rounds = self._left.pop(0)
        if not rounds:
            return
        progress.start("Timing", self._warmups + rounds)
        for turn in range(self._warmups + rounds):
            for k, work in enumerate(self._works):
                run, joules = (work(), 0.0) if self._reads is None else self._reads.of(work)
                if turn >= self._warmups:
                    self.runs[k].append(run)
                    self._joules[k] += joules
            self._beside()
            progress.step()

    @property
    def energies(self) -> list[Energy] | None:
        """What the new tokens of each took; None if nothing is read."""
        if self._reads is None:
            return None
        return [
            Energy(joules, sum(run.ids.numel() for run in runs), self._reads.source, self._reads.measured)
            for joules, runs in zip(self._joules, self.runs, strict=True)
        ]
