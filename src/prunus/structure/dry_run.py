"""Whether a smaller model is what a cut leaves, and runs: some shapes can be built, but not computed with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..stream.probe import traits
from ..stream.sources import Source
from ..stream.trunk import Trunk
from .cut import Cut, Kept

_TOKENS = 8


def misfit(source: Source, smaller: Any, kept: Sequence[Kept], prefixes: Mapping[str, str]) -> str | None:
    """A tensor of the ``smaller`` model that is not what as many units as are ``kept`` leave of its counterpart, in words.

    ``prefixes`` map the paths of the blocks that stay to those that they will have. Blocks must also be set as before.
    """
    before = {name: tuple(value.shape) for name, value in source.model.state_dict().items()}
    cut = Cut(kept, before)
    wanted = {}
    for name, shape in before.items():
        home = next((old for old in prefixes if name.startswith(f"{old}.")), None)
        if home is not None:
            wanted[prefixes[home] + name.removeprefix(home)] = cut.shape(name, shape)
        elif not source.is_inside(name):
            wanted[name] = cut.shape(name, shape)
    given = {name: tuple(value.shape) for name, value in smaller.state_dict().items()}
    tied = {*source.model.all_tied_weights_keys, *smaller.all_tied_weights_keys}
    for name in {**wanted, **given}:
        if name not in tied and wanted.get(name) != given.get(name):
            left, said = wanted.get(name), given.get(name)
            return f"{name} would be {list(left) if left else 'gone'}, the config says {list(said) if said else 'nothing'}"
    for old, new in prefixes.items():
        if traits(source.model.get_submodule(old)) != traits(smaller.get_submodule(new)):
            return f"{new} would be of another kind than {old} was"
    return None


@torch.no_grad()
def fault_of_running(source: Source, smaller: Any, prefixes: Mapping[str, str], vocabulary: int) -> str | None:
    """Why a block of the ``smaller`` model, its weights zero, fails on a few tokens; None if none does.

    One block of each kind is tried, called as its counterpart in the ``source`` is, whose path ``prefixes`` maps to its
    own. Blocks that hand each other more than hidden states are not tried.
    """
    ids = (torch.arange(_TOKENS) % vocabulary).unsqueeze(0)
    trunk = Trunk(source, ids, _TOKENS, 1 << 30, None)
    trunk.embed()
    fault = None
    for indices in kinds_of(source, prefixes) if not trunk.shares_state else []:
        block = filled(smaller.get_submodule(prefixes[source.prefix(indices[0])]), source.device, torch.zeros)
        try:
            trunk.call(indices[0]).run(block, hidden_for(smaller, trunk))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ZeroDivisionError) as error:
            fault = f"{type(block).__name__}: {str(error).strip().splitlines()[0]}"
            break
    trunk.close()
    return fault


def kinds_of(source: Source, prefixes: Mapping[str, str]) -> list[list[int]]:
    """The blocks with these paths by their kind, those of a kind together."""
    kinds: dict[object, list[int]] = {}
    for index, block in enumerate(source.blocks):
        if source.prefix(index) in prefixes:
            kind = (type(block), traits(block), *(name for name, _ in block.named_parameters()))
            kinds.setdefault(kind, []).append(index)
    return list(kinds.values())


def filled(block: nn.Module, device: torch.device, fill: Callable[..., Tensor]) -> nn.Module:
    """A copy of a block whose parameters are on ``meta``, with those that ``fill`` gives for a shape."""
    block = copy.deepcopy(block)
    for module in block.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                values = fill(parameter.shape, dtype=parameter.dtype, device=device)
                module._parameters[name] = nn.Parameter(values, requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer.to(device) if buffer is not None else None
    return block


def hidden_for(model: Any, trunk: Trunk) -> Tensor:
    """Hidden states of the width that ``model`` has for all tokens of a Trunk's first window, zeros."""
    width = model.config.get_text_config().hidden_size
    return torch.zeros(1, trunk.windows.shape[1], width, dtype=trunk.state.dtype, device=trunk.source.device)
