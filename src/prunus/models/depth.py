"""Fewer blocks: what a config says of each block in turn, for those that stay."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .numbers import LAYERS, own_name, text_config

_THRESHOLDS = ("first_k_dense_replace", "max_window_layers", "num_kv_shared_layers")
"""Numbers of leading blocks (or, shared ones, trailing) that are otherwise than the rest."""


def shallower(config: Any, kept: Sequence[int]) -> Any:
    """The config with the ``kept`` blocks alone: their number, and every list with an entry or an index for each block.

    What it comes to is for the caller to check on the model that is built from it.
    """
    new = copy.deepcopy(config)
    text = text_config(new)
    count = int(getattr(text, LAYERS))
    changes: dict[str, Any] = {own_name(config, LAYERS): len(kept)}
    for name, value in text.to_dict().items():
        if _are_indices(name, value, count):
            changes[name] = [place for place, index in enumerate(kept) if index in value]
        elif isinstance(value, list) and len(value) == count:
            changes[name] = [value[index] for index in kept]
        elif name in _THRESHOLDS and type(value) is int and 0 < value <= count:
            trailing = name == "num_kv_shared_layers"
            changes[name] = sum(index >= count - value if trailing else index < value for index in kept)
    for name, value in changes.items():
        if not isinstance(value, list):
            setattr(text, name, value)
    for name, value in changes.items():
        if isinstance(value, list):
            setattr(text, name, value)
    return new


def _are_indices(name: str, value: Any, count: int) -> bool:
    """Whether a list of the config says which blocks are of a kind, not what each block is."""
    if not isinstance(value, list) or not name.endswith("_layers") or any(type(item) is not int for item in value):
        return False
    return all(0 <= item < count for item in value) and all(one < other for one, other in pairwise(value))
