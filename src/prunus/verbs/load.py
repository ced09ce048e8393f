"""load: a packed checkpoint as a working Transformers model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from ..core.progress import Progress, Silent
from ..models.locate import locate
from ..runtime.choose import keep_fastest
from ..runtime.library import backend
from ..runtime.load import load_packed

_log = logging.getLogger("prunus")


def load(model: str | Path, *, keep: Literal["fastest", "packed"] = "fastest", trust_remote_code: bool = False,
         progress: Progress | None = None) -> Any:  # fmt: skip
    """A checkpoint, packed or plain, as a Transformers model in fp32 on the CPU: ``generate`` and all else work as ever.

    Packed linear layers multiply by their weights as they are packed. ``keep="fastest"`` times those of each shape against
    dense ones, and keeps what is faster here; ``"packed"`` keeps them all packed, which takes the least memory.

    Raises:
        CheckpointError: if the model cannot be read, or is damaged.
        UnsupportedModelError: if no causal language model can be built of it.
    """
    reporter = progress or Silent()
    try:
        loaded = load_packed(locate(model), reporter, trust_remote_code)
        if keep == "fastest":
            keep_fastest(loaded, reporter)
    finally:
        reporter.close()
    _log.info("%d of %d linear layers run packed (%s)", loaded.packed, len(loaded.layers), backend())
    return loaded.model
