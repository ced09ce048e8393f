"""TrainRecipe: networks trained, pruned and trained on, read from a TOML file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .core.errors import MissingLibraryError, RecipeError
from .core.registry import spec_of, suggest
from .lab.training import OPTIMIZERS, PRECISIONS, SCHEDULES, Training
from .recipe import Recipe
from .samples.source import source_of
from .settings import Settings, listed, named
from .zoo.build import check_model

SCRATCH = "scratch"
FREE = "free"
"""In the place of a schedule: zeros are trained like all else."""
PACK = ("storage", "values", "coder", "group")
"""Settings of ``prunus.pack`` that a run may have."""
RECALIBRATE = "recalibrate"
"""A setting of one-shot pruning that is no recipe's: whether batch norms take their statistics anew."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_TAKEN = (SCRATCH, "README.md", "prunus.json", "accuracy.svg", "training.svg")
"""Names that no run can have: other things in the output have them."""
_NUMBER = re.compile(r"[-_]\d+(\.\d+)?(?=$|[-_+])")
_COUNTS = {"epochs": 0, "batch": 1, "crop": 0, "threads": 0, "calibration": 1, "latency": 0}
"""Whole numbers and the least that each may be."""
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda v: v > 0, "above 0"), "momentum": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "weight_decay": (lambda v: v >= 0, "at least 0"), "warmup": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "label_smoothing": (lambda v: 0 <= v < 1, "from 0 to below 1"),
}  # fmt: skip
"""Numbers and what each may be."""
_SEEDS = 2**40
"""Seeds are below: multiples of them are others' seeds."""
_WORDS = {"optimizer": OPTIMIZERS, "lr_schedule": SCHEDULES, "precision": PRECISIONS}
"""Settings that are one of some words."""
_SWITCHES = ("nesterov", "flip", "compile")


@dataclass(frozen=True)
class RunSettings:
    """One network of a recipe.

    It starts from ``scratch``, another run, or a file of weights; may be pruned at once (``prune``: settings of
    ``prunus.prune``, ``recalibrate`` among them); may have its zeros held or moved in training (``schedule``, with the
    settings ``sparse`` of ``prunus.Sparsifier``), or its weights ``shared``, codes of so many bits whose codebooks alone
    are trained; may learn from a ``teacher``, another run or a file of weights, with the settings ``distill`` (``weight``,
    ``temperature``); and may have ``epochs`` and an ``lr`` of its own. What ``prunus.pack`` makes of it is measured by the
    settings ``pack``. Runs of one ``series`` are joined in the plot of accuracy against sparsity.
    """

    name: str
    start: str = SCRATCH
    prune: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | None = None
    sparse: Mapping[str, Any] = field(default_factory=dict)
    shared: int | None = None
    pack: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    distill: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    lr: float | None = None
    series: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, named as the recipe names them; what was not given is left out."""
        told = {**dataclasses.asdict(self), "from": self.start}
        del told["start"]
        return {key: value for key, value in told.items() if value not in (None, {})}

    @property
    def pruning(self) -> dict[str, Any]:
        """The settings of one-shot pruning that are a Recipe's."""
        return {name: value for name, value in self.prune.items() if name != RECALIBRATE}

    @property
    def recalibrates(self) -> bool:
        """Whether batch norms take their statistics anew once it is pruned at once."""
        return bool(self.prune.get(RECALIBRATE, True))

    @property
    def group(self) -> str:
        """The series: its own, or its name without numbers."""
        return self.series or _NUMBER.sub("", self.name) or self.name


@dataclass(frozen=True)
class TrainRecipe(Settings):
    """What ``prunus train`` does, named as the recipe names it.

    ``model`` and ``data`` are spelled as :func:`~prunus.zoo.build.build` and :func:`~prunus.samples.source.source_of` have
    it. ``warmup`` and ``milestones`` (of ``lr_schedule`` ``step``) are shares of a run's steps; methods that look at inputs
    see ``calibration`` examples; ``latency`` timed passes are made over one example (0: none); ``threads`` 0 is as many as
    there are. All ``runs`` are made with each of the ``seeds``; without any there is one, ``dense``.
    """

    model: str = ""
    data: str = ""
    epochs: int = 10
    batch: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    lr_schedule: str = "cosine"
    warmup: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    label_smoothing: float = 0.0
    crop: int = 0
    flip: bool = False
    precision: str = "float32"
    compile: bool = False
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    threads: int = 0
    calibration: int = 1024
    latency: int = 200
    runs: tuple[RunSettings, ...] = (RunSettings("dense"),)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> TrainRecipe:
        """A checked recipe from plain settings.

        Raises:
            RecipeError: with every fault at once.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        faults: list[str] = []
        values: dict[str, Any] = {}
        for name, value in named(settings, known, faults):
            if name in ("model", "data") and isinstance(value, Mapping):
                values[name] = spec_of(value)
            elif name == "runs":
                values[name] = tuple(_run(table, number, faults) for number, table in enumerate(listed(value), start=1))
            else:
                values[name] = listed(value) if name in ("seeds", "milestones") else value
        recipe = cls(**values)
        faults += recipe.faults()
        if faults:
            raise RecipeError(faults)
        return recipe

    def faults(self) -> list[str]:
        """What settings alone show to be wrong."""
        faults = [*_spelling_faults("model", self.model, check_model), *_spelling_faults("data", self.data, source_of)]
        for name, least in _COUNTS.items():
            faults += _count(name, getattr(self, name), least)
        for name in _NUMBERS:
            faults += _number(name, getattr(self, name), name)
        faults += [f"{name} '{getattr(self, name)}' is none of {', '.join(words)}"
                   for name, words in _WORDS.items() if getattr(self, name) not in words]  # fmt: skip
        faults += [f"{name} {getattr(self, name)!r} must be true or false"
                   for name in _SWITCHES if not isinstance(getattr(self, name), bool)]  # fmt: skip
        if self.nesterov and not self.momentum:
            faults.append("nesterov needs a momentum above 0")
        if not self.seeds or len(set(map(str, self.seeds))) < len(self.seeds):
            faults.append(f"seeds {list(self.seeds)} must be at least one, all of them different")
        faults += [fault for seed in self.seeds for fault in _count("seeds", seed, 0)]
        faults += [
            f"seeds {seed} must be below {_SEEDS}" for seed in self.seeds if isinstance(seed, int) and seed >= _SEEDS
        ]
        if not isinstance(self.device, str):
            faults.append(f"device {self.device!r} must be a text")
        if not all(isinstance(share, (int, float)) and 0 < share < 1 for share in self.milestones):
            faults.append(f"milestones {list(self.milestones)} must be shares of all steps, above 0 and below 1")
        return faults + self._run_faults()

    def _run_faults(self) -> list[str]:
        """What is wrong with the runs."""
        faults = [] if self.runs else ["runs: there are none"]
        names = [run.name for run in self.runs]
        faults += [f"run {name} is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        for number, run in enumerate(self.runs):
            where = f"run {run.name}"
            if not _NAME.fullmatch(run.name):
                faults.append(f"run '{run.name}': a name has letters, digits and . _ + - only, for it becomes a folder's")
            if run.name in _TAKEN or run.name.endswith(".safetensors"):
                faults.append(f"run '{run.name}': something else has such a name; give it another")
            if not run.start.endswith(".safetensors") and run.start not in (SCRATCH, *names[:number]):
                before = ", ".join(names[:number]) or "none"
                known = f"{SCRATCH}, nor a run above it ({before}), nor a .safetensors file"
                faults.append(f"{where}: from '{run.start}' is neither {known}")
            if run.epochs is not None:
                faults += [f"{where}: {fault}" for fault in _count("epochs", run.epochs, 0)]
            if run.lr is not None:
                faults += _number("lr", run.lr, f"{where}: lr")
            if run.sparse and run.schedule in (None, FREE):
                faults.append(f"{where}: sparse are settings of a schedule, of which it has none")
            faults += [f"{where}: {fault}" for fault in (*_shared_faults(run), *_teacher_faults(run, names[:number]))]
            if run.schedule is not None and not self.epochs_of(run):
                faults.append(f"{where}: schedule '{run.schedule}' needs epochs to happen in")
            faults += _prune_faults(run, where)
        return faults

    def epochs_of(self, run: RunSettings) -> int:
        """How many epochs a run is trained."""
        return self.epochs if run.epochs is None else run.epochs

    def run(self, name: str) -> RunSettings | None:
        """The run of this name."""
        return next((run for run in self.runs if run.name == name), None)

    def schedule_of(self, run: RunSettings) -> str | None:
        """What happens to a run's zeros in training: what it says, else ``fixed`` where it may start with any; None:
        nothing."""
        if run.schedule is not None or run.shared is not None:
            return None if run.schedule == FREE else run.schedule
        return "fixed" if self.epochs_of(run) and (run.prune or run.start != SCRATCH) else None

    def training(self, run: RunSettings, seed: int) -> Training:
        """How a run is trained with one of the seeds."""
        own = {field.name for field in dataclasses.fields(Training)}
        values = {name: getattr(self, name) for name in own - {"seed"}}
        lr = self.lr if run.lr is None else run.lr
        return Training(**{**values, "seed": seed, "epochs": self.epochs_of(run), "lr": float(lr)})

    def at_most(self, epochs: int) -> TrainRecipe:
        """The same recipe with no run trained for more epochs than that: to try it."""
        runs = tuple(dataclasses.replace(run, epochs=None if run.epochs is None else min(run.epochs, epochs))
                     for run in self.runs)  # fmt: skip
        return dataclasses.replace(self, epochs=min(self.epochs, epochs), runs=runs)

    def only(self, names: Sequence[str]) -> TrainRecipe:
        """The same recipe with these runs alone, and those that they begin with or learn from.

        Raises:
            RecipeError: if there is no run of some name.
        """
        known = [run.name for run in self.runs]
        faults = [f"there is no run '{name}'{suggest(name, known)}" for name in names if name not in known]
        if faults:
            raise RecipeError(faults)
        wanted = set(names)
        for run in reversed(self.runs):
            if run.name in wanted:
                wanted |= {name for name in (run.start, run.teacher) if name is not None}
        return dataclasses.replace(self, runs=tuple(run for run in self.runs if run.name in wanted))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {**plain, "runs": [run.to_json() for run in self.runs]}


def _run(table: Any, number: int, faults: list[str]) -> RunSettings:
    """A run from a table of the recipe."""
    where = f"run {number}"
    if not isinstance(table, Mapping):
        faults.append(f"{where}: is a {type(table).__name__}, not a table ([[runs]])")
        return RunSettings(f"run-{number}")
    fields = {field.name for field in dataclasses.fields(RunSettings)} - {"start"} | {"from"}
    mine: list[str] = []
    values = dict(named(table, fields, mine))
    kinds = {
        **dict.fromkeys(("prune", "sparse", "pack", "distill"), Mapping),
        **dict.fromkeys(("name", "from", "schedule", "series", "teacher"), str),
    }
    for name, kind in kinds.items():
        if name in values and not isinstance(values[name], kind):
            mine.append(f"{name} {values.pop(name)!r} must be a {'table' if kind is Mapping else 'text'}")
    if "name" not in values:
        mine.append("name is missing")
    faults += [f"{where}: {fault}" for fault in mine]
    start = values.pop("from", SCRATCH)
    return RunSettings(**{"name": f"run-{number}", **values, "start": start})


def _spelling_faults(name: str, spec: Any, check: Callable[[str], Any]) -> Sequence[str]:
    """What is wrong with the spelling of the network or of the data."""
    if not spec:
        return [f"{name} is missing"]
    try:
        check(str(spec))
    except RecipeError as error:
        return error.faults
    except (ValueError, MissingLibraryError) as error:
        return [str(error)]
    return []


def _shared_faults(run: RunSettings) -> list[str]:
    """What is wrong with shared weights, and with how they are packed."""
    faults = []
    if run.shared is not None and (type(run.shared) is not int or run.shared not in range(2, 9)):
        faults.append(f"shared {run.shared!r} must be a whole number from 2 to 8, the bits of a code")
    if run.shared is not None and (run.prune or run.schedule):
        faults.append("shared: codebooks alone are trained; prune in a run before, and start from that")
    faults += [f"pack has no setting '{name}'{suggest(name, PACK)}" for name in run.pack if name not in PACK]
    return faults


def _teacher_faults(run: RunSettings, above: Sequence[str]) -> list[str]:
    """What is wrong with what a run learns from."""
    faults = []
    if run.teacher is not None and run.teacher not in above and not run.teacher.endswith(".safetensors"):
        faults.append(
            f"teacher '{run.teacher}' is neither a run above it ({', '.join(above) or 'none'}) nor a .safetensors file"
        )
    if run.distill and run.teacher is None:
        faults.append("distill are settings of what a teacher is for, of which it has none")
    right = {"weight": lambda v: 0 < v <= 1, "temperature": lambda v: v > 0}
    for name, value in run.distill.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name not in right:
            faults.append(f"distill has no setting '{name}'{suggest(name, right)}")
        elif not number or not right[name](value):
            faults.append(f"distill: {name} {value!r} must be {'above 0 and at most 1' if name == 'weight' else 'above 0'}")
    return faults


def _prune_faults(run: RunSettings, where: str) -> Sequence[str]:
    """What is wrong with the settings of one-shot pruning."""
    faults = []
    if not isinstance(run.prune.get(RECALIBRATE, True), bool):
        faults.append(f"{RECALIBRATE} {run.prune[RECALIBRATE]!r} must be true or false")
    try:
        Recipe.of(run.pruning)
    except RecipeError as error:
        faults += error.faults
    return [f"{where}: prune: {fault}" for fault in faults]


def _count(name: str, value: Any, least: int) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        return [f"{name} {value!r} must be a whole number of at least {least}"]
    return []


def _number(name: str, value: Any, told: str) -> list[str]:
    right, range_ = _NUMBERS[name]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [] if number and right(value) else [f"{told} {value!r} must be {range_}"]
