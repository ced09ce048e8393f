"""prunus beside ONNX Runtime and llama.cpp: tokens a second of one model, all in turns in one run.

    npm install --ignore-scripts --prefix NODE node-llama-cpp@3.22.1
    python benchmarks/engines.py --node NODE [--only NAME]

SmolLM2-135M whole; with half of its weights gone as 2:4 and packed in int8; and with two thirds of its neurons, cut by
``prunus shrink``. Appends one row a model to ``benchmarks/rows/engines.jsonl``: ``prunus.bench`` with all ways that it has.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

import prunus
from quality import MODEL
from rows import Rows


def main() -> None:
    """Make, time, append."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", type=Path, required=True, help="the folder that node-llama-cpp was installed in")
    parser.add_argument("--only", choices=["whole", "packed", "cut"], help="one of the models")
    options = parser.parse_args()
    os.environ["PRUNUS_LLAMA_CPP"] = str(options.node)
    rows = Rows(Path(__file__).parent / "rows" / "engines.jsonl")
    for name in ("whole", "packed", "cut"):
        if options.only not in (None, name) or rows.has(name=name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            model = made(name, Path(folder))
            found = prunus.bench(model, prompt_tokens=32, new_tokens=24, repeats=5)
        ways = {
            way.name: {
                "prefill": round(way.prefill_tokens_per_second.median, 1),
                "decode": [round(value, 2) for value in dataclasses.astuple(way.decode_tokens_per_second)],
                "megabytes_a_step": round(way.weight_bytes / 1e6, 1),
            }
            for way in found.ways
        }
        gigabytes = None if found.bandwidth is None else round(found.bandwidth / 1e9, 1)
        rows.add(name=name, prompt_tokens=32, new_tokens=24, repeats=5, threads=found.threads, ways=ways,
                 packed_layers=found.packed_layers, left_out=found.left_out, gigabytes_a_second=gigabytes)  # fmt: skip


def made(name: str, folder: Path) -> str | Path:
    """The model of this name."""
    if name == "packed":
        prunus.prune(MODEL, folder / "pruned", method="magnitude", sparsity="2:4", eval_windows=0)
        prunus.pack(folder / "pruned", folder / "packed", values="int8", head="int8")
    elif name == "cut":
        prunus.shrink(MODEL, folder / "cut", neurons=1024, samples=16, seqlen=256, eval_windows=0)
    return MODEL if name == "whole" else folder / name


if __name__ == "__main__":
    main()
