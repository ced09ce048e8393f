"""A model without weights: built from its config, parameters on ``meta``, buffers real."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, UnsupportedModelError

PLAIN_CONFIG = "config.plain.json"
"""In a packed checkpoint's folder: its config as it was."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and warnings about things that prunus checks itself."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The model's config.

    Raises:
        CheckpointError: if it cannot be read, or its own code would have to run without consent.
        UnsupportedModelError: if the weights are quantised.
    """
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error):
            files = ", ".join(path.name for path in folder.glob("*.py")) or "from elsewhere"
            raise CheckpointError(
                f"{folder}: the model brings Python code of its own ({files}), which would run here. "
                "Read it, then allow it with --trust-remote-code."
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{folder / 'config.json'}: {reason} Mend it, or download it again.") from error
    if getattr(config, "quantization_config", None):
        kind = dict(config.quantization_config).get("quant_method", "quantised")
        if kind == "prunus":  # packed: its tensors are read as what they unpack to
            del config.quantization_config
            return config
        raise UnsupportedModelError(
            f"{folder}: its weights are quantised ({kind}). Pruning needs plain float weights: give the unquantised model."
        )
    return config


def build_skeleton(config: Any, dtype: torch.dtype, trust_remote_code: bool = False) -> nn.Module:
    """The causal language model of this config, in eval mode, parameters on ``meta`` in ``dtype``.

    Buffers are real: rotary frequencies are not in the checkpoint and would be lost on ``meta``.

    Raises:
        UnsupportedModelError: if no causal language model can be built from the config.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers(), init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, ImportError) as error:
        raise UnsupportedModelError(
            f"model type '{config.model_type}': transformers builds no causal language model from it "
            f"({str(error).strip().splitlines()[0]}). In memory other models of Transformers can be pruned, "
            "prunus.prune(model, ...), and any module cut, prunus.shrink_module(model, example, ...)."
        ) from error
    model.tie_weights()
    model.eval().requires_grad_(False)
    return model  # type: ignore[no-any-return]


class Stack(NamedTuple):
    """A list of blocks that run one after another: ``path`` is where the model has it."""

    path: str
    blocks: nn.ModuleList


def find_stacks(model: Any) -> list[Stack]:
    """The model's stacks in the order they run: a decoder's or an encoder's only one, or an encoder's and a decoder's.

    Of all lists of modules (ModuleList) in it, the one with the most parameters.

    Raises:
        UnsupportedModelError: if there is none.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        halves = (model.get_encoder(), model.get_decoder())
        paths = [next(path for path, module in model.named_modules() if module is half) for half in halves]
        return [_largest_stack(half, path) for half, path in zip(halves, paths, strict=True)]
    return [_largest_stack(model, "")]


def _largest_stack(module: nn.Module, prefix: str) -> Stack:
    best: tuple[int, Stack] | None = None
    for path, inner in module.named_modules(prefix=prefix):
        if isinstance(inner, nn.ModuleList) and len(inner):
            size = sum(parameter.numel() for parameter in inner.parameters())
            if size and (best is None or size > best[0]):
                best = (size, Stack(path, inner))
    if best is None:
        raise UnsupportedModelError(f"{type(module).__name__}: no list of blocks (nn.ModuleList) was found in it.")
    return best[1]


def model_inputs(model: Any, ids: Tensor) -> dict[str, Any]:
    """What the model is called with for windows ``ids [windows seqlen]``.

    An encoder-decoder reads the first half of each window and goes on with the second.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        half = ids.shape[1] // 2
        return {"input_ids": ids[:, :half], "decoder_input_ids": ids[:, half:], "use_cache": False}
    return {"input_ids": ids, "use_cache": False}
