"""Embeddings that are scaled by a number of the width's (Gemma: its root): narrowed, they would be scaled otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..stream.sources import Source
from .averages import averaged_modules, gain_offset
from .coupling import gain_of
from .cut import Cut
from .output import CutOutput

_TOLERANCE = 1e-6


@torch.no_grad()
def scaled_as_before(source: Source, output: CutOutput, tensors: Mapping[str, Tensor], cut: Cut) -> dict[str, Tensor]:
    """The cut model's ``tensors`` outside the blocks, with the embedding so that what enters the first block is the same.

    Where the embedding is the head as well, the final norm makes up for it.
    """
    found = dict(tensors)
    old, new = source.model.get_input_embeddings(), output.model.get_input_embeddings()
    name = _name_of(output.model, new.weight)
    if name not in found or found[name].shape == old.weight.shape:
        return found
    ids = torch.zeros(1, 1, dtype=torch.int64, device=old.weight.device)
    ones = torch.ones_like(old.weight)
    before = torch.func.functional_call(old, {"weight": ones}, (ids,)).flatten()[0]
    after = torch.func.functional_call(new, {"weight": torch.ones_like(found[name])}, (ids,)).flatten()[0]
    scale = float(before / after)
    if abs(scale - 1) <= _TOLERANCE:
        return found
    found[name] = found[name] * scale
    head = source.model.get_output_embeddings()
    if head is None or head.weight is not old.weight:
        return found
    for path in averaged_modules(cut):
        module: Any = source.model.get_submodule(path)
        if not source.is_inside(path) and gain_of(path) in found:
            offset = gain_offset(module)
            found[gain_of(path)] = (found[gain_of(path)] + offset) / scale - offset
            if f"{path}.bias" in found:
                found[f"{path}.bias"] = found[f"{path}.bias"] / scale
    return found


def _name_of(model: Any, parameter: Tensor) -> str:
    return str(next(name for name, one in model.named_parameters() if one is parameter))
