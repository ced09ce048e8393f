"""Healing by several processes together gives what one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import prunus

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
"""What ``accelerate launch --use_fsdp --fsdp_version 2`` sets."""


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [{}, SHARDED], ids=["whole", "sharded"])
@pytest.mark.parametrize("what", [[], ["--lora", "4", "--lr", "1e-2"]], ids=["all weights", "low rank"])
def test_two_processes_train_what_one_does(what, sharded, checkpoint, quick, text_file, tmp_path) -> None:
    half = prunus.prune(checkpoint("llama"), tmp_path / "half", sparsity=0.5, method="magnitude", **quick).output
    flags = ["--text", text_file, "--tokens", "1024", "--seqlen", "32", "--held-out", "4", "--batch", "16", "--lr", "2e-3",
             "--evaluations", "2", "--eval-windows", "0", "--teacher", checkpoint("llama"), "--json", *what]  # fmt: skip
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29533"]
    records = []
    program = [Path(__file__).parents[1] / "sharded_main.py"] if sharded else ["-m", "prunus"]
    for name, start in (("one", ["-m", "prunus"]), ("two", [*launch, *program])):
        words = [sys.executable, *start, "distill", half, "-o", tmp_path / name, *flags]
        env = {**os.environ, **sharded} if name == "two" else None
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        records.append(json.loads(done.stdout))
    assert records[1]["held_out"]["after"] == pytest.approx(records[0]["held_out"]["after"], rel=1e-2)
    assert records[1]["zeros_held"] == records[0]["zeros_held"] > 0
    one, two, before = (load_file(Path(tmp_path) / name / "model.safetensors") for name in ("one", "two", "half"))
    for name in one:
        moved = float((one[name] - before[name]).norm())
        assert float((one[name] - two[name]).norm()) < 0.3 * moved + 1e-6, name
        assert not two[name][before[name] == 0].any() or "proj" not in name
