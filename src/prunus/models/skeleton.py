"""A model without weights: built from its config, parameters on ``meta``, buffers real."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import CheckpointError, UnsupportedModelError


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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{folder / 'config.json'}: {reason}") from error
    if getattr(config, "quantization_config", None):
        kind = dict(config.quantization_config).get("quant_method", "quantised")
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
            f"({str(error).strip().splitlines()[0]})."
        ) from error
    model.tie_weights()
    model.eval().requires_grad_(False)
    return model  # type: ignore[no-any-return]


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The path and list of the decoder's blocks: of all outermost ModuleLists the one with the most parameters.

    Raises:
        UnsupportedModelError: if the model has none.
    """
    best: tuple[int, str, nn.ModuleList] | None = None
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            size = sum(parameter.numel() for parameter in module.parameters())
            if size and (best is None or size > best[0]):
                best = (size, name, module)
    if best is None:
        raise UnsupportedModelError(f"{type(model).__name__}: no list of blocks (nn.ModuleList) was found in it.")
    return best[1], best[2]
