"""The numbers of a config, and the shapes that a model has when some of them change."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ..core.errors import UnsupportedModelError
from .skeleton import build_skeleton

HEADS = "num_attention_heads"
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")
HEAD_SIZE = "head_dim"
WIDTH = "hidden_size"
LAYERS = "num_hidden_layers"

Shapes = dict[str, tuple[int, ...]]
"""Shape of every tensor of a model's state, by name."""


def text_config(config: Any) -> Any:
    """The part of a config that the language model reads."""
    return config.get_text_config()


def numbers(config: Any) -> dict[str, int | None]:
    """Whole numbers of the config above 1, and what is left open (None), by their own names."""
    plain = text_config(config).to_dict()
    return {name: value for name, value in plain.items() if value is None or (type(value) is int and value > 1)}


def number(config: Any, name: str) -> int | None:
    """A number of the config, also under the name that other families have for it; None if it has none."""
    try:
        value = getattr(text_config(config), name, None)
    except (AttributeError, RuntimeError):  # a number that differs from layer to layer
        return None
    return value if type(value) is int else None


def key_value_heads(config: Any) -> str | None:
    """The config's name for the number of key/value heads, if it has one."""
    return next((name for name in KEY_VALUE_HEADS if number(config, name) is not None), None)


def least_experts(config: Any) -> int:
    """How many experts a token is sent to: fewer must not stay."""
    names = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts")
    return max(number(config, name) or 1 for name in names)


def attended(config: Any) -> int:
    """Query heads times their size: what a token's attention multiplies by each token that it sees, for scores and for
    values."""
    heads, width = number(config, HEADS) or 0, number(config, WIDTH) or 0
    return heads * (number(config, HEAD_SIZE) or (width // heads if heads else 0))


def own_name(config: Any, name: str) -> str:
    """What the config itself calls a number: GPT-2 has ``n_embd`` for ``hidden_size``."""
    return str(getattr(text_config(config), "attribute_map", {}).get(name, name))


def with_numbers(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of the config with other numbers."""
    new = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(text_config(new), name, value)
    return new


def reread(config: Any) -> Any:
    """The config as it is read back once it was saved: some refuse numbers then that they let be set before."""
    return type(config).from_dict(config.to_dict())


def shapes(config: Any, changes: Mapping[str, Any], dtype: Any, trust_remote_code: bool = False) -> Shapes | None:
    """Shapes of the parameters (tied ones once) and stored buffers of a model with other numbers; None if there is none."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        model = build_skeleton(reread(with_numbers(config, changes)), dtype, trust_remote_code)
    except (UnsupportedModelError, StrictDataclassError, RuntimeError, ZeroDivisionError, TypeError, AssertionError,
            AttributeError, IndexError, ValueError):  # fmt: skip
        return None
    state, tied = model.state_dict(), dict(model.named_parameters(remove_duplicate=False))
    once = dict(model.named_parameters())
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name in once or name not in tied}
