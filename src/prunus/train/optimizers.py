"""What has to be known of optimizers to hold zeros under them: what they leave alone, keep, and skip."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import ASGD, LBFGS, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop
from torch.utils.weak import WeakTensorKeyDictionary

from ..core.errors import UnsupportedModelError
from .held import multiply

_ZERO_STAYS = (SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam, ASGD)
"""Optimizers that leave a weight of zero, without a gradient or a past, exactly where it is."""
_BEGINNINGS = {(Rprop, "step_size"): "lr", (Adagrad, "sum"): "initial_accumulator_value"}
"""What an optimizer keeps of a weight that begins at a setting of its group, not at zero."""


def torch_optimizer(optimizer: Any) -> Optimizer:
    """Torch's optimizer inside what accelerate or Lightning wrap it in.

    Raises:
        UnsupportedModelError: if it is none that zeros can be held under.
    """
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise UnsupportedModelError(
            f"{type(optimizer).__name__} is no optimizer of torch's, whose steps could be followed."
        )
    if isinstance(optimizer, LBFGS):
        raise UnsupportedModelError("LBFGS searches along lines that no mask holds: train with another optimizer.")
    return optimizer


def trained_by(optimizer: Optimizer) -> set[int]:
    """The ids of the parameters that it trains; those that are frozen it only has."""
    return {id(one) for group in optimizer.param_groups for one in group["params"] if one.requires_grad}


def leaves_zeros(optimizer: Optimizer) -> bool:
    """Whether a weight of zero that has no gradient, and never had any, stays at zero without being held."""
    return type(optimizer) in _ZERO_STAYS


def forget(optimizer: Optimizer, masks: Mapping[nn.Parameter, Tensor]) -> None:
    """Take from the optimizer its past of what ``masks`` (1 = kept) drop: as if they had never been trained."""
    values, factors = [], []
    known = [(group, one, masks[one]) for group in optimizer.param_groups for one in group["params"] if one in masks]
    for group, parameter, mask in known:
        for name, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or value.shape != mask.shape:
                continue
            if not value.is_floating_point():
                told = f"{type(optimizer).__name__} keeps '{name}' as {value.dtype}, which cannot be cleared"
                warnings.warn(f"{told}: weights that grow begin with the past of those that died", stacklevel=2)
                continue
            setting = _BEGINNINGS.get((type(optimizer), name))
            if setting is not None and group[setting]:
                value.masked_fill_(mask == 0, float(group[setting]))
            else:
                values.append(value)
                factors.append(mask)
    multiply(values, factors)


@dataclass(frozen=True)
class Told:
    """What is called at the steps of an optimizer."""

    before: Callable[[float], None]
    """Gradients are there, times a scale, and the optimizer is about to move the weights."""
    after: Callable[[], None]
    """The weights have moved."""
    restored: Callable[[], None]
    """The optimizer has another past, of a state that was loaded."""
    arrived: Callable[[int], None]
    """A backward pass has added to the gradient of the parameter of this number."""


_FOLLOWED: MutableMapping[Tensor, weakref.ref[Steps]] = WeakTensorKeyDictionary()
"""Whose parameters' steps are followed by whom."""


class Steps:
    """Has somebody ``told`` of every step of an optimizer that is not skipped, and of the gradients of ``parameters``.

    Gradients may come from a closure that the optimizer is called with. Fused optimizers skip steps by themselves where a
    gradient scaler has found Inf; others are not even called then. A step within a step, of a class that calls the one that
    it was made of, is a part of it.

    The optimizer keeps alive who is told, the model does not: without the optimizer nobody is told of gradients. Who
    follows parameters that somebody follows takes that one's place.
    """

    def __init__(self, optimizer: Optimizer, told: Told, parameters: Sequence[nn.Parameter]) -> None:
        self.replaced = False
        self._told = told
        self._parameters = parameters
        self._inside = 0
        self._closing = False
        self._handles = [
            optimizer.register_step_pre_hook(self._enter), optimizer.register_step_post_hook(self._leave),
            optimizer.register_load_state_dict_post_hook(self._restored),
        ]  # fmt: skip
        myself = weakref.ref(self)
        for number, parameter in enumerate(parameters):
            other = _follower(parameter)
            if other is not None:
                other.remove()
                other.replaced = True
            _FOLLOWED[parameter] = myself
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(partial(_arrived, myself, number)))

    def remove(self) -> None:
        """The optimizer is free."""
        for handle in self._handles:
            handle.remove()
        for parameter in self._parameters:
            if _follower(parameter) is self:
                del _FOLLOWED[parameter]

    def arrived(self, number: int) -> None:
        """A gradient has."""
        if not self._closing:
            self._inside = 0  # whatever became of the last step
        self._told.arrived(number)

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def _enter(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._inside += 1
        if self._inside > 1:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # the optimizer itself comes first
        if closure is None:
            if not _skipped(optimizer):
                with torch.no_grad():
                    self._told.before(_scale(optimizer))
            return None

        def wrapped() -> Any:
            self._closing = True
            try:
                with torch.enable_grad():
                    loss = closure()
            finally:
                self._closing = False
            with torch.no_grad():
                self._told.before(_scale(optimizer))
            return loss

        return ((optimizer,), {**kwargs, "closure": wrapped})

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def _leave(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._inside -= 1
        if self._inside == 0 and not _skipped(optimizer):
            with torch.no_grad():
                self._told.after()

    def _restored(self, _optimizer: Optimizer) -> None:
        self._told.restored()


def _follower(parameter: nn.Parameter) -> Steps | None:
    """Who follows its steps."""
    return _FOLLOWED[parameter]() if parameter in _FOLLOWED else None


def _arrived(steps: weakref.ref[Steps], number: int, _parameter: Tensor) -> None:
    followed = steps()
    if followed is not None:
        followed.arrived(number)


def _skipped(optimizer: Optimizer) -> bool:
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _scale(optimizer: Optimizer) -> float:
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)
