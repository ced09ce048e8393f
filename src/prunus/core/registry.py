"""The registry: one file in a folder makes a method known to recipes, the command line, docs and contract tests."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import itertools
import pkgutil
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from .coder import Coder
from .roles import (
    Allocator,
    BlockStage,
    Criterion,
    Depth,
    ExpertImportance,
    Grid,
    Importance,
    Loss,
    OutputTarget,
    Pattern,
    Solver,
)
from .schedule import Schedule
from .storage import StorageFormat

Role = TypeVar("Role")


@dataclass(frozen=True)
class Entry(Generic[Role]):
    """A registered method: its name, class, paper and what it costs in a few words."""

    name: str
    cls: type[Role]
    paper: str
    cost: str

    @property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return (self.cls.__doc__ or "").strip().splitlines()[0]

    @property
    def options(self) -> dict[str, Any]:
        """Option names and their defaults."""
        return {field.name: field.default for field in dataclasses.fields(self.cls)}  # type: ignore[arg-type]

    @property
    def explained(self) -> dict[str, str]:
        """What each option means: the string that stands below it in the class; "" where there is none."""
        try:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(self.cls))).body
        except (OSError, TypeError):  # a class made without a file
            return dict.fromkeys(self.options, "")
        found = dict.fromkeys(self.options, "")
        for one, other in itertools.pairwise(getattr(body, "body", ())):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.target.id in found:
                text = other.value.value if isinstance(other, ast.Expr) and isinstance(other.value, ast.Constant) else ""
                found[one.target.id] = " ".join(str(text).split())
        return found

    @property
    def kinds(self) -> dict[str, str]:
        """What each option takes: a type, or the words to choose from."""
        hints = typing.get_type_hints(self.cls)
        return {name: _kind(hints[name]) for name in self.options}


class Registry(Generic[Role]):
    """All members of one axis. Third parties add theirs through the entry point group ``prunus.<axis>``."""

    def __init__(self, axis: str, folder: str) -> None:
        self.axis = axis
        self._folder = folder
        self._entries: dict[str, Entry[Role]] = {}
        self._loaded = False

    def __call__(self, name: str, *, paper: str, cost: str) -> Callable[[type[Role]], type[Role]]:
        """Class decorator that registers a method under ``name``.

        Raises:
            ValueError: if the name is taken, or the class has no docstring or is no frozen dataclass.
        """

        def register(cls: type[Role]) -> type[Role]:
            if name in self._entries:
                raise ValueError(f"{self.axis} '{name}' is registered twice: {self._entries[name].cls} and {cls}")
            if not (cls.__doc__ or "").strip() or (cls.__doc__ or "").startswith(f"{cls.__name__}("):
                raise ValueError(f"{self.axis} '{name}': {cls} has no docstring")
            params = getattr(cls, "__dataclass_params__", None)
            if params is None or not params.frozen:
                raise ValueError(f"{self.axis} '{name}': {cls} is no frozen dataclass")
            self._entries[name] = Entry(name, cls, paper, cost)
            return cls

        return register

    def entries(self) -> dict[str, Entry[Role]]:
        """Every member by name, after importing the axis's folder and entry points."""
        if not self._loaded:
            package = importlib.import_module(self._folder)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._folder}.{module.name}")
            for point in entry_points(group=f"prunus.{self.axis}"):
                point.load()
            self._loaded = True
        return dict(sorted(self._entries.items()))

    def make(self, name: str, options: Mapping[str, Any] | None = None) -> Role:
        """An instance of the method ``name``; options may be strings, as the command line gives them.

        Raises:
            ValueError: naming the axis, the unknown name or option and the nearest known one.
        """
        entry = self.entries().get(name)
        if entry is None:
            raise ValueError(f"unknown {self.axis} '{name}'{suggest(name, self._entries)}")
        hints = typing.get_type_hints(entry.cls)
        values: dict[str, Any] = {}
        for key, value in (options or {}).items():
            if key not in entry.options:
                raise ValueError(f"{self.axis} '{name}' has no option '{key}'{suggest(key, entry.options)}")
            try:
                values[key] = coerced(value, hints[key])
            except ValueError as error:
                raise ValueError(f"{self.axis} '{name}', option '{key}': {error}") from None
        try:
            return entry.cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.axis} '{name}': {error}") from None

    def describe(self, method: Role) -> dict[str, Any]:
        """``{"name": …, option: value, …}``, the inverse of :meth:`make`."""
        for entry in self.entries().values():
            if type(method) is entry.cls:
                values = {key: getattr(method, key) for key in entry.options}
                return {"name": entry.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}
        raise ValueError(f"{type(method).__name__} is no registered {self.axis}")

    def spec(self, method: Role) -> str:
        """The method in the command line's spelling."""
        return spec_of(self.describe(method))


def make(axis: Registry[Role], spec: str) -> Role:
    """The method that ``name:option=value,…`` spells.

    Raises:
        ValueError: if that is no spelling, or the axis has no such method.
    """
    name, _, rest = spec.partition(":")
    options = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{axis.axis} '{spec}': '{item}' is not option=value")
        options[key.strip()] = value.strip()
    return axis.make(name.strip(), options)


def spec_of(described: Mapping[str, Any]) -> str:
    """``name:option=value,…`` of what :meth:`Registry.describe` gives, as the command line reads it.

    >>> spec_of({"name": "nm", "n": 2, "m": 4})
    'nm:n=2,m=4'
    """
    options = ",".join(f"{key}={value}" for key, value in described.items() if key != "name")
    return f"{described.get('name', '')}:{options}".rstrip(":")


def suggest(word: str, known: Collection[str]) -> str:
    """`` (did you mean …?)``, or all that is known where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1)
    listed = ", ".join(sorted(known)) or "none"
    return f" (did you mean '{near[0]}'?)" if near else f" (known: {listed})"


def _kind(hint: Any) -> str:
    """A type hint in words.

    >>> _kind(typing.Literal["pcg", "exact"]), _kind(int | None)
    ('pcg or exact', 'int or none')
    """
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(part) for part in typing.get_args(hint))
    return "none" if hint is type(None) else str(hint.__name__)


def coerced(value: Any, hint: Any) -> Any:
    """Turn a command-line string or a TOML value into the type that the option declares."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value in allowed:
            return value
        raise ValueError(f"'{value}' is none of {', '.join(map(str, allowed))}")
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "none":
            return None
        return coerced(value, next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    if hint is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if isinstance(value, bool):
            return value
        if str(value).lower() in words:
            return words[str(value).lower()]
        raise ValueError(f"'{value}' is not true or false")
    if hint in (int, float, str):
        if isinstance(value, bool) or (hint is int and isinstance(value, float) and not value.is_integer()):
            raise ValueError(f"'{value}' is no {hint.__name__}")
        try:
            return hint(value)
        except (TypeError, ValueError):
            raise ValueError(f"'{value}' is no {hint.__name__}") from None
    raise ValueError(f"options of type {hint} cannot be set by name")


criterion: Registry[Criterion] = Registry("criterion", "prunus.criteria")
pattern: Registry[Pattern] = Registry("pattern", "prunus.patterns")
allocator: Registry[Allocator] = Registry("allocator", "prunus.allocate")
target: Registry[OutputTarget] = Registry("target", "prunus.targets")
solver: Registry[Solver] = Registry("solver", "prunus.solve")
grid: Registry[Grid] = Registry("grid", "prunus.quant")
stage: Registry[BlockStage] = Registry("stage", "prunus.stages")
importance: Registry[Importance] = Registry("importance", "prunus.units")
depth: Registry[Depth] = Registry("depth", "prunus.depth")
experts: Registry[ExpertImportance] = Registry("experts", "prunus.experts")
loss: Registry[Loss] = Registry("loss", "prunus.losses")
schedule: Registry[Schedule] = Registry("schedule", "prunus.schedules")
storage: Registry[StorageFormat] = Registry("storage", "prunus.storage")
coder: Registry[Coder] = Registry("coder", "prunus.coders")
AXES: tuple[Registry[Any], ...] = (
    criterion, pattern, allocator, target, solver, grid, stage, importance, depth, experts,
    loss, schedule, storage, coder,
)  # fmt: skip
