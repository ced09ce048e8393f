"""Image classifiers of Transformers: without weights, and one blank image for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .skeleton import quiet_transformers

_USUAL_SIZE = 224
"""Pixels a side, where the config does not say it."""


def is_image_model(config: Any) -> bool:
    """Whether Transformers builds an image classifier from the config, and no causal language model."""
    from transformers import AutoModelForCausalLM, AutoModelForImageClassification

    kind = type(config)
    return kind in AutoModelForImageClassification._model_mapping and kind not in AutoModelForCausalLM._model_mapping


def build_image_model(config: Any) -> nn.Module:
    """The image classifier of this config, in eval mode, parameters and norms' statistics on ``meta``."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageClassification

    with quiet_transformers(), init_empty_weights(include_buffers=False):
        model: nn.Module = AutoModelForImageClassification.from_config(config)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.to("meta")
    return model.eval().requires_grad_(False)


def blank_image(config: Any) -> Tensor:
    """``[1 channels height width]`` on ``meta``, as large as the config says."""
    size = getattr(config, "image_size", None) or _USUAL_SIZE
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(1, getattr(config, "num_channels", 3), height, width, device="meta")
