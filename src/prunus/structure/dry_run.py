"""Whether a smaller model's blocks run at all: some shapes can be built, but not computed with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..stream.sources import Source
from ..stream.trunk import Trunk

_TOKENS = 8


@torch.no_grad()
def fault_of_running(source: Source, smaller: Any, prefixes: Mapping[str, str], vocabulary: int) -> str | None:
    """Why a block of the ``smaller`` model, its weights zero, fails on a few tokens; None if none does.

    One block of each class is tried, called as its counterpart in the ``source`` is, whose path ``prefixes`` maps to its
    own. Blocks that hand each other more than hidden states are not tried.
    """
    ids = (torch.arange(_TOKENS) % vocabulary).unsqueeze(0)
    trunk = Trunk(source, ids, _TOKENS, 1 << 30, None)
    trunk.embed()
    tried: set[type[nn.Module]] = set()
    fault = None
    for index in range(len(source.blocks)):
        prefix = source.prefix(index)
        if trunk.shares_state or prefix not in prefixes or type(source.blocks[index]) in tried:
            continue
        tried.add(type(source.blocks[index]))
        block = copy.deepcopy(smaller.get_submodule(prefixes[prefix]))
        for module in block.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    zeros = torch.zeros(parameter.shape, dtype=parameter.dtype, device=source.device)
                    module._parameters[name] = nn.Parameter(zeros, requires_grad=False)
            for name, buffer in module._buffers.items():
                module._buffers[name] = buffer.to(source.device) if buffer is not None else None
        hidden = torch.zeros(1, _TOKENS, smaller.config.get_text_config().hidden_size, dtype=trunk.state.dtype)
        try:
            trunk.call(index).run(block, hidden.to(source.device))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ZeroDivisionError) as error:
            fault = f"{type(block).__name__}: {str(error).strip().splitlines()[0]}"
            break
    trunk.close()
    return fault
