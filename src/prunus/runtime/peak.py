"""The memory of running a model in one way, found by a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..core.progress import Silent
from ..measure.memory import peak_memory_bytes, resident_bytes
from .decode import continued
from .ready import RunsOn, load_ready
from .ways import WAYS

_RESET = Path("/proc/self/clear_refs")
"""Where Linux is told to count a process's peak anew."""


@dataclass(frozen=True)
class Run:
    """What is run: a checkpoint as ``load`` gives it, or in one of the dense ways, on random prompts."""

    folder: str
    way: str | None
    keep: str
    prompt_tokens: int
    new_tokens: int
    batch: int
    threads: int
    trust_remote_code: bool
    activations: str | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes that a process which does nothing else takes, interpreter and libraries included: ``resident`` with the model
    loaded, ``peak`` the most while it reads the prompts and decodes, the making of the model aside."""

    resident_bytes: int
    peak_bytes: int


def memory_of(run: Run) -> Memory | None:
    """What a run takes; None where the system cannot tell (not Linux) or the process ended early."""
    if not _RESET.exists():
        return None
    words = [sys.executable, "-m", "prunus.runtime.peak", json.dumps(asdict(run))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return Memory(*map(int, done.stdout.split()[-2:])) if done.returncode == 0 else None


def _main() -> None:
    run = Run(**json.loads(sys.argv[1]))
    torch.set_num_threads(run.threads)
    how = RunsOn(run.keep, activations=None if run.activations is None else Path(run.activations))
    loaded, _ = load_ready(Path(run.folder), how, Silent(), run.trust_remote_code)
    model = loaded.model
    if run.way is not None:
        model = WAYS[run.way](model)
    del loaded
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")
    resident = resident_bytes()
    ids = torch.randint(0, model.config.vocab_size, (run.batch, run.prompt_tokens))
    continued(model, ids, run.new_tokens)
    sys.stdout.write(f"{resident} {peak_memory_bytes()}\n")


if __name__ == "__main__":
    _main()
