"""SmolLM2-135M in every format that prunus exports, loaded by its reader and compared: bytes and differences.

    python benchmarks/exports.py FOLDER

FOLDER keeps the model pruned to 2:4 on a grid of int4 in groups of 64, which compressed-tensors is written of. ``checks``:
``largest`` difference of two logits where the model's largest is ``scale``, ``kl`` a token and how often both readers
think the same token likeliest (``agreement``). One row a format in ``benchmarks/rows/exports.jsonl``.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import prunus
from packed_smollm import pruned
from quality import MODEL
from rows import Rows

FORMATS = (("gguf", "float32"), ("gguf", "bfloat16"), ("gguf", "q8_0"), ("onnx", "auto"), ("torch-export", "auto"),
           ("compressed-tensors", "auto"))  # fmt: skip


def main() -> None:
    """Export, append."""
    rows = Rows(Path(__file__).parent / "rows" / "exports.jsonl")
    for to, dtype in FORMATS:
        if rows.has(to=to, dtype=dtype):
            continue
        model = pruned(Path(sys.argv[1]), "2-4-int4") if to == "compressed-tensors" else MODEL
        with tempfile.TemporaryDirectory() as place:
            told = prunus.export(model, Path(place) / "written", to=to, dtype=dtype)
        rows.add(
            to=to, dtype=dtype, layout=told.layout, layers=told.layers, checks=[asdict(check) for check in told.checks],
            plain_mb=round(told.plain_bytes / 1e6, 3), packed_mb=round(told.packed_bytes / 1e6, 3), seconds=told.seconds,
        )  # fmt: skip


if __name__ == "__main__":
    main()
