"""Loading a finished checkpoint the way its user will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..checkpoint.source import Checkpoint
from ..core.errors import ProofError
from .skeleton import quiet_transformers


def reload_bytes(checkpoint: Checkpoint) -> int:
    """Memory that loading a checkpoint whole in fp32 takes: its parameters, the files mapped meanwhile, a fifth more."""
    entries = [entry for shard in checkpoint.shards for entry in shard.entries.values()]
    return int(1.2 * (checkpoint.nbytes + sum(4 * entry.nbytes // entry.dtype.itemsize for entry in entries)))


def load_whole(
    folder: Path, dtype: torch.dtype | str = "auto", trust_remote_code: bool = False
) -> tuple[Any, dict[str, Any]]:
    """A model through plain ``from_pretrained``, and what transformers says of the loading."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=trust_remote_code
        )
    model, info = loaded
    return model.eval(), info


def check_loading(folder: Path, info: dict[str, Any], strangers: list[str]) -> None:
    """Every set of ``output_loading_info`` must be empty, but for tensors that the source had too many.

    Raises:
        ProofError: naming a tensor that is missing, mismatched or unexpected.
    """
    allowed = set(strangers)
    for kind, found in info.items():
        names = [str(item) for item in found if not any(str(item).endswith(name) for name in allowed)]
        if names:
            raise ProofError(f"{folder}: from_pretrained reports {kind.replace('_', ' ')}: {', '.join(sorted(names)[:3])}.")
