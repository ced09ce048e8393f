"""Surgery on a model in memory: tensors, the numbers that modules keep of their shapes, and an optimiser's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedModelError
from .averages import averaged_modules, corrected
from .coupling import gain_of
from .cut import Cut
from .masking import masked

_TOLERANCE = 1e-4
_MOST_TRIES = 256


@dataclass
class Shapes:
    """What a cut changed of a model beside its values: shapes of tensors, and numbers kept by modules."""

    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    """By the attribute's path: ``encoder.0.num_heads``."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"tensors": {k: list(v) for k, v in self.tensors.items()}, "numbers": dict(self.numbers)}


def cut_module(model: nn.Module, cut: Cut, run: Callable[[], Any], optimizer: torch.optim.Optimizer | None = None,
               then: Callable[[], None] = lambda: None) -> Shapes:  # fmt: skip
    """Cut a model in place and check on ``run()``, one example, that it computes what the masked model does.

    Parameters stay the same objects, so that an optimiser and whatever else holds them goes on; its state is cut with them.
    ``then`` is done with the cut model.

    Raises:
        UnsupportedModelError: if the cut model does not run, or computes something else. Whatever fails, it is then as it
            was.
    """
    with torch.no_grad(), masked(model, cut):
        wanted = _numbers_in(run())
    before = _Before(model, cut)
    shapes = Shapes()
    try:
        gains = {gain_of(path): corrected(model.get_submodule(path), len(kept))
                 for path, kept in averaged_modules(cut).items()}  # fmt: skip
        for name, tensor in before.tensors.items():
            tensor.data = cut.narrowed(name, gains.get(name, tensor.data))
            tensor.grad = None
            shapes.tensors[name] = tuple(tensor.shape)
        shapes.numbers |= before.change(_of_known_modules(model, cut))
        shapes.numbers |= _find_numbers(model, before, cut, run, wanted)
        then()
    except BaseException:
        before.restore()
        raise
    if optimizer is not None:
        _cut_state(optimizer, before.tensors, cut)
    return shapes


class _Before:
    """What a model had before it was cut, to put it back."""

    def __init__(self, model: nn.Module, cut: Cut) -> None:
        everything = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        self.model = model
        self.tensors = {name: everything[name] for name in cut.tensors if name in everything}
        self.data = {name: tensor.data for name, tensor in self.tensors.items()}
        self.grads = {name: tensor.grad for name, tensor in self.tensors.items()}
        self.numbers: dict[str, Any] = {}

    def change(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Set attributes by their paths; gives those that were otherwise."""
        changed = {}
        for path, value in numbers.items():
            owner, _, key = path.rpartition(".")
            module = self.model.get_submodule(owner)
            if getattr(module, key) != value:
                self.numbers.setdefault(path, getattr(module, key))
                setattr(module, key, value)
                changed[path] = value
        return changed

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape before."""
        return tuple(self.data[name].shape)

    def restore(self) -> None:
        """Undo everything."""
        for name, tensor in self.tensors.items():
            tensor.data = self.data[name]
            tensor.grad = self.grads[name]
        self.change(dict(self.numbers))


def _of_known_modules(model: nn.Module, cut: Cut) -> dict[str, Any]:
    """Numbers that torch's own modules keep, from the shapes that their weights have now."""
    touched = {name.rpartition(".")[0] for name in cut.tensors}
    found: dict[str, Any] = {}
    for path in sorted(touched):
        for key, value in _numbers_of(model.get_submodule(path)).items():
            found[f"{path}.{key}" if path else key] = value
    return found


def _numbers_of(module: Any) -> dict[str, Any]:
    weight = getattr(module, "weight", None)
    if weight is None:
        return {}
    if isinstance(module, nn.modules.conv._ConvNd):
        groups = len(weight) if module.groups == module.in_channels else module.groups
        inputs, outputs = weight.shape[1] * groups, len(weight)
        if module.transposed:
            inputs, outputs = len(weight), weight.shape[1] * groups
        return {"in_channels": inputs, "out_channels": outputs, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": weight.shape[1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {"num_features": len(weight)}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(weight.shape)}
    return {}


def _find_numbers(model: nn.Module, before: _Before, cut: Cut, run: Callable[[], Any], wanted: list[Tensor]
                  ) -> dict[str, Any]:  # fmt: skip
    """Other numbers that have to change, such as a module's own count of heads: found by trying.

    Those of one class and name change together.
    """
    options = _candidates(model, before, cut)
    groups = list(options)
    tries = product(*([*options[group], None] for group in groups))
    failure = "it gives something else"
    for choice in islice(tries, _MOST_TRIES):
        numbers = {path: new for group, new in zip(groups, choice, strict=True) if new is not None for path in group[2]}
        with _trial(before, numbers):
            try:
                with torch.no_grad():
                    found = _numbers_in(run())
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
                failure = str(error).strip().splitlines()[0]
                continue
        if _near(found, wanted):
            return before.change(numbers)
    raise UnsupportedModelError(
        f"{type(model).__name__}: cut, it does not compute what it does with the same units masked ({failure}); it was "
        "left as it was. A shape written into its code stands in the way: leave out what is next to it with exclude."
    )


def _candidates(model: nn.Module, before: _Before, cut: Cut) -> dict[tuple[type, str, tuple[str, ...]], list[int]]:
    """Attributes that may have to change, by class and name, with the values that they might take."""
    found: dict[tuple[type, str], dict[str, set[int]]] = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn."):
            continue
        inside = f"{path}." if path else ""
        news: dict[int, set[int]] = {}
        for kept in cut.kept:
            for place in kept.coupling.members:
                if place.tensor.startswith(inside) and place in cut.positions:
                    size = before.shape(place.tensor)[place.dim]
                    news.setdefault(size, set()).add(len(cut.positions[place]))
                    news.setdefault(kept.coupling.units, set()).add(len(kept.units))
        for key, value in vars(module).items():
            if type(value) is int and value in news and not key.startswith("_"):
                found.setdefault((type(module), key), {})[f"{inside}{key}"] = news[value]
    options: dict[tuple[type, str, tuple[str, ...]], list[int]] = {}
    for (kind, key), paths in found.items():
        by_values: dict[tuple[int, ...], list[str]] = {}
        for path, choices in paths.items():
            by_values.setdefault(tuple(sorted(choices)), []).append(path)
        for values, those in by_values.items():
            options[kind, key, tuple(those)] = list(values)
    return options


@contextmanager
def _trial(before: _Before, numbers: Mapping[str, Any]) -> Iterator[None]:
    """Within this context some attributes have other values."""
    own = {}
    for path in numbers:
        owner, _, key = path.rpartition(".")
        own[path] = getattr(before.model.get_submodule(owner), key)
    for values in (numbers, own):
        for path, value in values.items():
            owner, _, key = path.rpartition(".")
            setattr(before.model.get_submodule(owner), key, value)
        if values is numbers:
            yield


def _numbers_in(output: Any) -> list[Tensor]:
    """What a run gave, as plain tensors."""
    from .trace import plain
    from .tracer import tensors_in

    return [tensor.detach().clone() for tensor in tensors_in(plain(output)) if tensor.is_floating_point()]


def _near(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(
        one.shape == other.shape and bool((one - other).norm() <= _TOLERANCE * other.norm().clamp_min(1e-12))
        for one, other in zip(found, wanted, strict=True)
    )


def _cut_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], cut: Cut) -> None:
    """Cut what an optimiser keeps of each parameter: momenta and the like, of the parameter's own shape."""
    for name, tensor in tensors.items():
        state: dict[str, Any] = optimizer.state.get(tensor) or {}
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() == tensor.dim() and value.numel() > 1:
                state[key] = cut.narrowed(name, value)
