"""What a healed checkpoint must prove, read back from its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.source import Checkpoint
from ..core.errors import ProofError
from ..core.progress import Progress
from ..stream.evaluate import open_source
from ..stream.prove import few_ids, reloaded, require_finite
from ..stream.sources import CheckpointSource


def prove_healed(source: CheckpointSource, output: Path, zeros: Mapping[str, Tensor], budget: int,
                 progress: Progress, trust_remote_code: bool = False) -> dict[str, Any]:  # fmt: skip
    """The tensors, shapes and dtypes of the model that it came from, no NaN or Inf, every one of the ``zeros`` still there,
    and, where ``budget`` bytes allow, a plain ``from_pretrained`` that misses nothing.

    Raises:
        ProofError: naming the first check that failed.
    """
    before, written = source.checkpoint, Checkpoint.open(output)
    if set(written.names) != set(before.names):
        raise ProofError(f"{output}: its tensors are not those of the model that was trained.")
    for name in written.names:
        one, other = before.entry(name), written.entry(name)
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            raise ProofError(
                f"{output}: tensor '{name}' is {other.dtype} {list(other.shape)}, it was {one.dtype} {list(one.shape)}."
            )
    require_finite(output, written, progress)
    reader = open_source(output, torch.float32, torch.device("cpu"), trust_remote_code)
    for name, lost in _lost(reader, zeros):
        if lost:
            raise ProofError(f"{output}: '{name}' has lost {lost} of its {int(zeros[name].sum())} zeros.")
    found = reloaded(output, written, reader, few_ids(reader), budget, progress, trust_remote_code)
    return {"zeros_held": sum(int(mask.sum()) for mask in zeros.values()), "reload": found}


def _lost(reader: CheckpointSource, zeros: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """Of every pruned matrix, as it was written, how many zeros are no more."""
    for index in range(len(reader.blocks)):
        inside = [name for name in zeros if name.startswith(f"{reader.prefix(index)}.")]
        if inside:
            reader.load(index)
            yield from _count_lost(reader, inside, zeros)
            reader.release(index)
    outside = [name for name in zeros if not reader.is_inside(name)]
    if outside:
        reader.load_outside(head=True)
        yield from _count_lost(reader, outside, zeros)
        reader.release_outside()


def _count_lost(reader: CheckpointSource, names: Sequence[str], zeros: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    for name in names:
        yield name, int((reader.model.get_parameter(name).data[zeros[name]] != 0).sum())
