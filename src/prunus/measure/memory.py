"""Memory: what this process used at its peak, and what is free."""

from __future__ import annotations

import resource
import sys

import psutil
import torch


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far (plus the GPU's allocator peak, where one is used)."""
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return resident + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def available_memory_bytes() -> int:
    """Memory that can be taken now without swapping."""
    return int(psutil.virtual_memory().available)
