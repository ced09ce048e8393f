"""Models that are timed in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..core.progress import Progress
from ..measure.energy import Energy, Meter, meter
from ..runtime.decode import Decoded, timed


class Turns:
    """Rounds in which every one of ``models`` reads ``prompt [1 tokens]`` and writes ``new_tokens``; ``runs`` are what came
    of each model's.

    Machines have faster and slower minutes, and rounds right behind each other tell of one of these alone: they are taken
    in two sittings, with other work between them.
    """

    def __init__(self, models: Sequence[Any], prompt: Tensor, new_tokens: int, watts: float | None) -> None:
        self.models, self.prompt, self.new_tokens = models, prompt, new_tokens
        self.runs: list[list[Decoded]] = [[] for _ in models]
        self._meter = meter(prompt.device, watts)
        self._joules = [0.0] * len(models)

    def take(self, rounds: int, warmups: int, progress: Progress) -> None:
        """So many rounds more, behind ``warmups`` that do not count."""
        if not rounds:
            return
        progress.start("Timing", warmups + rounds)
        for turn in range(warmups + rounds):
            for k, model in enumerate(self.models):
                run, joules = _metered(self._meter, model, self.prompt, self.new_tokens)
                if turn >= warmups:
                    self.runs[k].append(run)
                    self._joules[k] += joules
            progress.step()

    @property
    def energies(self) -> list[Energy] | None:
        """What each model's tokens took; None if no meter can be read, and nothing is known to reckon with."""
        if self._meter is None:
            return None
        tokens = self.new_tokens * len(self.runs[0])
        return [Energy(joules, tokens, self._meter.source, self._meter.measured) for joules in self._joules]


def _metered(reads: Meter | None, model: Any, prompt: Tensor, new_tokens: int) -> tuple[Decoded, float]:
    if reads is None:
        return timed(model, prompt, new_tokens), 0.0
    run, joules = reads.of(lambda: timed(model, prompt, new_tokens))
    return run, joules
