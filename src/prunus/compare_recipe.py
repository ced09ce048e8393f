"""CompareRecipe: all that is asked where models are compared, from the command line or a TOML file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core.errors import RecipeError
from .measure.tasks import Asked
from .recipe import Recipe, with_run
from .settings import Settings, listed

RUN = ("seqlen", "device", "dtype", "batch_tokens", "trust_remote_code")
"""Settings that a pruning run has too, with the same meaning."""
PROMPTS = ("The capital of France is", "The economy depends on", "Once upon a time")
_LISTS = ("prompts", "tasks")
_AT_LEAST = {
    "windows": 1, "new_tokens": 2, "continuation_tokens": 1, "prompt_tokens": 1,
    "warmups": 0, "repeats": 1, "num_fewshot": 0, "limit": 1, "seed": 0,
}  # fmt: skip
_ABOVE = ("memory_limit", "watts", "grid_intensity", "price")


@dataclass(frozen=True)
class CompareRecipe(Settings):
    """Models are judged on at most ``windows`` windows of ``text``; they continue ``prompts`` by ``continuation_tokens``
    (as many as ``new_tokens``, if that is None), greedily or drawn at a ``temperature`` from ``top_p``, and answer
    ``tasks`` of lm-eval. ``quality_only``: they continue nothing
    and are not timed.

    Speed is that of ``prompt_tokens`` tokens of the text and ``new_tokens`` behind them, ``repeats`` times, spread over
    three sittings between the other work, each after ``warmups`` rounds. ``memory_limit`` (GiB) is what the largest
    batch is to fit in; ``watts``, ``grid_intensity`` (grams CO₂e a kilowatt-hour) and ``price`` (of an hour of the machine)
    make energy, emissions and costs of a million tokens.
    ``activations`` is a file of thresholds that the last model's inputs are cut at. ``run`` holds the settings shared with
    pruning.
    """

    text: str = "factbook-heldout"
    windows: int | None = 32
    prompts: tuple[str, ...] = PROMPTS
    new_tokens: int = 32
    continuation_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    prompt_tokens: int = 128
    warmups: int = 1
    repeats: int = 10
    tasks: tuple[str, ...] = ()
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    memory_limit: float | None = None
    watts: float | None = None
    grid_intensity: float | None = None
    price: float | None = None
    activations: str | None = None
    quality_only: bool = False
    run: Recipe = field(default_factory=Recipe)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> CompareRecipe:
        """A checked recipe from plain settings.

        Raises:
            RecipeError: with every fault at once.
        """
        values, faults = with_run(cls, settings, RUN)
        values |= {name: listed(values[name]) for name in _LISTS if name in values}
        recipe = cls(**values)
        faults += recipe.faults()
        if faults:
            raise RecipeError(faults)
        return recipe

    def faults(self) -> list[str]:
        """What settings alone show to be wrong."""
        faults = [] if self.prompts else ["no prompt is given, and one at least is to be continued"]
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                faults.append(f"{name} is {value!r}, and must be a whole number of at least {least}")
        for name in _ABOVE:
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or value <= 0):
                faults.append(f"{name} is {value!r}, and must be a number above 0")
        if not _is_number(self.temperature) or self.temperature < 0:
            faults.append(f"temperature is {self.temperature!r}, and must be 0 (greedy) or more")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            faults.append(f"top_p is {self.top_p!r}, and must be above 0 and at most 1")
        if not isinstance(self.quality_only, bool):
            faults.append(f"quality_only is {self.quality_only!r}, and must be true or false")
        asking = [name for name in ("include_path", "num_fewshot", "limit") if getattr(self, name) is not None]
        if asking and not self.tasks:
            faults.append(f"{', '.join(asking)}: of tasks, and none is named")
        return faults

    def asked(self) -> Asked:
        """Which tasks are to be answered."""
        folder = None if self.include_path is None else Path(self.include_path).expanduser()
        return Asked(self.tasks, folder, self.num_fewshot, self.limit)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        run = self.run.to_json()
        own = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "run"}
        return {**{k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}, **{name: run[name] for name in RUN}}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
