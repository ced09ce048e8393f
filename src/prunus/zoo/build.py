"""A network from its spelling: one of the zoo, a function in a user's file, or torchvision's."""

from __future__ import annotations

import inspect
import runpy
import typing
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import MissingLibraryError, RecipeError
from ..core.registry import coerced, suggest
from ..core.seeded import seeded
from .alexnet import AlexNet
from .decoder import decoder
from .lenet_5 import LeNet5
from .lenet_300_100 import LeNet300
from .resnet import resnet18, resnet20
from .vgg16 import VGG16

ZOO: dict[str, Callable[..., nn.Module]] = {
    "alexnet": AlexNet,
    "decoder": decoder,
    "lenet-300-100": LeNet300,
    "lenet-5": LeNet5,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "vgg16": VGG16,
}
"""Architectures by name."""


def build(spec: str, seed: int, given: Mapping[str, int]) -> nn.Module:
    """The network that ``spec`` spells, its weights drawn by ``seed``.

    ``NAME:option=value,…`` is one of :data:`ZOO`, ``FILE.py:FUNCTION:option=value,…`` a function that gives a module in a
    file of the user's, which is run, and ``torchvision:NAME:option=value,…`` one of torchvision's, untrained. What the data
    say (``given``: ``channels``, ``size``, ``classes`` or ``vocabulary``) goes to each that asks for it and is not told
    otherwise.

    Raises:
        RecipeError: if there is no such network, option or file.
        MissingLibraryError: if torchvision is not installed.
    """
    function, options = _found(spec)
    signature = inspect.signature(function)
    takes = signature.parameters
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    unknown = [name for name in options if name not in takes and not anything]
    if unknown:
        known = [name for name in takes if takes[name].kind is not inspect.Parameter.VAR_KEYWORD]
        raise RecipeError([f"model '{spec}' has no option '{name}'{suggest(name, known)}" for name in unknown])
    hints = _hints(function)
    values: dict[str, Any] = {name: number for name, number in given.items() if name in takes}
    with seeded(seed):
        try:
            for name, text in options.items():
                values[name] = coerced(text, hints[name]) if name in hints else _plain(text)
            built = function(**values)
        except (TypeError, ValueError) as error:
            raise RecipeError([f"model '{spec}': {error}"]) from error
        except Exception as error:  # whatever a function of the user's raises
            raise RecipeError([f"model '{spec}': {type(error).__name__}: {error}"]) from error
    if not isinstance(built, nn.Module):
        raise RecipeError([f"model '{spec}': it gives a {type(built).__name__}, not a torch.nn.Module"])
    return built


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of a function's parameters, those that can be told."""
    try:
        return typing.get_type_hints(function if inspect.isfunction(function) else function.__init__)
    except (NameError, TypeError, AttributeError):
        return {}


def check_model(spec: str) -> None:
    """Raise RecipeError or MissingLibraryError, as :func:`build` would, if nothing has this spelling; nothing is run."""
    _split(spec)


def _found(spec: str) -> tuple[Callable[..., Any], dict[str, str]]:
    """What builds the network, and the options that are told."""
    kind, name, options = _split(spec)
    if kind == "zoo":
        return ZOO[name], options
    if kind == "torchvision":
        return _of_torchvision(name), options
    try:
        names = runpy.run_path(kind)
    except Exception as error:  # whatever a user's file raises
        raise RecipeError([f"model '{spec}': {kind} cannot be run ({type(error).__name__}: {error})"]) from error
    if not callable(names.get(name)):
        functions = [other for other, value in names.items() if callable(value) and not other.startswith("_")]
        raise RecipeError([f"model '{spec}': {kind} has no function '{name}'{suggest(name, functions)}"])
    return names[name], options


def _split(spec: str) -> tuple[str, str, dict[str, str]]:
    """``zoo``, ``torchvision`` or a file; the name there; options."""
    head, _, rest = spec.partition(":")
    if head.endswith(".py"):
        name, _, told = rest.partition(":")
        if not name:
            raise RecipeError([f"model '{spec}': say which function builds it, {head}:FUNCTION"])
        path = Path(head).expanduser()
        if not path.is_file():
            raise RecipeError([f"model '{spec}': no such file, {path}"])
        return str(path), name, _options(spec, told)
    if head == "torchvision":
        if find_spec("torchvision") is None:
            raise MissingLibraryError(f"model '{spec}' needs torchvision, which is not installed: pip install torchvision")
        name, _, told = rest.partition(":")
        return "torchvision", name, _options(spec, told)
    if head not in ZOO:
        more = "; your own is FILE.py:FUNCTION, torchvision's is torchvision:NAME"
        raise RecipeError([f"unknown model '{head}'{suggest(head, ZOO)}{more}"])
    return "zoo", head, _options(spec, rest)


def _options(spec: str, told: str) -> dict[str, str]:
    found = {}
    for item in filter(None, told.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError([f"model '{spec}': '{item}' is not option=value"])
        found[key.strip().replace("-", "_")] = value.strip()
    return found


def _of_torchvision(name: str) -> Callable[..., nn.Module]:
    """One of torchvision's networks, untrained, for so many ``classes``."""
    from torchvision import models

    if name not in models.list_models():
        raise RecipeError([f"torchvision has no model '{name}'{suggest(name, models.list_models())}"])

    def untrained(classes: int = 1000, **options: Any) -> nn.Module:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
        return model

    return untrained


def _plain(text: str) -> Any:
    """A value of which nothing says the type: a whole number, a number, a truth or a word."""
    for kind in (int, float, bool):
        try:
            return coerced(text, kind)
        except ValueError:
            continue
    return text
