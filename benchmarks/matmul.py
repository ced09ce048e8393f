"""fp32 products of a model's layers by torch's usual library (MKL on x86) and by the one that prunus takes here.

    python benchmarks/matmul.py [--tokens 4096] [--repeats 15]

Shapes of SmolLM2-135M's layers, in turns, medians. One row a shape in ``benchmarks/rows/matmul.jsonl``; ``ratio`` is how
many times as long the usual library takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.nn import functional

from prunus.core.matmul import linear
from rows import Rows

SHAPES = [(576, 576), (1536, 576), (576, 1536)]
"""Rows and columns of weights."""


def main() -> None:
    """Multiply, and write what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    rows = Rows(Path(__file__).parent / "rows" / "matmul.jsonl")
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        weight = torch.randn(shape, generator=generator)
        inputs = torch.randn(options.tokens, shape[1], generator=generator)
        seconds: dict[str, list[float]] = {"usual": [], "prunus": []}
        for turn in range(options.repeats + 1):
            for name, product in (("usual", functional.linear), ("prunus", linear)):
                start = perf_counter()
                with torch.no_grad():
                    product(inputs, weight)
                if turn:
                    seconds[name].append(perf_counter() - start)
        found = {name: median(spent) for name, spent in seconds.items()}
        flops = 2 * options.tokens * weight.numel()
        rows.add(
            shape=shape, tokens=options.tokens, repeats=options.repeats,
            gigaflops={name: round(flops / spent / 1e9, 1) for name, spent in found.items()},
            ratio=round(found["usual"] / found["prunus"], 2),
        )  # fmt: skip


if __name__ == "__main__":
    main()
