"""Memory: what this process used at its peak, and what is free."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil
import torch


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far (plus the GPU's allocator peak, where one is used)."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return _resident_peak() + sum(torch.cuda.max_memory_allocated(gpu) for gpu in gpus)


def _resident_peak() -> int:
    """From /proc where there is one: what ``getrusage`` says begins with the size of the process that started this one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """Resident size of this process now."""
    return int(psutil.Process().memory_info().rss)


def available_memory_bytes(device: torch.device | None = None) -> int:
    """Memory that can be taken now without swapping, within the container's limit; a GPU's own for a GPU."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(int(psutil.virtual_memory().available), _left_in_container())


def _left_in_container() -> int:
    """What the control group still allows, files that it holds in memory aside; unlimited outside of one."""
    group = Path("/sys/fs/cgroup")
    try:
        left = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return left + int(held["inactive_file"]) + int(held["active_file"]) - int(held["file_dirty"])
    except (OSError, ValueError, KeyError):
        return sys.maxsize
