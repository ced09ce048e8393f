"""Memory that a run no longer needs goes back, wherever in the heap it lies; peaks are this process's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from prunus.measure.memory import peak_memory_bytes, resident_bytes
from prunus.stream.heap import KEPT, return_free_memory, reused_memory

glibc = pytest.mark.skipif(sys.platform != "linux", reason="only glibc's heap is told what to keep")


@glibc
def test_free_pages_between_used_ones_go_back() -> None:
    with reused_memory():
        return_free_memory(0)
        before = resident_bytes()
        blocks = [torch.ones(1 << 20) for _ in range(2 * KEPT >> 22)]
        last = torch.ones(1 << 20)  # on top of the heap, so that its end cannot simply be moved down
        assert resident_bytes() > before + KEPT
        blocks.clear()
        return_free_memory()
        assert resident_bytes() < before + KEPT / 4
        assert bool((last == 1).all())


@glibc
def test_little_is_kept_for_the_next_batch() -> None:
    with reused_memory():
        return_free_memory(0)
        before = resident_bytes()
        blocks = [torch.ones(1 << 20) for _ in range(KEPT >> 23)]
        last = torch.ones(1 << 20)
        blocks.clear()
        return_free_memory()
        assert resident_bytes() > before + KEPT / 4
        assert len(last)


def test_the_peak_of_a_process_does_not_begin_with_its_parents() -> None:
    held = torch.ones(1 << 28)  # 1 GiB
    program = "from prunus.measure.memory import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.nbytes < peak_memory_bytes()
