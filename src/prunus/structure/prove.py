"""What a structured run must prove: the cut checkpoint, read as its user will, computes what the masked model did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.source import Checkpoint
from ..core.errors import ProofError
from ..core.finite import all_finite
from ..stream.evaluate import open_source
from ..stream.prove import TOLERANCE, distance, few_ids, reloaded, streamed_logits


def prove_cut(output: Path, layout: Checkpoint, window: Tensor | None, masked: Tensor | None, budget: int,
              trust_remote_code: bool = False) -> dict[str, Any]:  # fmt: skip
    """Check the written checkpoint.

    The tensors that were planned and no others, no NaN or Inf; run block by block it gives for the first ``window [1
    seqlen]`` the logits of the ``masked`` model; and, where ``budget`` bytes of memory allow, a plain ``from_pretrained``
    misses nothing and computes the same.

    Raises:
        ProofError: naming the first check that failed.
    """
    written = Checkpoint.open(output)
    if set(written.names) != set(layout.names):
        raise ProofError(f"{output}: its tensors are not those that were planned.")
    for name in written.names:
        if not all_finite(written.read(name)):
            raise ProofError(f"{output}: tensor '{name}' holds NaN or Inf.")
    reader = open_source(output, torch.float32, torch.device("cpu"), trust_remote_code)
    ids = window if window is not None else few_ids(reader)
    streamed, _ = streamed_logits(reader, ids) if masked is not None else (None, "")
    found: dict[str, Any] = {"tensors": len(written.names), "masked": None}
    if streamed is not None and masked is not None:
        found["masked"] = difference = distance(streamed, masked)
        if not difference < TOLERANCE:
            raise ProofError(
                f"{output}: the cut model's logits are {difference:.2g} standard deviations from those of the dense model "
                "with the same units masked. Something that was to be cut was not, or the other way; please report it."
            )
    found["reload"] = reloaded(output, written, reader, ids, budget, trust_remote_code, streamed)
    return found
