"""load: a packed checkpoint as a working Transformers model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from ..core.progress import Progress, Silent
from ..models.locate import locate
from ..runtime.ready import RunsOn, load_ready
from .prepare import choose_device

_log = logging.getLogger("prunus")


def load(model: str | Path, *, keep: Literal["fastest", "packed"] = "fastest", activations: str | Path | None = None,
         device: str = "cpu", tokens: int = 1,
         trust_remote_code: bool = False, progress: Progress | None = None) -> Any:  # fmt: skip
    """A checkpoint, packed or plain, as a Transformers model: ``generate`` and all else work as ever.

    On the CPU it computes in fp32, and packed linear layers multiply by their weights as they are packed.
    ``keep="fastest"`` times those of each shape against dense ones, and keeps what is faster here; ``"packed"`` keeps them
    all packed, which takes the least memory. On a GPU (``device="cuda"``) it is unpacked, in fp16 or bf16, and 2:4 layers
    run on sparse tensor cores where a measurement at ``tokens`` tokens at once finds them faster there.

    ``activations`` is a file of thresholds (:func:`prunus.threshold`), on the CPU: behind prompts, layers skip columns.

    Raises:
        RecipeError: if there is no such device.
        CheckpointError: if the model cannot be read, or is damaged.
        UnsupportedModelError: if no causal language model can be built of it.
    """
    reporter = progress or Silent()
    where = RunsOn(keep, choose_device(device), tokens, None if activations is None else Path(activations))
    try:
        loaded, _ = load_ready(locate(model), where, reporter, trust_remote_code)
    finally:
        reporter.close()
    _log.info("%d of %d linear layers run sparse (%s)", loaded.packed, len(loaded.layers), where.backend)
    return loaded.model
