"""Energy: what meters of the machine say of work, or what a person says of the machine's power."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch

JOULES_A_KILOWATT_HOUR = 3.6e6
_WATTS_A_THREAD = 3.5
"""What a busy virtual CPU is reckoned to take where nobody knows better: the mean of AWS's in Cloud Carbon Footprint's
methodology (GCP's is 4.26, Azure's 3.76; memory, cooling and all else apart)."""


@dataclass(frozen=True)
class Energy:
    """Joules that ``tokens`` new tokens took, and from what that is known."""

    joules: float
    tokens: int
    source: str
    measured: bool

    @property
    def joules_per_token(self) -> float:
        return self.joules / self.tokens

    def grams(self, grid_intensity: float, tokens: float = 1e6) -> float:
        """CO₂e of so many tokens on a grid of ``grid_intensity`` grams a kilowatt-hour."""
        return self.joules_per_token * tokens / JOULES_A_KILOWATT_HOUR * grid_intensity


class Meter:
    """Joules of pieces of work: read from RAPL and NVML through zeus, or an estimate's watts times the time.

    The machine's meters count all that it does, other programs' work too.
    """

    def __init__(self, read: Callable[[Callable[[], Any]], tuple[Any, float]], source: str, measured: bool) -> None:
        self._read = read
        self.source = source
        self.measured = measured

    def of(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """What a piece of work gives, and the joules that it took."""
        return self._read(work)


def meter(device: torch.device, watts: float | None) -> Meter | None:
    """The meters of ``device``'s machine if they can be read, else an estimate: from ``watts``, if they are said, else by
    the threads in use. None on an accelerator of which nothing is known."""
    found = _zeus(device)
    if found is not None:
        return found
    if watts is not None:
        return _estimate(watts, f"{watts:g} W, as given")
    if device.type != "cpu":
        return None
    threads = torch.get_num_threads()
    many = f"{threads} busy thread{'s' if threads > 1 else ''} of {_WATTS_A_THREAD:g} W, as of a cloud's virtual CPU"
    return _estimate(threads * _WATTS_A_THREAD, many)


def _estimate(watts: float, source: str) -> Meter:
    def read(work: Callable[[], Any]) -> tuple[Any, float]:
        start = perf_counter()
        done = work()
        return done, watts * (perf_counter() - start)

    return Meter(read, f"an estimate: {source}, times the time taken", measured=False)


def _zeus(device: torch.device) -> Meter | None:
    if find_spec("zeus") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from zeus.monitor import ZeusMonitor
    logging.getLogger("zeus").setLevel(logging.ERROR)
    monitor = ZeusMonitor(gpu_indices=[device.index or 0] if device.type == "cuda" else [])
    monitor.begin_window("once", sync_execution=False)
    found = _joules(monitor.end_window("once", sync_execution=False))
    names = [name for name, joules in found.items() if joules is not None]
    if not names:
        return None

    def read(work: Callable[[], Any]) -> tuple[Any, float]:
        monitor.begin_window("work", sync_execution=device.type == "cuda")
        try:
            done = work()
        finally:
            taken = monitor.end_window("work", sync_execution=device.type == "cuda")
        return done, sum(joules for joules in _joules(taken).values() if joules is not None)

    return Meter(read, f"measured by zeus: {', '.join(names)}", measured=True)


def _joules(found: Any) -> dict[str, float | None]:
    """Joules by meter; None where there is none."""
    kinds = {"GPU (NVML)": found.gpu_energy, "CPU (RAPL)": found.cpu_energy, "memory (RAPL)": found.dram_energy}
    return {name: sum(values.values()) if values else None for name, values in kinds.items()}
