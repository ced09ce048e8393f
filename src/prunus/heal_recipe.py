"""HealRecipe: all that a person asks of a healing run, read from the command line or a TOML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .core import registry
from .core.errors import RecipeError
from .core.registry import make
from .core.roles import Loss
from .settings import DTYPES, Settings, listed, named

_COUNTS = {
    "tokens": 1, "epochs": 1, "seqlen": 2, "batch": 1, "held_out": 1, "evaluations": 1, "patience": 0, "eval_windows": 0,
    "batch_tokens": 1, "seed": 0,
}  # fmt: skip
"""Whole numbers and the least that each may be."""


@dataclass(frozen=True)
class HealRecipe(Settings):
    """Settings of ``distill`` and ``recover``, named as the command line names them.

    ``loss`` are ``"name:option=value,…"``, added up (none: the teacher's ``kl``, or ``ce`` without one). ``batch`` and
    ``held_out`` are windows, ``tokens`` those of one of the ``epochs``. All weights are trained, unless ``lora`` is a rank
    of updates, or ``shared`` the bits of codebooks that pruned matrices share their weights from.
    """

    teacher: str | None = None
    loss: tuple[str, ...] = ()
    text: str | None = None
    tokens: int = 300_000
    epochs: int = 1
    seqlen: int = 512
    batch: int = 8
    lr: float | None = None
    warmup: float = 0.05
    weight_decay: float = 0.0
    lora: int | None = None
    lora_alpha: float | None = None
    shared: int | None = None
    masks: str = "held"
    held_out: int = 16
    evaluations: int = 10
    patience: int = 3
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int = 4096
    memory_budget: float = 4.0
    eval_text: str = "factbook-heldout"
    eval_windows: int = 16
    trust_remote_code: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> HealRecipe:
        """A checked recipe from plain settings.

        Raises:
            RecipeError: with every fault at once.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        faults: list[str] = []
        values: dict[str, Any] = {
            name: listed(value) if name == "loss" else value for name, value in named(settings, known, faults)
        }
        recipe = cls(**values)
        faults += recipe.faults()
        if faults:
            raise RecipeError(faults)
        return recipe

    def faults(self) -> list[str]:
        """What settings alone show to be wrong."""
        faults = []
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                faults.append(f"{name} {value!r} must be a whole number of at least {least}")
        for name, value, right, range_ in (
            ("lr", self.lr, lambda v: v > 0, "above 0"), ("warmup", self.warmup, lambda v: 0 <= v < 1, "from 0 to below 1"),
            ("weight_decay", self.weight_decay, lambda v: v >= 0, "at least 0"),
            ("memory_budget", self.memory_budget, lambda v: v > 0, "above 0"),
            ("lora_alpha", self.lora_alpha, lambda v: v > 0, "above 0"),
            ("lora", self.lora, lambda v: isinstance(v, int) and v > 0, "a whole number of at least 1"),
        ):  # fmt: skip
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and right(value)):
                faults.append(f"{name} {value!r} must be {range_}")
        if self.masks not in ("held", "free"):
            faults.append(f"masks '{self.masks}' is neither held nor free")
        if self.dtype not in DTYPES or self.dtype == "float16":
            faults.append(f"dtype '{self.dtype}' is none of auto, float32, bfloat16")
        faults += self._trained_faults()
        try:
            losses = self.losses()
        except ValueError as error:
            return [*faults, str(error)]
        names = [spec.partition(":")[0] for spec in self.loss]
        faults += [f"loss {name} is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        faults += [f"loss {spec}: its weight must be at least 0" for spec, loss in zip(self.loss, losses, strict=False)
                   if not getattr(loss, "weight", 1.0) >= 0]  # fmt: skip
        taught = [spec for spec, loss in zip(self.loss, losses, strict=False) if loss.needs_teacher]
        if len({loss.asks for loss in losses if loss.asks is not None}) > 1:
            faults.append("two losses ask the teacher for other numbers of tokens, or at other temperatures: give one")
        if taught and self.teacher is None:
            faults.append(f"loss '{taught[0]}' needs a teacher")
        return faults

    def _trained_faults(self) -> list[str]:
        """What is wrong with what is to be trained in the place of weights."""
        faults = []
        if self.masks == "free" and self.lora is not None:
            faults.append("masks free: low-rank updates leave zeros as they are; leave out one of masks and lora")
        if self.shared is not None and self.shared not in range(2, 9):
            faults.append(f"shared {self.shared!r} must be a whole number from 2 to 8, the bits of a code")
        if self.shared is not None and (self.lora is not None or self.masks == "free"):
            faults.append("shared: codebooks alone are trained, and zeros stay; leave out lora and masks free")
        if self.lora_alpha is not None and self.lora is None:
            faults.append("lora_alpha says nothing without lora, the rank")
        return faults

    def losses(self) -> list[Loss]:
        """The losses that are added up.

        Raises:
            ValueError: if one is unknown.
        """
        return [make(registry.loss, spec) for spec in learnt(self.loss, self.teacher)]

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: 1e-4 for weights and codebooks, 1e-3 for low-rank updates, or what was asked for."""
        return self.lr if self.lr is not None else 1e-3 if self.lora is not None else 1e-4

    @property
    def trains_weights(self) -> bool:
        """Whether all weights are trained, and not something in their place."""
        return self.lora is None and self.shared is None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def learnt(loss: Sequence[str], teacher: str | None) -> Sequence[str]:
    """The losses that are added up: those that were asked for, else the teacher's ``kl``, or ``ce`` without one."""
    return loss or (("kl",) if teacher is not None else ("ce",))
