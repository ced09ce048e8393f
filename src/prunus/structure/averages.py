"""Norms over what is cut: their mean changes with the number of units, so their gain makes up for it.

A norm divides by the root of a mean over d values. Of d′ that stay, with the rest at zero (behind a norm that takes
the mean away: at the mean of those that stay), the same root is √(d′/d) times theirs: a gain of √(d/d′) times the old makes
the cut norm equal to the masked one, but for its epsilon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.exchanged import exchanged
from .coupling import Place, gain_of
from .cut import Cut


def averaged_modules(cut: Cut) -> dict[str, Tensor]:
    """The norms whose mean changes, with the positions that stay."""
    modules = {module for kept in cut.kept for module in kept.coupling.averaged}
    places = {module: Place(gain_of(module), 0) for module in sorted(modules)}
    return {module: cut.positions[place] for module, place in places.items() if place in cut.positions}


@torch.no_grad()
def corrected(module: nn.Module, kept: int) -> Tensor:
    """The gain ``[d]`` of a norm of which ``kept`` values stay; some norms (Gemma's) multiply by one more than it."""
    gain: Any = module.weight
    factor = (len(gain) / kept) ** 0.5
    offset = gain_offset(module)
    new: Tensor = (gain.double() + offset).mul(factor).sub(offset).to(gain.dtype)
    return new


@torch.no_grad()
def masked_gain(module: nn.Module, kept: Tensor, dtype: torch.dtype) -> Tensor:
    """The gain ``[d]`` with which the masked norm gives what the cut one does, whose gain is stored in ``dtype``."""
    gain: Any = module.weight
    offset = gain_offset(module)
    rounded = corrected(module, len(kept)).to(dtype).double()
    new = torch.zeros_like(gain)
    at = kept.to(gain.device)
    new[at] = ((rounded[at] + offset) / (len(gain) / len(kept)) ** 0.5 - offset).to(gain.dtype)
    return new


@torch.no_grad()
def gain_offset(module: nn.Module) -> float:
    """What a norm adds to its gain before it multiplies by it, found by trying: 0, or 1 for a few families."""
    gain: Any = module.weight
    values = torch.linspace(-1, 1, len(gain), device=gain.device, dtype=gain.dtype)
    run = [gain.new_zeros(len(gain)), gain.new_ones(len(gain))]
    outputs = []
    for value in run:
        with exchanged([(gain, value)]):
            outputs.append(_run(module, values).double())
    bias: Any = getattr(module, "bias", None)
    base = outputs[0] - (bias.double() if bias is not None else 0)
    step = outputs[1] - outputs[0]
    return round(float((base @ step) / step.square().sum().clamp_min(1e-30)), 3)


def _run(module: nn.Module, values: Tensor) -> Tensor:
    """A norm on one row of values, along whichever dimension it has channels."""
    if getattr(module, "data_format", "") == "channels_first":
        return module(values.view(1, -1, 1, 1)).flatten()  # type: ignore[no-any-return]
    return module(values.view(1, 1, -1)).flatten()  # type: ignore[no-any-return]


@contextmanager
def masked_norms(model: nn.Module, norms: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context norms compute what those of the cut model will.

    Those that take the mean away see what goes at the mean of what stays. The cut norms have the epsilons of the dense
    ones, which then count for d/d′ times less than they did: a config has one for all norms, cut or not.
    """
    with ExitStack() as stack:
        for path, kept in norms.items():
            module = model.get_submodule(path)
            size = len(module.weight)  # type: ignore[arg-type]
            stack.enter_context(_smaller_epsilon(module, len(kept) / size))
            if _subtracts_mean(module):
                stack.callback(module.register_forward_pre_hook(_fill(kept, size)).remove)
        yield


@contextmanager
def _smaller_epsilon(module: Any, factor: float) -> Iterator[None]:
    names = [name for name in ("eps", "variance_epsilon") if isinstance(getattr(module, name, None), float)]
    before = {name: getattr(module, name) for name in names}
    try:
        for name, value in before.items():
            setattr(module, name, value * factor)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@torch.no_grad()
def _subtracts_mean(module: nn.Module) -> bool:
    gain: Any = module.weight
    values = torch.linspace(-1, 1, len(gain), device=gain.device, dtype=gain.dtype)
    return bool(torch.allclose(_run(module, values), _run(module, values + 1), rtol=1e-3, atol=1e-3))


def _fill(kept: Tensor, size: int) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = args[0]
        dim = 1 if getattr(module, "data_format", "") == "channels_first" else values.dim() - 1
        stays = torch.zeros(size, dtype=torch.bool, device=values.device)
        stays[kept.to(values.device)] = True
        mean = values.index_select(dim, kept.to(values.device)).mean(dim, keepdim=True)
        shape = [1] * values.dim()
        shape[dim] = size
        return (torch.where(stays.view(shape), values, mean), *args[1:])

    return hook
