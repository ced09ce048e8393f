"""ShrinkRecipe: all that a person asks of a structured run, read from the command line or a TOML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .core import registry
from .core.errors import RecipeError
from .core.registry import make
from .core.roles import Depth, ExpertImportance, Importance
from .recipe import Recipe
from .settings import Settings, listed, named
from .structure.levers import LEVERS
from .structure.sizes import Wanted
from .structure.targets import KINDS, Target

AXES = ("heads", "kv_groups", "neurons", "width", "experts", "layers")
RUN = (
    "target", "solver", "temper", "starved_experts", "min_expert_tokens", "calibration", "samples", "seqlen", "own_text",
    "seed", "device", "dtype", "batch_tokens", "memory_budget", "eval_text", "eval_windows", "trust_remote_code",
)  # fmt: skip
"""Settings that a pruning run has too, with the same meaning."""
_COMPOSED = {"method": "sparsegpt", "sparsity": 0.5, "criterion": "magnitude", "pattern": "column", "allocation": "uniform"}
"""What stands for the choice of units in the method by which what reads them is repaired."""


@dataclass(frozen=True)
class ShrinkRecipe(Settings):
    """What is to stay of each axis (``prunus shrink --help`` says how that is written), and how it is chosen.

    ``cut`` are axes that only some models have, ``NAME=WHAT``. ``params`` to ``latency`` are targets: a model is cut for
    each, of sizes that are searched ``along`` these axes (none: all). ``run`` holds the settings shared with pruning.
    """

    heads: str | None = None
    kv_groups: str | None = None
    neurons: str | None = None
    width: str | None = None
    experts: str | None = None
    layers: str | None = None
    cut: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    params_nonembedding: tuple[str, ...] = ()
    flops: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    latency: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    importance: str = "obs"
    width_importance: str = "activation"
    depth: str = "loss"
    expert_importance: str = "reap"
    run: Recipe = field(default_factory=lambda: Recipe.of({**_COMPOSED, "solver": "lstsq"}))

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ShrinkRecipe:
        """A checked recipe from plain settings.

        Raises:
            RecipeError: with every fault at once.
        """
        own = {one.name for one in dataclasses.fields(cls)} - {"run"}
        values: dict[str, Any] = {}
        shared: dict[str, Any] = {"solver": "lstsq"}
        faults: list[str] = []
        for name, value in named(settings, {*own, *RUN}, faults):
            if name in AXES:
                values[name] = None if value is None else str(value)
            elif name in ("cut", "along", *KINDS):
                items = [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else value
                values[name] = tuple(map(str, listed(items)))
            elif name in own:
                values[name] = value
            else:
                shared[name] = value
        try:
            values["run"] = Recipe.of({**_COMPOSED, **shared})
        except RecipeError as error:
            faults += error.faults
        recipe = cls(**values)
        faults += recipe.faults()
        if faults:
            raise RecipeError(faults)
        return recipe

    def faults(self) -> list[str]:
        """What settings alone show to be wrong."""
        faults: list[str] = []
        for name, text in self._texts().items():
            try:
                Wanted.parse(text)
            except ValueError as error:
                faults.append(f"{name} {error}")
        for item in self.cut:
            if "=" not in item:
                faults.append(f"cut '{item}' is not NAME=WHAT")
        for kind in KINDS:
            for text in getattr(self, kind):
                try:
                    Target.parse(kind, text)
                except ValueError as error:
                    faults.append(f"{kind} {error}")
        faults += [f"along '{name}' is none of {', '.join(LEVERS)}" for name in self.along if name not in LEVERS]
        for build in (self.build_importance, self.build_width_importance, self.build_depth, self.build_expert_importance):
            try:
                build()
            except ValueError as error:
                faults.append(str(error))
        if not self._texts() and not any(getattr(self, kind) for kind in KINDS):
            faults.append(f"nothing is to be cut: say what stays of at least one of {', '.join(AXES)}, or set a "
                          f"target, one of {', '.join(KINDS)}")  # fmt: skip
        if self.along and not any(getattr(self, kind) for kind in KINDS):
            faults.append("along says what is searched for a target, and there is none")
        return faults

    def _texts(self) -> dict[str, str]:
        own = {name: getattr(self, name) for name in AXES if getattr(self, name) is not None}
        more = dict(item.split("=", 1) for item in self.cut if "=" in item)
        return {**own, **{name.strip(): text.strip() for name, text in more.items()}}

    def wanted(self) -> dict[str, Wanted]:
        """What is to stay, by axis; ``neurons`` stands for every feed-forward width that a model has."""
        return {name: Wanted.parse(text) for name, text in self._texts().items()}

    def targets(self) -> list[Target]:
        """What the smaller models may take, a model each."""
        return [Target.parse(kind, text) for kind in KINDS for text in getattr(self, kind)]

    def build_importance(self) -> Importance:
        """The importance of units inside blocks."""
        return make(registry.importance, self.importance)

    def build_width_importance(self) -> Importance:
        """The importance of the residual stream's channels."""
        return make(registry.importance, self.width_importance)

    def build_depth(self) -> Depth:
        """How the blocks that go are chosen."""
        return make(registry.depth, self.depth)

    def build_expert_importance(self) -> ExpertImportance:
        """How the experts that stay are chosen."""
        return make(registry.experts, self.expert_importance)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        own = {
            name: getattr(self, name) for name in (*AXES, "importance", "width_importance", "depth", "expert_importance")
        }
        lists = {name: list(getattr(self, name)) for name in ("cut", *KINDS, "along")}
        run = self.run.to_json()
        return {**own, **lists, **{name: run[name] for name in RUN}}
