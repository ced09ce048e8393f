"""From targets that a person has to the sizes and blocks of models that meet them, all from one survey of their parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from ..core.errors import RecipeError
from .cost import Costs, Shape
from .latency import LatencyMeter
from .levers import LEAST, Lever
from .outline import Outline, Outliner
from .search import FINALISTS, Search, Setting
from .shape_trials import Candidate, ShapeTrials
from .targets import Target

_CLOSE = 0.95
"""A shape that takes this share of the time that is allowed is not sought to be improved."""
_ROUNDS = 5


@dataclass(frozen=True)
class Found:
    """What meets a target: sizes by axis, the blocks that stay, and how that was come by."""

    sizes: Mapping[str, int]
    blocks: tuple[int, ...]
    record: Mapping[str, Any]


@dataclass
class TargetSearch:
    """``given`` sizes are cut in any case. ``blocks(n)`` are the n that would stay, ``channels(n)`` those of the stream.

    ``meter()`` opens a timer of forward passes.
    """

    outliner: Outliner
    costs: Costs
    trials: ShapeTrials
    levers: Sequence[Lever]
    given: Mapping[str, int]
    blocks: Callable[[int], tuple[int, ...]]
    channels: Callable[[int], Tensor]
    meter: Callable[[], LatencyMeter]
    _outlines: dict[Setting, Outline | None] = field(default_factory=dict, init=False)

    def find(self, targets: Sequence[Target]) -> list[Found]:
        """A shape for every target.

        Raises:
            RecipeError: if a target is met already or cannot be, with what can.
        """
        search = self.search
        limits = [self._limit(target) for target in targets]
        lowest = list(zip(targets, limits, strict=True))
        search.survey(lambda setting: all(self._cost(target, setting) <= limit for target, limit in lowest))
        finals = [self._finalists(target, limit) for target, limit in lowest]
        search.measure_all([setting for settings, _ in finals for setting in settings])
        return [
            self._found(target, limit, settings, seconds)
            for (target, limit), (settings, seconds) in zip(lowest, finals, strict=True)
        ]

    @cached_property
    def search(self) -> Search:
        """The search over the levers' settings."""
        return Search(self.levers, self._measure, self._possible, given=bool(self.given))

    def _possible(self, setting: Setting) -> bool:
        return self._outline(setting) is not None

    def _shape(self, setting: Setting) -> Shape:
        sizes = {**self.given, **self.search.sizes(setting)}
        return Shape(sizes, sizes.pop("layers", self.costs.count))

    def _cost(self, target: Target, setting: Setting) -> float:
        return self.costs.of(target.kind)(self._shape(setting))

    def _limit(self, target: Target) -> float:
        """The most of what is counted: operations, for a latency as a share of the dense model's to begin with."""
        count = self.costs.of(target.kind)
        whole = count(Shape({}, self.costs.count))
        if target.kind == "latency":
            share = target.share if target.share is not None else (target.amount or 0.0) / self._dense_seconds
            limit, whole_told = share * whole, target.told(self._dense_seconds)
        else:
            limit, whole_told = target.limit(whole), target.told(whole)
        label = f"{target.kind} {target.text}"
        if limit >= whole:
            raise RecipeError([f"{label}: the dense model takes {whole_told}, so nothing has to go"])
        least = count(self._shape(tuple(len(lever.choices) - 1 for lever in self.levers)))
        if least > limit:
            names = ", ".join(lever.name for lever in self.levers)
            what = "operations" if target.kind == "latency" else target.kind.replace("_", " ")
            reason = f"a search leaves {LEAST:.0%} of every axis; along {names} that is {least / whole:.3g}x of the {what}"
            raise RecipeError([f"{label}: {reason}. Ask for more than that, search along more axes, or give sizes"])
        return limit

    def _finalists(self, target: Target, limit: float) -> tuple[list[Setting], dict[Setting, float]]:
        """Shapes that meet a target, the one foretold to be best first; of a latency with the seconds that they take."""
        if target.kind != "latency":
            count = self.costs.of(target.kind)
            found = self.search.finalists(lambda setting: self._cost(target, setting) <= limit)
            exact = [one for one in dict.fromkeys(self._exactly(setting, count, limit) for setting in found) if one]
            if not exact:
                raise RecipeError([f"{target.kind} {target.text}: no shape of this model meets it; ask for a little less"])
            return exact, {}
        return self._fast_enough(target, limit)

    def _exactly(self, setting: Setting, count: Callable[[Shape], float], limit: float) -> Setting | None:
        """A setting that meets a limit with the blocks that stay, where it did with average ones: the finest lever moved
        on as far as it has to be."""
        finest = self.search.finest
        for choice in range(setting[finest], len(self.levers[finest].choices)):
            moved = (*setting[:finest], choice, *setting[finest + 1 :])
            if self._outline(moved) is not None and count(self._exact(moved)) <= limit * (1 + 1e-9):
                return moved
        return None

    def _exact(self, setting: Setting) -> Shape:
        shape, outline = self._shape(setting), self._outline(setting)
        return Shape(shape.sizes, shape.blocks, outline.blocks if outline is not None else None)

    def _fast_enough(self, target: Target, limit: float) -> tuple[list[Setting], dict[Setting, float]]:
        """Shapes that meet a latency when timed: the operations that are allowed follow from what the last ones took."""
        known: dict[Setting, float] = {}
        allowed = target.limit(self._dense_seconds)
        for _ in range(_ROUNDS):
            found = self.search.finalists(lambda setting, most=limit: self._cost(target, setting) <= most)  # type: ignore[misc]
            new = [setting for setting in found if setting not in known]
            outlines = [self._outline(setting) for setting in new]
            dense, *taken = self._timer.seconds([self._dense, *(outline for outline in outlines if outline is not None)])
            # what counts is the share of the dense model's time in the same turns
            known |= {setting: seconds / dense * self._dense_seconds for setting, seconds in zip(new, taken, strict=True)}
            best = [known[setting] for setting in found[:1]]
            if not best or _CLOSE * allowed <= best[0] <= allowed:
                break
            limit *= min(1.25, max(0.7, 0.98 * allowed / best[0]))
        fast = sorted((s for s, seconds in known.items() if seconds <= allowed), key=self.search.foretold)
        if not fast:
            least, dense = min(known.values(), default=self._dense_seconds), self._dense_seconds
            tried = f"{target.told(least)} of the dense model's {target.told(dense)} ({least / dense:.2f}x)"
            raise RecipeError([f"latency {target.text}: the fastest shape tried takes {tried}; ask for more than that"])
        return fast[:FINALISTS], known

    @cached_property
    def _timer(self) -> LatencyMeter:
        return self.meter()

    @cached_property
    def _dense(self) -> Outline:
        return self.outliner.outline({}, range(self.costs.count))

    @cached_property
    def _dense_seconds(self) -> float:
        return self._timer.seconds([self._dense])[0]

    def _outline(self, setting: Setting) -> Outline | None:
        """The outline of a setting; None if there is no such model."""
        if setting not in self._outlines:
            shape = self._shape(setting)
            try:
                self._outlines[setting] = self.outliner.outline(shape.sizes, self.blocks(shape.blocks))
            except RecipeError:
                self._outlines[setting] = None
        return self._outlines[setting]

    def _measure(self, settings: Sequence[Setting], told: str) -> list[float]:
        candidates = []
        for setting in settings:
            outline = self._outline(setting)
            if outline is None:
                raise AssertionError("only what has an outline is tried")
            width = outline.sizes.get("width")
            candidates.append(Candidate(outline, self.channels(width) if width is not None else None))
        return self.trials.evaluate(candidates, told)

    def _found(self, target: Target, limit: float, settings: Sequence[Setting], seconds: Mapping[Setting, float]) -> Found:
        setting = self.search.choose(settings)
        shape = self._exact(setting)
        counts: dict[str, Any] = {"kind": target.kind, "asked": target.text}
        if target.kind == "latency":
            counts |= {
                "dense": self._dense_seconds,
                "limit": target.limit(self._dense_seconds),
                "reached": seconds[setting],
            }
        else:
            count = self.costs.of(target.kind)
            counts |= {"dense": count(Shape({}, self.costs.count)), "limit": limit, "reached": count(shape)}
        tried = [self.search.told(one) for one in self.search.measured]
        record = {**counts, "tried": tried, "finalists": [self.search.told(one) for one in settings]}
        return Found(shape.sizes, shape.which or (), record)
