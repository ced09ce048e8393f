"""Energy: what meters say of work, an estimate where there are none, and what it comes to."""

from __future__ import annotations

import sys
from time import sleep
from types import ModuleType, SimpleNamespace

import pytest
import torch

from prunus.measure import energy
from prunus.measure.energy import Energy, meter

CPU = torch.device("cpu")


def meters(monkeypatch, **joules) -> list[str]:
    """A machine whose meters say these joules of everything; what windows were opened on it."""
    opened: list[str] = []

    class ZeusMonitor:
        def __init__(self, gpu_indices):
            assert gpu_indices == []

        def begin_window(self, key, sync_execution):
            opened.append(key)

        def end_window(self, key, sync_execution):
            return SimpleNamespace(**{"gpu_energy": {}, "cpu_energy": None, "dram_energy": None, **joules})

    monitor = ModuleType("zeus.monitor")
    monitor.ZeusMonitor = ZeusMonitor
    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", monitor)
    monkeypatch.setattr(energy, "find_spec", lambda name: object())
    return opened


def test_meters_that_can_be_read_are_read(monkeypatch):
    opened = meters(monkeypatch, cpu_energy={0: 3.0, 1: 2.0}, dram_energy={0: 0.5})
    found = meter(CPU, watts=None)
    assert found.of(lambda: "done") == ("done", 5.5)
    assert opened == ["once", "work"]
    assert found.measured
    assert "CPU (RAPL), memory (RAPL)" in found.source


def test_where_no_meter_can_be_read_the_watts_that_were_said_make_an_estimate(monkeypatch):
    meters(monkeypatch)
    for installed in (True, False):
        monkeypatch.setattr(energy, "find_spec", lambda name, installed=installed: object() if installed else None)
        found = meter(CPU, watts=100.0)
        done, joules = found.of(lambda: sleep(0.05))
        assert done is None
        assert 5.0 <= joules < 15
        assert not found.measured
        assert "estimate: 100 W" in found.source


def test_where_nothing_is_said_a_thread_counts_as_a_busy_virtual_cpu(monkeypatch):
    monkeypatch.setattr(energy, "find_spec", lambda name: None)
    threads = torch.get_num_threads()
    found = meter(CPU, watts=None)
    _, joules = found.of(lambda: sleep(0.05))
    assert 0.05 <= joules / (3.5 * threads) < 0.15
    assert not found.measured
    assert f"estimate: {threads} busy thread" in found.source
    assert meter(torch.device("cuda"), watts=None) is None


def test_emissions_of_a_million_tokens():
    found = Energy(joules=36.0, tokens=10, source="", measured=True)
    assert found.joules_per_token == 3.6
    assert found.grams(400.0) == pytest.approx(400.0)  # 3.6 J a token: a kilowatt-hour a million
    assert found.grams(400.0, tokens=1000) == pytest.approx(0.4)
