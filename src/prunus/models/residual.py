"""Where the residual stream passes that a linear layer's output is added to, found by running the block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..core.site import Site
from .near import near

_BEHIND = "behind the block"


def handed(args: Sequence[Any], kwargs: Mapping[str, Any], width: int) -> Tensor | None:
    """The hidden states ``[.. width]`` among a module's arguments; None if there are none."""
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point())
    return next((value for value in tensors if value.shape[-1:] == (width,)), None)


@torch.no_grad()
def residual_streams(block: nn.Module, sites: Sequence[Site], run: Callable[[], Tensor]) -> dict[str, str]:
    """For the Sites, by role, whose output y is added to a residual stream s: the path of a module that is handed s.

    The path is that inside the block, "" for the block itself. ``run()`` is the block on a batch, and gives what is behind
    it. Noise on y that appears unchanged in what another module is handed, or behind the block, shows that y is a term of
    that; what is left of it without such terms is looked for among what modules are handed. Tokens may be in rows of
    windows or all in one. Layers that a norm follows are not found, and neither are experts.
    """
    tokens, width = _by_token(run()).shape
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for site in sites:
            if not site.layout.stacked and site.rows == width:
                hook = block.get_submodule(site.role).register_forward_hook(_keep(outputs, site.role))
                stack.callback(hook.remove)
        before = _seen(block, run, tokens, width)
    terms: dict[str, list[str]] = {}
    generator = torch.Generator().manual_seed(0)
    for role, output in outputs.items():
        if len(output) != tokens:
            continue
        noise = torch.randn(tokens, width, generator=generator).to(output) * before[_BEHIND].std()
        with ExitStack() as stack:
            stack.callback(block.get_submodule(role).register_forward_hook(_add(noise)).remove)
            after = _seen(block, run, tokens, width)
        for place, value in before.items():
            if near(after[place] - value, noise, noise):
                terms.setdefault(place, []).append(role)
    streams: dict[str, str] = {}
    for place, roles in terms.items():
        rest = before[place] - sum(outputs[role] for role in roles)
        nearest = min((path for path in before if path != _BEHIND), key=lambda path: float((before[path] - rest).norm()))
        if near(before[nearest], rest, before[place]):
            streams |= {role: nearest for role in roles if role not in streams}
    return streams


def _by_token(hidden: Tensor) -> Tensor:
    """A copy ``[tokens width]``: some blocks add to what they were given."""
    return hidden.reshape(-1, hidden.shape[-1]).clone()


def _seen(block: nn.Module, run: Callable[[], Tensor], tokens: int, width: int) -> dict[str, Tensor]:
    """The hidden states ``[tokens width]`` that every module of a block is handed, by path, and those behind the block."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for path, module in block.named_modules():

            def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], path: str = path) -> None:
                hidden = handed(args, kwargs, width)
                if hidden is not None and hidden.numel() == tokens * width:
                    found[path] = _by_token(hidden)

            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        found[_BEHIND] = _by_token(run())
    return found


def _keep(into: dict[str, Tensor], role: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        into[role] = _by_token(output)

    return hook


def _add(noise: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output + noise.view_as(output)

    return hook
