"""Recipe: all that a person asks of a pruning run, read from the command line or a TOML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .allocate.manual import Pin
from .core import registry
from .core.errors import RecipeError
from .core.method import Method
from .core.registry import Registry, spec_of, suggest
from .core.roles import BlockStage, Pattern
from .core.sparsity import Target, parse_sparsity
from .core.stats import Needs
from .patterns.nm import NM
from .presets import PRESETS
from .settings import DTYPES, Settings, listed, named
from .stream.coverage import POLICIES
from .targets.sparse import Sparse

Role = TypeVar("Role")
Result = TypeVar("Result")
_AXES = ("criterion", "pattern", "allocation", "target", "solver", "grid")
_LEAST = {"samples": 1, "seqlen": 2, "batch_tokens": 1, "eval_windows": 0, "seed": 0, "min_expert_tokens": 0}
"""Whole numbers and the least that each may be."""


@dataclass(frozen=True)
class Recipe(Settings):
    """Settings of a run, named as the command line names them (``prunus prune --help`` says what each means).

    Axes are ``"name:option=value,…"``; None is the preset's choice, ``grid = "none"`` and ``stage = ["none"]`` leave it
    out. ``sparsity`` is a fraction of zeros, text of one (``"50%"``) or N:M; None where only ``set`` says any. ``include``,
    ``exclude`` and the left side of ``set`` are globs over layer names. ``own_text`` is a share of the windows, at least 0
    and below 1; ``temper`` a power above 0 and at most 1; ``memory_budget`` GiB; ``seqlen`` and ``batch_tokens`` tokens;
    ``samples`` windows (None: 128; of a module's data 1,024 inputs), and ``eval_windows`` too (0: none).
    """

    method: str = "balanced"
    sparsity: str | float | None = 0.5
    criterion: str | None = None
    pattern: str | None = None
    allocation: str | None = None
    target: str | None = None
    solver: str | None = None
    grid: str | None = None
    stage: tuple[str, ...] | None = None
    true_sequential: bool | None = None
    temper: float | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    skip_unsupported: bool = False
    starved_experts: str = "shared"
    min_expert_tokens: int = 64
    calibration: str | None = None
    samples: int | None = None
    seqlen: int = 512
    own_text: float | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int = 4096
    memory_budget: float = 4.0
    eval_text: str = "factbook-heldout"
    eval_windows: int = 16
    trust_remote_code: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Recipe:
        """A checked recipe from plain settings.

        Raises:
            RecipeError: with every fault at once.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        faults: list[str] = []
        values: dict[str, Any] = {}
        for name, value in named(settings, known, faults):
            if name in _AXES and isinstance(value, Mapping):
                values[name] = spec_of(value)
            elif name == "stage" and value is not None:
                values[name] = tuple(spec_of(item) if isinstance(item, Mapping) else item for item in listed(value))
            elif name == "set" and isinstance(value, Mapping):
                values[name] = tuple(f"{glob}={wanted}" for glob, wanted in value.items())
            elif name in ("include", "exclude", "set"):
                values[name] = listed(value)
            else:
                values[name] = value
        recipe = cls(**values)
        try:
            recipe.check()
        except RecipeError as error:
            faults += error.faults
        if faults:
            raise RecipeError(faults)
        return recipe

    def check(self) -> None:
        """Raise one RecipeError that lists every fault that settings alone show; of wrong types, those first."""
        faults = self._wrong_types()
        if not faults:
            method = self._method(faults)
            if method is not None:
                self._check_inputs(method, faults)
            self._target(faults)
            self._pins(faults)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if name == "samples" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                faults.append(f"{name} {value!r} must be a whole number of at least {least}")
        if not (_is_number(self.memory_budget) and self.memory_budget > 0):
            faults.append(f"memory_budget {self.memory_budget!r} must be a positive number of GiB")
        if self.own_text is not None and not (_is_number(self.own_text) and 0 <= self.own_text < 1):
            faults.append(f"own_text {self.own_text!r} must be a share of the windows, at least 0 and below 1")
        if self.temper is not None and not (_is_number(self.temper) and 0 < self.temper <= 1):
            faults.append(f"temper {self.temper!r} must be above 0 and at most 1 (Grams as they are measured)")
        if self.starved_experts not in POLICIES:
            faults.append(f"starved_experts '{self.starved_experts}' is none of {', '.join(POLICIES)}")
        if self.dtype not in DTYPES:
            faults.append(f"dtype '{self.dtype}' is none of {', '.join(DTYPES)}")
        if faults:
            raise RecipeError(faults)

    def _check_inputs(self, method: Method, faults: list[str]) -> None:
        """What was asked for that has no effect with the other choices."""
        may_swap = NM.of(self._target([])) is not None or method.pattern.swap_group(1) is not None
        if getattr(method.solver, "swaps", 0) and not may_swap:
            faults.append(f"solver '{self.solver}': with pattern '{method.pattern}' no two weights of a row change places")
        if self.temper not in (None, 1) and Needs.GRAM not in method.needs:
            faults.append(f"temper {self.temper}: method '{self.method}' as composed needs no Gram that it could change")
        if method.looks_at_inputs:
            return
        if self.true_sequential:
            faults.append(f"true_sequential: method '{self.method}' looks at no inputs, so that layers need no turns")
        if self.own_text:
            faults.append(f"own_text {self.own_text}: method '{self.method}' looks at no text")

    def _wrong_types(self) -> list[str]:
        faults = []
        for name in ("method", "device", "dtype", "eval_text"):
            if not isinstance(getattr(self, name), str):
                faults.append(f"{name} {getattr(self, name)!r} must be text")
        for name in (*_AXES, "calibration"):
            if not isinstance(getattr(self, name), (str, type(None))):
                faults.append(f"{name} {getattr(self, name)!r} must be text")
        for name in ("include", "exclude", "set", "stage"):
            if not all(isinstance(item, str) for item in getattr(self, name) or ()):
                faults.append(f"{name} {list(getattr(self, name))!r} must be a list of texts")
        for name in ("skip_unsupported", "trust_remote_code"):
            if not isinstance(getattr(self, name), bool):
                faults.append(f"{name} {getattr(self, name)!r} must be true or false")
        if not isinstance(self.true_sequential, (bool, type(None))):
            faults.append(f"true_sequential {self.true_sequential!r} must be true or false")
        return faults

    @property
    def own_share(self) -> float:
        """The share of calibration windows that the model writes: the preset's, unless another was asked for."""
        return PRESETS[self.method].own_text if self.own_text is None else float(self.own_text)

    @property
    def windows(self) -> int:
        """How many calibration windows of text are wanted."""
        return 128 if self.samples is None else self.samples

    def build_method(self) -> Method:
        """The choices as objects; the pattern is N:M where the sparsity says so."""
        method = self._or_fail(self._method)
        if method is None:
            raise RecipeError(["no method"])
        named = NM.of(self.wanted())
        if named is not None:
            method = dataclasses.replace(method, pattern=named)
        if method.pattern.own_sparsity is not None and self.allocation is None:
            method = dataclasses.replace(method, allocator=registry.allocator.make("uniform"))
        return method

    def loose_pattern(self) -> Pattern:
        """The pattern of a layer whose ``--set`` is a plain fraction, also where the others are N:M."""
        named = self._or_fail(self._method)
        if named is not None and named.pattern.own_sparsity is None:
            return named.pattern
        return registry.pattern.make("unstructured")

    def wanted(self) -> Target | None:
        """The wanted sparsity; None where only ``--set`` says any."""
        return self._or_fail(self._target)

    def pins(self) -> list[Pin]:
        """The ``--set`` entries."""
        return self._or_fail(self._pins)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def _or_fail(build: Callable[[list[str]], Result]) -> Result:
        faults: list[str] = []
        built = build(faults)
        if faults:
            raise RecipeError(faults)
        return built

    def _method(self, faults: list[str]) -> Method | None:
        preset = PRESETS.get(self.method)
        if preset is None:
            faults.append(f"unknown method '{self.method}'{suggest(self.method, PRESETS)}")
            preset = PRESETS["magnitude"]
        before = len(faults)
        criterion = _make(registry.criterion, self.criterion or preset.criterion, faults)
        pattern = _make(registry.pattern, self.pattern or preset.pattern, faults)
        allocator = _make(registry.allocator, self.allocation or preset.allocation, faults)
        solver = _make(registry.solver, self.solver or preset.solver, faults)
        target = _make(registry.target, self.target or preset.target, faults)
        spec = self.grid or preset.grid
        grid = _make(registry.grid, spec, faults) if spec != "none" else None
        stages = self._stages(preset.stages if self.stage is None else self.stage, faults)
        if len(faults) > before or not (criterion and pattern and allocator and target and solver):
            return None
        if self.target and target.needs and not solver.aims:
            faults.append(
                f"target '{self.target}' is for solvers that give survivors new values; '{self.solver or preset.solver}' "
                "does not: choose another --solver"
            )
        aim = target if solver.aims else Sparse()
        in_turn = preset.true_sequential if self.true_sequential is None else self.true_sequential
        temper = preset.temper if self.temper is None else self.temper
        return Method(criterion, pattern, allocator, aim, solver, grid, stages, in_turn, temper)

    @staticmethod
    def _stages(specs: Sequence[str], faults: list[str]) -> tuple[BlockStage, ...]:
        stages = [_make(registry.stage, spec, faults) for spec in specs if spec != "none"]
        return tuple(filter(None, stages))

    def _target(self, faults: list[str]) -> Target | None:
        if self.sparsity is None:
            return None
        try:
            target = parse_sparsity(self.sparsity)
        except ValueError as error:
            faults.append(str(error))
            return None
        pattern = _make(registry.pattern, self.pattern, []) if self.pattern else None
        own = pattern.own_sparsity if pattern is not None else None
        named = NM.of(target)
        if pattern is not None and named is not None and pattern != named:
            faults.append(f"sparsity {self.sparsity} is a pattern of its own, pattern '{self.pattern}' another: give one")
        elif own is not None and abs(own - target.sparsity) > 1e-9:
            faults.append(f"pattern '{self.pattern}' has sparsity {own:g} of its own, not {self.sparsity}")
        return target

    def _pins(self, faults: list[str]) -> list[Pin]:
        pins = []
        for text in self.set:
            try:
                pins.append(Pin.parse(text))
            except ValueError as error:
                faults.append(f"--set {error}")
        return pins


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _make(axis: Registry[Role], spec: str, faults: list[str]) -> Role | None:
    """Build ``name:option=value,…``; what is wrong with it joins the faults."""
    try:
        return registry.make(axis, spec)
    except ValueError as error:
        faults.append(str(error))
        return None


def with_run(cls: type[Any], settings: Mapping[str, Any], shared: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The fields that settings give a recipe of another kind, whose ``run`` holds those ``shared`` with pruning, and what
    is wrong with them."""
    own = {one.name for one in dataclasses.fields(cls)} - {"run"}
    faults: list[str] = []
    given = dict(named(settings, {*own, *shared}, faults))
    values = {name: value for name, value in given.items() if name in own}
    try:
        values["run"] = Recipe.of({name: value for name, value in given.items() if name not in own})
    except RecipeError as error:
        faults += error.faults
    return values, faults
