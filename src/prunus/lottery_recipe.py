"""LotteryRecipe: a search for lottery tickets, read from a TOML file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .core.errors import RecipeError
from .settings import Settings, listed
from .train_recipe import TrainRecipe

ALLOCATIONS = ("global", "uniform")
REINIT, MASK = "random-reinit", "random-mask"
CONTROLS = (REINIT, MASK)
_NOT_HERE = ("runs",)


@dataclass(frozen=True)
class LotteryRecipe(Settings):
    """What ``prunus lottery`` does: how networks are trained (``training``, with the fields of a
    :class:`~prunus.train_recipe.TrainRecipe` but its runs, in one file with those here), and how tickets are drawn.

    At each of the ``levels`` the share ``rate`` of the weights that are left goes, the smallest over the whole model
    (``allocation`` ``global``) or of each layer (``uniform``); ``exclude`` are globs over layers that stay whole. Weights
    are rewound to where they were behind ``rewind`` steps of the dense network's training, a whole number or, below 1, a
    share of all. ``controls`` train beside each ticket; every ``control_every``-th level has them. ``stability`` trains
    each ticket once more with examples in another order, and looks at the error between the two. The test examples are
    looked at ``looks`` times an epoch, for curves: nothing is chosen by them.
    """

    training: TrainRecipe = dataclasses.field(default_factory=TrainRecipe)
    levels: int = 12
    rate: float = 0.2
    allocation: str = "global"
    exclude: tuple[str, ...] = ()
    rewind: float = 0
    controls: tuple[str, ...] = CONTROLS
    control_every: int = 1
    stability: bool = False
    looks: int = 4

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> LotteryRecipe:
        """A checked recipe from plain settings.

        Raises:
            RecipeError: with every fault at once.
        """
        own = {field.name for field in dataclasses.fields(cls)} - {"training"}
        plain = {key.replace("-", "_"): value for key, value in settings.items()}
        faults = [f"{name}: a lottery makes its own" for name in _NOT_HERE if name in plain]
        mine: dict[str, Any] = {key: value for key, value in plain.items() if key in own}
        mine |= {key: listed(mine[key]) for key in ("exclude", "controls") if key in mine}
        training = TrainRecipe()
        try:
            training = TrainRecipe.of({k: v for k, v in plain.items() if k not in own and k not in _NOT_HERE})
        except RecipeError as error:
            faults += error.faults
        recipe = cls(training, **mine)
        faults += recipe.faults()
        if faults:
            raise RecipeError(faults)
        return recipe

    def faults(self) -> list[str]:
        """What settings alone show to be wrong, beside what is wrong with the training."""
        faults = []
        for name in ("levels", "control_every", "looks"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                faults.append(f"{name} {value!r} must be a whole number of at least 1")
        if not _is_number(self.rate) or not 0 < self.rate < 1:
            faults.append(f"rate {self.rate!r} must be a share between 0 and 1")
        if not _is_number(self.rewind) or not 0 <= self.rewind < math.inf or (self.rewind >= 1 and self.rewind % 1):
            faults.append(f"rewind {self.rewind!r} must be a whole number of steps, or a share below 1 of all steps")
        if self.allocation not in ALLOCATIONS:
            faults.append(f"allocation '{self.allocation}' is none of {', '.join(ALLOCATIONS)}")
        faults += [f"controls: '{name}' is none of {', '.join(CONTROLS)}" for name in self.controls if name not in CONTROLS]
        if len(set(map(str, self.controls))) < len(self.controls):
            faults.append(f"controls {list(self.controls)} must be different ones")
        if not all(isinstance(glob, str) for glob in self.exclude):
            faults.append(f"exclude {list(self.exclude)!r} must be a list of texts")
        if not isinstance(self.stability, bool):
            faults.append(f"stability {self.stability!r} must be true or false")
        if self.training.epochs < 1:
            faults.append("epochs 0: tickets are trained")
        return faults

    def sparsity(self, level: int) -> float:
        """The share of weights that are gone at a level; level 0 is the dense network.

        >>> round(LotteryRecipe().sparsity(2), 4)
        0.36
        """
        return float(1 - (1 - self.rate) ** level)

    def first(self, steps: int) -> int:
        """The step that is rewound to, of so many."""
        return int(self.rewind) if self.rewind >= 1 else round(self.rewind * steps)

    def at_most(self, epochs: int) -> LotteryRecipe:
        """The same with networks trained for no more epochs than that: to try it."""
        return dataclasses.replace(self, training=self.training.at_most(epochs))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the recipe's file has them."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "training"}
        training = {key: value for key, value in self.training.to_json().items() if key not in _NOT_HERE}
        return {**training, **{key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
