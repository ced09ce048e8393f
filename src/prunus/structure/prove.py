"""What a structured run must prove: the cut checkpoint, read as its user will, computes what the masked model did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.source import Checkpoint
from ..core.errors import ProofError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.matmul import FastLinears
from ..core.progress import Silent
from ..measure.memory import available_memory_bytes
from ..models.reload import check_loading, load_whole, reload_bytes
from ..stream.evaluate import forwarded, open_source

TOLERANCE = 1e-3
"""Of logits, in standard deviations of theirs, between the masked model's and the cut one's."""


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
    ids = window if window is not None else torch.arange(1, 17).remainder(reader.config.get_text_config().vocab_size)[None]
    streamed, problem = None, ""
    try:
        with torch.no_grad(), forwarded(reader, ids, ids.numel(), Silent(), "") as trunk:
            ((_, streamed),) = trunk.logits()
    except UnsupportedModelError as error:
        problem = str(error)
    found: dict[str, Any] = {"tensors": len(written.names), "masked": None}
    if streamed is not None and masked is not None:
        found["masked"] = difference = _distance(streamed, masked)
        if not difference < TOLERANCE:
            raise ProofError(
                f"{output}: the cut model's logits are {difference:.2g} standard deviations from those of the dense model "
                "with the same units masked. Something that was to be cut was not, or the other way; please report it."
            )
    found["reload"] = _reload(output, written, ids, streamed, problem, budget, trust_remote_code, reader.names.strangers)
    return found


def _reload(output: Path, written: Checkpoint, ids: Tensor, streamed: Tensor | None, problem: str, budget: int,
            trust_remote_code: bool, strangers: list[str]) -> str:  # fmt: skip
    needed = reload_bytes(written)
    if needed > budget:
        return f"not tried: it needs {needed / 2**30:.1f} GiB of memory, --memory-budget is {budget / 2**30:.1f}"
    if needed > available_memory_bytes():
        return f"not tried: it needs {needed / 2**30:.1f} GiB of memory, less are free"
    model, info = load_whole(output, torch.float32, trust_remote_code)
    check_loading(output, info, strangers)
    loaded = "from_pretrained: nothing missing, mismatched or unexpected"
    if streamed is None:
        return f"{loaded}; logits not compared ({problem})"
    with torch.no_grad(), FastLinears():
        whole = model(input_ids=ids, use_cache=False).logits.float()
    difference = _distance(whole, streamed)
    if not difference < TOLERANCE:
        raise ProofError(
            f"{output}: the reloaded model's logits are {difference:.2g} standard deviations from those of the same "
            "tensors streamed block by block. One of the two runs the model wrongly; please report it."
        )
    return f"{loaded}; logits within {difference:.1g} of the streamed"


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.std().clamp_min(1e-12))
