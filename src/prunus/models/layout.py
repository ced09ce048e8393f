"""The tensors that a checkpoint of a model has, before any of them is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.planned import Tensors, planned
from ..checkpoint.source import Checkpoint
from .names import stored_names


def planned_checkpoint(model: Any, dtype_of: Callable[[str], torch.dtype], folder: Path, shard_bytes: int) -> Checkpoint:
    """The checkpoint of a model whose parameters are on ``meta``, its tensors named as ``save_pretrained`` would.

    ``dtype_of`` gives the dtype that a parameter or buffer of the model will be stored in.
    """
    tensors: Tensors = {}
    for name, (parameters, shape) in stored_names(model).items():
        tensors[name] = (dtype_of(parameters[0]), shape)
    return planned(tensors, folder, shard_bytes)
