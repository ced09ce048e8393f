"""A checkpoint, packed or plain, ready to run on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.source import Checkpoint
from ..core.errors import RecipeError
from ..core.progress import Progress
from .choose import Choice, keep_fastest
from .library import backend
from .load import Loaded, load_packed
from .skip import skip_columns
from .tensor_cores import to_gpu

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class RunsOn:
    """How a model is to run: ``keep`` is ``fastest`` or ``packed``; a GPU's layers are timed at ``tokens`` tokens. With
    a file of thresholds, ``activations``, layers skip columns (on the CPU)."""

    keep: str = "fastest"
    device: torch.device = _CPU
    tokens: int = 1
    activations: Path | None = None

    @property
    def backend(self) -> str:
        """What its layers run on, in a few words."""
        return backend() if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)


def load_ready(
    folder: Path, how: RunsOn, progress: Progress, trust_remote_code: bool = False
) -> tuple[Loaded, list[Choice]]:
    """The causal language model of a checkpoint, each layer in the faster way, and what was measured to find it.

    On the CPU it computes in fp32 on prunus's kernels. On a GPU it is unpacked and computes in fp16 where the checkpoint is
    stored so, else in bf16; 2:4 layers may use sparse tensor cores.

    Raises:
        CheckpointError: if the checkpoint is incomplete or damaged, or the thresholds are another model's.
        UnsupportedModelError, RecipeError: if columns cannot be skipped in it, or here.
    """
    if how.device.type == "cpu":
        loaded = load_packed(folder, progress, trust_remote_code)
        choices = skip_columns(loaded, folder, how.activations, how.keep, progress) if how.activations is not None else []
        return loaded, choices + (keep_fastest(loaded, progress) if how.keep == "fastest" else [])
    if how.activations is not None:
        raise RecipeError(["activations: columns are skipped on the CPU alone; leave out the device"])
    loaded = load_packed(folder, progress, trust_remote_code, unpacked=True)
    stored = {entry.dtype for shard in Checkpoint.open(folder).shards for entry in shard.entries.values()}
    dtype = torch.float16 if torch.float16 in stored else torch.bfloat16
    return loaded, to_gpu(loaded, how.device, dtype, how.tokens, progress)
