"""One layer, packed and dense: milliseconds against torch's fp32 and int8 and against the memory's bandwidth, in one run.

    python benchmarks/kernels.py [THREADS [BATCH,… [ROWSxCOLS …]]]

Every way has as many copies of its weights as it takes to go beyond any cache, and all take turns in random order; a row
holds medians, and the medians' ratio to torch's fp32 in the same run. ``of_floor`` is the time that reading the same bytes
takes, by all threads in several streams, over the way's own: 1 is the physical limit.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.storage import StorageFormat
from prunus.runtime.arranged import Arranged, arrange
from prunus.runtime.library import Kernels, kernels
from prunus.runtime.linear import PackedLinear
from prunus.storage.bitmask import Bitmask
from prunus.storage.columns import Columns
from prunus.storage.dense import Dense
from prunus.storage.nm import NMStorage
from prunus.storage.packed import PackedWeight
from prunus.storage.values import Values
from rows import Rows

SHAPES = ("4096x4096", "4096x11008")
BATCHES = "1,8,16,64,256"
COLD = 600e6
ROUNDS = 9
PACKED: tuple[tuple[str, StorageFormat, Values, float], ...] = (
    ("bitmask float32 50%", Bitmask(), Values("float32"), 0.5),
    ("bitmask float32 70%", Bitmask(), Values("float32"), 0.7),
    ("bitmask float32 90%", Bitmask(), Values("float32"), 0.9),
    ("bitmask bfloat16 50%", Bitmask(), Values("bfloat16"), 0.5),
    ("bitmask bfloat16 70%", Bitmask(), Values("bfloat16"), 0.7),
    ("bitmask int8 50%", Bitmask(), Values("int8"), 0.5),
    ("bitmask int8 70%", Bitmask(), Values("int8"), 0.7),
    ("2:4 int8", NMStorage(2, 4), Values("int8"), 0.5),
    ("2:4 int4 group 64", NMStorage(2, 4), Values("int4", 64), 0.5),
    ("columns float32 95%", Columns(), Values("float32"), 0.95),
    ("dense bfloat16, ours", Dense(), Values("bfloat16"), 0.0),
    ("dense int8, ours", Dense(), Values("int8"), 0.0),
    ("dense int4 group 64, ours", Dense(), Values("int4", 64), 0.0),
)


@dataclass
class Way:
    """One way to run the layer: calls on different copies, the bytes that each reads, and seconds a call."""

    calls: list[Callable[[Tensor], Any]]
    nbytes: int
    seconds: list[float] = field(default_factory=list)


def sparse(rows: int, cols: int, storage: StorageFormat, sparsity: float) -> Tensor:
    """A random weight whose zeros the format can hold."""
    weight, scores = torch.randn(rows, cols), torch.rand(rows, cols)
    if isinstance(storage, NMStorage):
        groups = scores.unflatten(1, (-1, storage.m))
        keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, groups.topk(storage.n, -1).indices, True).flatten(1)
        return torch.where(keep, weight, torch.zeros(()))
    return torch.where(scores >= sparsity, weight, torch.zeros(()))


def packed_way(found: Kernels, rows: int, cols: int, storage: StorageFormat, values: Values, sparsity: float) -> Way:
    """Copies of one packed matrix."""
    one = arrange(PackedWeight.of(sparse(rows, cols, storage, sparsity), storage, values))
    assert one is not None
    calls: list[Callable[[Tensor], Any]] = []
    for _ in range(max(2, round(COLD / one.nbytes))):
        copy = Arranged(one.layout, rows, cols, one.group, {name: tensor.clone() for name, tensor in one.tensors.items()})
        calls.append(PackedLinear(copy, None, found))
    return Way(calls, one.nbytes)


def torch_ways(rows: int, cols: int) -> dict[str, Way]:
    """What torch has: fp32, bf16 (where the processor multiplies it) and dynamic int8 by both of its engines."""
    copies = max(2, round(COLD / (4 * rows * cols)))
    weights = [torch.randn(rows, cols) for _ in range(copies)]
    ways = {"torch float32": Way([lambda x, w=w: nn.functional.linear(x, w) for w in weights], 4 * rows * cols)}  # type: ignore[misc]
    halves = [torch.randn(rows, cols).bfloat16() for _ in range(2 * copies)]
    ways["torch bfloat16"] = Way(
        [lambda x, w=w: nn.functional.linear(x.bfloat16(), w) for w in halves], 2 * rows * cols  # type: ignore[misc]
    )  # fmt: skip
    for engine in ("x86", "onednn"):
        torch.backends.quantized.engine = engine
        layers: list[Callable[[Tensor], Any]] = []
        for _ in range(min(16, 4 * copies)):
            plain = nn.Sequential(nn.Linear(cols, rows, bias=False))
            layers.append(torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8))
        ways[f"torch dynamic int8, {engine}"] = Way(layers, rows * cols)
    return ways


def measure(ways: dict[str, Way], x: Tensor) -> None:
    """Fill the ways' seconds, in turns."""
    with torch.inference_mode():
        for _ in range(ROUNDS):
            order = list(ways.values())
            random.shuffle(order)
            for way in order:
                calls = way.calls if len(x) < 16 else way.calls[:3]  # what is bound by arithmetic need not be cold
                start = perf_counter()
                for call in calls:
                    call(x)
                way.seconds.append((perf_counter() - start) / len(calls))


def main() -> None:
    """Every shape, at every batch."""
    warnings.simplefilter("ignore")
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    found = kernels()
    assert found is not None
    rows_file = Rows(Path(__file__).parent / "rows" / "runtime.jsonl")
    batches = [int(word) for word in (sys.argv[2] if len(sys.argv) > 2 else BATCHES).split(",")]
    for shape in sys.argv[3:] or SHAPES:
        rows, cols = map(int, shape.split("x"))
        ways = torch_ways(rows, cols)
        for name, storage, values, sparsity in PACKED:
            ways[name] = packed_way(found, rows, cols, storage, values, sparsity)
        room = torch.zeros(int(COLD), dtype=torch.uint8)
        reading = Way([lambda _x, room=room: found.read(room)], room.nbytes)  # type: ignore[misc]
        for batch in batches:
            for way in (*ways.values(), reading):
                way.seconds.clear()
            measure({**ways, "read": reading}, torch.randn(batch, cols))
            bandwidth = room.nbytes / median(reading.seconds)
            dense = median(ways["torch float32"].seconds)
            for name, way in ways.items():
                seconds = median(way.seconds)
                rows_file.add(
                    benchmark="layer", way=name, rows=rows, cols=cols, batch=batch, threads=threads, kernels=found.name,
                    ms=round(1e3 * seconds, 4), ms_min=round(1e3 * min(way.seconds), 4),
                    ms_max=round(1e3 * max(way.seconds), 4), over_torch_float32=round(dense / seconds, 2),
                    bytes_a_weight=round(way.nbytes / rows / cols, 4), bandwidth_gb_s=round(bandwidth / 1e9, 1),
                    of_floor=round(way.nbytes / bandwidth / seconds, 3),
                )  # fmt: skip


if __name__ == "__main__":
    main()
