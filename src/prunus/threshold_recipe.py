"""ThresholdRecipe: all that is asked where thresholds of activations are found, from the command line or a TOML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .activations.greedy import MOST
from .core.errors import RecipeError
from .core.sparsity import parse_sparsity
from .recipe import Recipe, with_run
from .settings import Settings
from .stream.thresholds import Wanted

RUN = (
    "calibration", "samples", "seqlen", "seed", "eval_text", "eval_windows", "device", "dtype", "batch_tokens",
    "memory_budget", "trust_remote_code",
)  # fmt: skip
"""Settings that a pruning run has too, with the same meaning."""
WAYS = ("uniform", "greedy")


@dataclass(frozen=True)
class ThresholdRecipe(Settings):
    """A share ``sparsity`` of the weights' bytes is not to be read for a token (a number, or text as ``"50%"``).

    ``allocation`` is ``uniform`` or ``greedy``, which raises levels so that a share ``step`` of a block's bytes is saved at
    a time. The first ``dense_tokens`` of a text are not cut. ``run`` holds the settings shared with pruning.
    """

    sparsity: str | float = 0.5
    allocation: str = "uniform"
    step: float = 0.02
    dense_tokens: int = 1
    run: Recipe = field(default_factory=Recipe)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ThresholdRecipe:
        """A checked recipe from plain settings.

        Raises:
            RecipeError: with every fault at once.
        """
        values, faults = with_run(cls, settings, RUN)
        recipe = cls(**values)
        faults += recipe.faults()
        if faults:
            raise RecipeError(faults)
        return recipe

    def faults(self) -> list[str]:
        """What settings alone show to be wrong."""
        faults = []
        try:
            target = parse_sparsity(self.sparsity)
            if target.n is not None or not 0 < target.sparsity <= MOST:
                faults.append(f"sparsity {self.sparsity} of activations must be above 0 and at most {MOST}, and no N:M")
        except ValueError as error:
            faults.append(str(error))
        if self.allocation not in WAYS:
            faults.append(f"allocation {self.allocation!r} of activations is none of {', '.join(WAYS)}")
        if isinstance(self.step, bool) or not isinstance(self.step, (int, float)) or not 0 < self.step <= 1:
            faults.append(f"step {self.step!r} must be a share of a block's bytes, above 0 and at most 1")
        if isinstance(self.dense_tokens, bool) or not isinstance(self.dense_tokens, int) or self.dense_tokens < 1:
            faults.append(f"dense_tokens {self.dense_tokens!r} must be a whole number of at least 1")
        elif self.dense_tokens >= self.run.seqlen:
            faults.append(f"dense_tokens {self.dense_tokens} leaves nothing of windows of {self.run.seqlen} to cut")
        return faults

    def wanted(self) -> Wanted:
        """What is to be found."""
        step = float(self.step) if self.allocation == "greedy" else None
        return Wanted(parse_sparsity(self.sparsity).sparsity, step, self.dense_tokens)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        run = self.run.to_json()
        own = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "run"}
        return {**own, **{name: run[name] for name in RUN}}
