"""What is asked of a Sparsifier, as a recipe, with every fault at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import registry
from ..core.errors import RecipeError
from ..core.method import Method
from ..core.registry import make, suggest
from ..core.schedule import Schedule
from ..patterns.unstructured import Unstructured
from ..recipe import Recipe

_SETTINGS = ("sparsity", "pattern", "criterion", "allocation", "include", "exclude", "set", "skip_unsupported", "seed")


def checked(schedule: str | Schedule, steps: int | None, settings: Mapping[str, Any]) -> tuple[Schedule, Recipe]:
    """The schedule, and the settings as a recipe: what a schedule wants where nothing else is asked for.

    Raises:
        RecipeError: with every fault at once.
    """
    faults = [f"unknown setting '{name}'{suggest(name, _SETTINGS)}" for name in settings if name not in _SETTINGS]
    chosen = _schedule(schedule, faults)
    recipe = _recipe(chosen, settings, faults)
    if chosen is not None and chosen.needs_steps:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            faults.append(f"steps {steps!r}: how many steps the optimizer makes in all, a whole number of at least 1")
        if settings.get("sparsity") is None and not settings.get("set"):
            faults.append(f"sparsity is missing: the schedule '{_name(chosen)}' goes for one")
    if chosen is not None and recipe is not None:
        faults += _misfits(chosen, recipe)
    if chosen is not None and settings.get("criterion") is not None and chosen.keeps_scores:
        faults.append(f"criterion: '{_name(chosen)}' compares weights by scores of its own, leave it out")
    if faults or chosen is None or recipe is None:
        raise RecipeError(faults)
    return chosen, recipe


def _misfits(schedule: Schedule, recipe: Recipe) -> list[str]:
    """What the recipe asks for that no such schedule can keep."""
    faults = []
    pattern = recipe.build_method().pattern
    pins = recipe.pins()
    if schedule.exchanges and (pattern != Unstructured() or any(pin.target and pin.target.n for pin in pins)):
        told = "weights change places one by one, anywhere in a layer, which leaves no such pattern"
        faults.append(f"pattern '{registry.pattern.spec(pattern)}': {told}")
    if schedule.first(1.0) < 1:
        faults += [f"set '{pin.glob}=threshold:{pin.threshold:g}': a threshold cannot rise as '{_name(schedule)}' has it"
                   for pin in pins if pin.threshold is not None]  # fmt: skip
    return faults


def _schedule(schedule: str | Schedule, faults: list[str]) -> Schedule | None:
    if isinstance(schedule, Schedule):
        return schedule
    try:
        return make(registry.schedule, str(schedule))
    except ValueError as error:
        faults.append(str(error))
        return None


def _recipe(schedule: Schedule | None, settings: Mapping[str, Any], faults: list[str]) -> Recipe | None:
    values = {"method": "magnitude", "sparsity": None, **{name: settings[name] for name in _SETTINGS if name in settings}}
    if schedule is not None and values.get("allocation") is None:
        values["allocation"] = schedule.allocation
    if schedule is not None and schedule.exchanges and values.get("criterion") is None:
        values["criterion"] = "random"
    if values.get("criterion") == "random":
        values["criterion"] = f"random:seed={values.get('seed', 0)}"
    try:
        recipe = Recipe.of(values)
        _check(recipe.build_method())
    except RecipeError as error:
        faults += error.faults
        return None
    return recipe


def _check(method: Method) -> None:
    if method.criterion.needs or method.compared_by.needs or method.allocator.needs_trials:
        told = (
            "criterion and allocation look at weights alone while a model is trained (magnitude, random; uniform, global, "
        )
        told += "erk): prune it first by prunus.prune(model, data=…), then hold its zeros with the schedule 'fixed'"
        raise RecipeError([told])


def _name(schedule: Schedule) -> str:
    return registry.schedule.spec(schedule).partition(":")[0]
