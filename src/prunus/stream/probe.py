"""The probe: a few tokens through one block of each kind, to find the matrices whose layer never runs.

Some blocks hold a linear layer and use its weight in a way of their own (Mamba's ``dt_proj`` goes into a scan). Nothing is
then known of its inputs, and that is better said before a run than in the middle of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import PrunusError
from ..core.site import Site
from ..models.listed import is_expert
from .sources import Source
from .trunk import Trunk

_TOKENS = 8


@torch.no_grad()
def never_run(source: Source, sites: Sequence[Site], windows: Tensor) -> set[str]:
    """Names of the Sites whose layer is not called when their block runs on the first tokens of ``windows``.

    Stacked experts, and layers in a list inside a block, are left out: which of them run is for the router to say.

    Raises:
        UnsupportedModelError: if the blocks cannot be followed one by one.
    """
    trunk = Trunk(source, windows[:1, :_TOKENS], _TOKENS, 1 << 30, None)
    trunk.embed()
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for index, block in enumerate(source.blocks):
        roles = tuple(site.role for site in sites if site.block == index)
        if roles:
            kinds.setdefault((type(block), roles, traits(block)), []).append(index)
    silent = set()
    for indices in kinds.values():
        first, block = indices[0], source.blocks[indices[0]]
        plain = [site.role for site in sites if site.block == first and not is_expert(block, site)]
        missed = _missed(source, trunk, first, plain)
        silent |= {site.name for site in sites if site.block in indices and site.role in missed}
    trunk.close()
    return silent


def traits(block: nn.Module) -> tuple[Any, ...]:
    """Plain settings that make blocks of one class differ, such as the kind of their attention."""
    plain = (bool, str)
    return tuple(
        (path, key, value)
        for path, module in block.named_modules()
        for key, value in sorted(vars(module).items())
        if isinstance(value, plain) and key != "training"
    )


def _missed(source: Source, trunk: Trunk, index: int, roles: Sequence[str]) -> set[str]:
    """Which of these layers of one block do not run."""
    reached: set[str] = set()
    block = source.blocks[index]
    try:
        with ExitStack() as hooks:
            for role in roles:
                handle = block.get_submodule(role).register_forward_pre_hook(
                    lambda module, args, role=role: reached.add(role)
                )
                hooks.callback(handle.remove)
            extras = _extras_before(source, trunk, index)
            trunk.call(index).run(source.load(index), trunk.state.read(slice(0, 1), source.device), extras)
    except PrunusError:
        raise
    except (RuntimeError, LookupError):  # a block that cannot run alone is not judged here: the run itself will tell
        return set()
    finally:
        source.release(index)
    return set(roles) - reached


def _extras_before(source: Source, trunk: Trunk, index: int) -> tuple[Any, ...]:
    """What the block before hands to this one beside hidden states, where it takes any."""
    if not index or not trunk.call(index).takes_extras:
        return ()
    before = source.load(index - 1)
    hidden = trunk.state.read(slice(0, 1), source.device)
    extras = trunk.call(index - 1).run(before, hidden, _extras_before(source, trunk, index - 1)).extras
    source.release(index - 1)
    return extras
