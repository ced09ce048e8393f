"""Projections that a model keeps fused in one matrix, and which of its rows are whose.

It cannot be inferred from shapes, so each is declared here after the model's own forward; a fused matrix that is not
declared is pruned as one layer. Entries are found by the class that holds the matrix (or a class that it inherits from)
and the attribute's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..core.site import Part

Declared = Callable[[Any, int], tuple[Part, ...]]
"""From the holding module and the matrix's number of rows to its parts."""


def fused_parts(owner: nn.Module, attribute: str, rows: int) -> tuple[Part, ...]:
    """The projections inside ``owner.attribute``, a matrix of ``rows`` outputs; empty where it is a single one."""
    for kind in type(owner).__mro__:
        declared = _FUSED.get((kind.__name__, attribute))
        if declared is not None:
            return declared(owner, rows)
    return ()


def in_turn(widths: dict[str, int], period: int) -> tuple[Part, ...]:
    """Parts of these widths one after another, repeated every ``period`` rows.

    >>> [part.offset for part in in_turn({"q": 4, "k": 2, "v": 2}, 8)]
    [0, 4, 6]
    """
    parts, offset = [], 0
    for name, width in widths.items():
        parts.append(Part(name, offset, width, period))
        offset += width
    return tuple(parts)


def _halves(first: str, second: str) -> Declared:
    return lambda owner, rows: in_turn({first: rows // 2, second: rows // 2}, rows)


def _thirds(owner: Any, rows: int) -> tuple[Part, ...]:
    """``[q|k|v]`` of equal heights."""
    return in_turn({"q": rows // 3, "k": rows // 3, "v": rows // 3}, rows)


def _by_head(heads: str) -> Declared:
    """q, k and v interleaved a head: ``owner.heads`` times ``[q|k|v]``."""

    def parts(owner: Any, rows: int) -> tuple[Part, ...]:
        period = rows // getattr(owner, heads)
        return in_turn({"q": period // 3, "k": period // 3, "v": period // 3}, period)

    return parts


def _by_head_dim(owner: Any, rows: int) -> tuple[Part, ...]:
    return in_turn({"q": owner.head_size, "k": owner.head_size, "v": owner.head_size}, 3 * owner.head_size)


def _queries_first(owner: Any, rows: int) -> tuple[Part, ...]:
    """``[q|k|v]``, fewer key/value heads than query heads."""
    shared = owner.num_key_value_heads * owner.head_dim
    return in_turn({"q": rows - 2 * shared, "k": shared, "v": shared}, rows)


def _conv1d(owner: Any, rows: int) -> tuple[Part, ...]:
    """GPT-2's ``c_attn``; under cross-attention it holds ``[k|v]`` only."""
    if getattr(owner, "is_cross_attention", False):
        return in_turn({"k": rows // 2, "v": rows // 2}, rows)
    return _thirds(owner, rows)


def _bigcode(owner: Any, rows: int) -> tuple[Part, ...]:
    if getattr(owner, "is_cross_attention", False):
        return in_turn({"k": rows // 2, "v": rows // 2}, rows)
    if owner.multi_query:
        shared = owner.kv_dim
        return in_turn({"q": rows - 2 * shared, "k": shared, "v": shared}, rows)
    return _by_head("num_heads")(owner, rows)


def _falcon(owner: Any, rows: int) -> tuple[Part, ...]:
    """By key/value group with the new decoder architecture; one group, or a head at a time, with the old one."""
    size = owner.head_dim
    if owner.new_decoder_architecture:
        group = owner.num_heads // owner.num_kv_heads
        return in_turn({"q": group * size, "k": size, "v": size}, (group + 2) * size)
    if owner.multi_query:
        return in_turn({"q": rows - 2 * size, "k": size, "v": size}, rows)
    return in_turn({"q": size, "k": size, "v": size}, 3 * size)


def _codegen(owner: Any, rows: int) -> tuple[Part, ...]:
    """Four slices, each ``[q|v|k]``."""
    period = rows // 4
    return in_turn({"q": period // 3, "v": period // 3, "k": period // 3}, period)


def _delta_net(owner: Any, rows: int) -> tuple[Part, ...]:
    """Qwen3-Next's q, k, v and output gate, by key head."""
    period = rows // owner.num_k_heads
    value = period // 2 - owner.head_k_dim
    return in_turn({"q": owner.head_k_dim, "k": owner.head_k_dim, "v": value, "z": value}, period)


def _delta_net_gates(owner: Any, rows: int) -> tuple[Part, ...]:
    period = rows // owner.num_k_heads
    return in_turn({"b": period // 2, "a": period // 2}, period)


_gate_up = _halves("gate", "up")

_FUSED: dict[tuple[str, str], Declared] = {
    ("BloomAttention", "query_key_value"): _by_head("num_heads"),
    ("CodeGenAttention", "qkv_proj"): _codegen,
    ("FalconAttention", "query_key_value"): _falcon,
    ("GPT2Attention", "c_attn"): _conv1d,
    ("GPTBigCodeAttention", "c_attn"): _bigcode,
    ("GPTNeoXAttention", "query_key_value"): _by_head_dim,
    ("Glm4MLP", "gate_up_proj"): _gate_up,
    ("GlmMLP", "gate_up_proj"): _gate_up,
    ("MiniMaxLightningAttention", "qkv_proj"): _by_head("num_attention_heads"),
    ("ModernBertAttention", "Wqkv"): _thirds,
    ("ModernBertMLP", "Wi"): _halves("up", "gate"),
    ("MptAttention", "Wqkv"): _thirds,
    ("PersimmonAttention", "query_key_value"): _by_head("num_heads"),
    ("Phi3Attention", "qkv_proj"): _queries_first,
    ("Phi3MLP", "gate_up_proj"): _gate_up,
    ("Qwen3NextGatedDeltaNet", "in_proj_ba"): _delta_net_gates,
    ("Qwen3NextGatedDeltaNet", "in_proj_qkvz"): _delta_net,
}
