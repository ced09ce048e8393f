"""One run of llmcompressor, in an environment of its own; prints one JSON line. Called by ``against_llmcompressor.py``.

Time is taken from before the model is loaded until its checkpoint is written; imports are left out, as they are for prunus.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from transformers import AutoModelForCausalLM

MODIFIERS = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}
MASKS = {"0.5": "0:0", "2:4": "2:4"}


def peak_memory_bytes() -> int:
    """Largest resident size of this process; ``getrusage`` would begin with that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Prune as the options in the first argument say."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    windows = np.load(options["windows"])
    imports = peak_memory_bytes()
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
    data = Dataset.from_dict({"input_ids": windows.tolist(), "attention_mask": np.ones_like(windows).tolist()})
    modifier = MODIFIERS[options["method"]](
        sparsity=0.5, mask_structure=MASKS[options["sparsity"]], targets=["Linear"], ignore=["lm_head"]
    )
    oneshot(
        model=model, dataset=data, recipe=[modifier], num_calibration_samples=len(windows),
        max_seq_length=windows.shape[1], batch_size=options["batch"], **options.get("extra", {}),
    )  # fmt: skip
    model.save_pretrained(options["output"])
    seconds = time.perf_counter() - start
    peak = peak_memory_bytes()
    print(json.dumps({"seconds": seconds, "peak_memory_bytes": peak, "import_bytes": imports}))


if __name__ == "__main__":
    main()
