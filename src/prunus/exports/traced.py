"""A causal language model as torch.export traces it: tensors in, tensors out, batch and lengths left open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..core.errors import RecipeError, UnsupportedModelError
from ..models.skeleton import PLAIN_CONFIG, quiet_transformers
from .opened import Opened
from .written import Request

_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError)
"""What models raise that are called in a way that they are not made for."""
TOLERANCE = 1e-4
"""Largest difference of logits, as a part of the largest: the same sums in fp32 in another order."""


class WholePass(nn.Module):
    """``input_ids``, ``attention_mask [batch tokens]`` → logits ``[batch tokens vocabulary]``, without a cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One pass over whole texts."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits  # type: ignore[no-any-return]


class CachedPass(nn.Module):
    """New tokens behind those whose keys and values are in ``past``: logits, and all keys and values.

    ``input_ids``, ``position_ids`` ``[batch new]``, ``attention_mask [batch past+new]``; ``past`` and what comes out of it
    ``[batch heads tokens width]``, of each block keys, then values.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """One pass."""
        from transformers import DynamicCache

        cache = DynamicCache([(past[k], past[k + 1]) for k in range(0, len(past), 2)])
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                            past_key_values=cache, use_cache=True)  # fmt: skip
        return (output.logits, *keys_and_values(output.past_key_values))


def keys_and_values(cache: Any) -> list[Tensor]:
    """Of each block keys, then values ``[batch heads tokens width]``."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def only_float32(request: Request, name: str) -> None:
    """Raise RecipeError if weights are asked for in another dtype."""
    if request.dtype not in ("auto", "float32"):
        raise RecipeError([f"{name} is written in float32 alone, not in --dtype {request.dtype}"])


def widened(source: Opened) -> tuple[str, ...]:
    """What to say where weights are stored in fewer bits than they are written in."""
    stored = str(source.stored_dtype).removeprefix("torch.")
    return () if stored == "float32" else (f"Weights are stored in {stored} and were written in float32.",)


def traced(source: Opened, module: nn.Module, sample: tuple[Any, ...], shapes: tuple[Any, ...]) -> ExportedProgram:
    """The program of a ``module`` around the model, with ``shapes`` left open.

    Raises:
        UnsupportedModelError: if torch.export cannot follow the model.
    """
    model = source.model
    try:
        with quiet_transformers(), torch.no_grad():
            model.set_attn_implementation("eager")
            if hasattr(model, "set_experts_implementation") and model._can_set_experts_implementation():
                model.set_experts_implementation("batched_mm")
            return torch.export.export(module, sample, dynamic_shapes=shapes, strict=False)
    except (torch._dynamo.exc.UserError, *_FAILURES) as error:
        raise _refused(source, "torch.export cannot follow it", error) from error


def cached_sample(source: Opened) -> tuple[tuple[Any, ...], tuple[Any, ...], int]:
    """What :class:`CachedPass` is traced with, which of its extents are open, and for how many blocks it takes a cache.

    Raises:
        UnsupportedModelError: if the model keeps anything but keys and values between tokens.
    """
    from transformers import DynamicCache

    ids = source.ids
    try:
        with quiet_transformers(), torch.no_grad():
            output = source.model(input_ids=ids[:, :7], past_key_values=DynamicCache(), use_cache=True)
            past = keys_and_values(output.past_key_values)
            if not past or any(tensor.dim() != 4 or tensor.shape[2] != 7 for tensor in past):
                raise ValueError("what it keeps between tokens is not keys and values of each")
    except _FAILURES as error:
        raise _refused(source, "it keeps other things than keys and values of earlier tokens", error) from error
    new = ids[:, 7:12].contiguous()
    sample = (new, torch.ones(len(ids), 12, dtype=torch.int64), torch.arange(7, 12).expand(len(ids), 5), past)
    batch, length, before = Dim("batch_size"), Dim("sequence_length"), Dim("past_sequence_length")
    shapes = ({0: batch, 1: length}, {0: batch, 1: Dim.DYNAMIC}, {0: batch, 1: length}, [{0: batch, 2: before}] * len(past))
    return sample, shapes, len(past) // 2


def _refused(source: Opened, what: str, error: Exception) -> UnsupportedModelError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return UnsupportedModelError(f"{source.checkpoint.folder}: {type(source.model).__name__}: {what} ({reason}).")


def copy_beside(source: Opened, place: Path) -> None:
    """Config, tokenizer and the like; of a packed checkpoint the config before it was packed."""
    source.checkpoint.copy_extras(place)
    plain = place / PLAIN_CONFIG
    if plain.is_file():
        shutil.move(plain, place / "config.json")
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    (place / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
