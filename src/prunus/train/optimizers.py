"""What has to be known of optimizers to hold zeros under them: what they leave alone, keep, and skip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import ASGD, LBFGS, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop

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
    """The ids of the parameters that it has."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def leaves_zeros(optimizer: Optimizer) -> bool:
    """Whether a weight of zero that has no gradient, and never had any, stays at zero without being held."""
    return type(optimizer) in _ZERO_STAYS


def forget(optimizer: Optimizer, masks: Mapping[nn.Parameter, Tensor]) -> None:
    """Take from the optimizer its past of what ``masks`` (1 = kept) drop: as if they had never been trained."""
    values, factors = [], []
    known = [(group, one, masks[one]) for group in optimizer.param_groups for one in group["params"] if one in masks]
    for group, parameter, mask in known:
        for name, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or value.shape != mask.shape or not value.is_floating_point():
                continue
            setting = _BEGINNINGS.get((type(optimizer), name))
            if setting is not None and group[setting]:
                value.masked_fill_(mask == 0, float(group[setting]))
            else:
                values.append(value)
                factors.append(mask)
    multiply(values, factors)


class Steps:
    """Runs ``before`` once gradients are there, with what they are scaled by, and ``after`` once weights have moved, at
    every step of an optimizer that is not skipped.

    Gradients may come from a closure that the optimizer is called with. Fused optimizers skip steps by themselves where a
    gradient scaler has found Inf; others are not even called then.
    """

    def __init__(self, optimizer: Optimizer, before: Callable[[float], None], after: Callable[[], None]) -> None:
        self._before = before
        self._after = after
        self._handles = [
            optimizer.register_step_pre_hook(self._enter), optimizer.register_step_post_hook(self._leave),
        ]  # fmt: skip

    def at_gradients(self, arrived: Mapping[nn.Parameter, Callable[[nn.Parameter], None]]) -> None:
        """Tell these as well when a backward pass has added to a parameter's gradient."""
        for parameter, told in arrived.items():
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(told))

    def remove(self) -> None:
        """The optimizer is free."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # the optimizer itself comes first
        if closure is None:
            if not _skipped(optimizer):
                with torch.no_grad():
                    self._before(_scale(optimizer))
            return None

        def wrapped() -> Any:
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad():
                self._before(_scale(optimizer))
            return loss

        return ((optimizer,), {**kwargs, "closure": wrapped})

    def _leave(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not _skipped(optimizer):
            with torch.no_grad():
                self._after()


def _skipped(optimizer: Optimizer) -> bool:
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _scale(optimizer: Optimizer) -> float:
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)
