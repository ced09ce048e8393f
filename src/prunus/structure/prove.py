"""What a structured run must prove: the cut checkpoint, read as its user will, computes what the masked model did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.source import Checkpoint
from ..core.errors import ProofError
from ..core.progress import Progress
from ..stream.evaluate import open_source
from ..stream.prove import TOLERANCE, distance, reloaded, require_finite, streamed_logits

ROUNDED = 0.05
"""The tolerance where an embedding was scaled and rounded to half precision: up to 2⁻⁹ of each of its weights."""


def prove_cut(output: Path, layout: Checkpoint, window: Tensor, masked: Tensor | None, budget: int,
              progress: Progress, trust_remote_code: bool = False, tolerance: float = TOLERANCE
              ) -> dict[str, Any]:  # fmt: skip
    """Check the written checkpoint.

    The tensors that were planned and no others, no NaN or Inf; run block by block it gives for a ``window [1 seqlen]``
    the logits of the ``masked`` model, within ``tolerance`` (of the logits' standard deviation); and, where ``budget``
    bytes of memory allow, a plain ``from_pretrained`` misses nothing and computes the same.

    Raises:
        ProofError: naming the first check that failed.
    """
    written = Checkpoint.open(output)
    if set(written.names) != set(layout.names):
        raise ProofError(f"{output}: its tensors are not those that were planned.")
    require_finite(output, written, progress)
    reader = open_source(output, torch.float32, torch.device("cpu"), trust_remote_code)
    streamed, _ = streamed_logits(reader, window, progress) if masked is not None else (None, "")
    found: dict[str, Any] = {"tensors": len(written.names), "masked": None}
    if streamed is not None and masked is not None:
        found["masked"] = difference = distance(streamed, masked)
        if not difference < tolerance:
            raise ProofError(
                f"{output}: the cut model's logits are {difference:.2g} standard deviations from those of the dense model "
                "with the same units masked. Something that was to be cut was not, or the other way; please report it."
            )
    found["reload"] = reloaded(output, written, reader, window, budget, progress, trust_remote_code, streamed)
    return found
