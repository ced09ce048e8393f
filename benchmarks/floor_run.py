"""The floor of one-shot pruning on this machine, measured piece by piece in a fresh process; prints one JSON line.

Two forward passes of the blocks, the Gram products of their distinct inputs, one factorisation each, and the model's bytes
read and written once. Every piece uses the fastest product that prunus knows of; nothing is overlapped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from prunus.checkpoint.source import Checkpoint
from prunus.core.matmul import FastLinears, add_gram, linear, mirror
from prunus.core.stats import Stats
from prunus.measure.speed import matmul_flops
from prunus.models.calls import Recorder
from prunus.models.skeleton import find_blocks
from prunus.solve.factor import inverse_factor
from prunus.stream.heap import reused_memory


@torch.no_grad()
def main() -> None:
    """Measure the pieces for the model and windows in the first argument."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    model = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32).eval()
    blocks = find_blocks(model)[1]
    windows = torch.from_numpy(np.load(options["windows"]))
    batches = list(windows.split(options["batch"]))
    with reused_memory(), FastLinears():
        forward, inputs = forward_passes(model, blocks, batches)
        grams, factors = gram_products(inputs, [batch.numel() for batch in batches])
    read, write = file_bytes(Path(options["model"]), Path(options["output"]))
    weights = sum(parameter.numel() for parameter in blocks.parameters())
    columns = [cols for block in inputs for cols in block]
    tokens = windows.numel()
    print(json.dumps({
        "two_forwards": forward, "grams": grams, "factorisations": factors, "read": read, "write": write,
        "wanda": forward + read + write, "sparsegpt": forward + grams + factors + read + write,
        "flops": {"two_forwards": 4 * weights * tokens, "grams": sum(tokens * cols**2 for cols in columns),
                  "factorisations": sum(cols**3 for cols in columns)},
        "matmul_flops_per_second": matmul_flops(torch.device("cpu"), torch.float32),
    }))  # fmt: skip


def timed(work: Callable[[], Any]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def forward_passes(model: Any, blocks: Any, batches: list[torch.Tensor]) -> tuple[float, list[list[int]]]:
    """Seconds of two passes through all blocks, and the columns of the distinct inputs of each block's linears."""
    recorder, seconds = Recorder(list(blocks)), 0.0
    inputs = [distinct_inputs(block) for block in blocks]
    for number, batch in enumerate(batches):
        hidden, calls = recorder.record(lambda batch=batch: model.base_model(input_ids=batch, use_cache=False))
        for block, call in zip(blocks, calls, strict=True):
            seconds += timed(lambda block=block, call=call: call.run(block, hidden))
            if not number:
                for hook in inputs[list(blocks).index(block)].hooks:
                    hook.remove()
            start = time.perf_counter()
            hidden = call.run(block, hidden)
            seconds += time.perf_counter() - start
    return seconds, [list(seen.columns.values()) for seen in inputs]


class distinct_inputs:
    """Notes the inputs of a block's linears, one for each tensor, during its first pass."""

    def __init__(self, block: Any) -> None:
        self.columns: dict[int, int] = {}
        self.held: list[torch.Tensor] = []
        linears = [module for module in block.modules() if isinstance(module, torch.nn.Linear)]
        self.hooks = [module.register_forward_pre_hook(self._note) for module in linears]

    def _note(self, module: Any, args: tuple[torch.Tensor]) -> None:
        self.held.append(args[0])
        self.columns[id(args[0])] = args[0].shape[-1]


def gram_products(inputs: list[list[int]], batch_tokens: list[int]) -> tuple[float, float]:
    """Seconds of every distinct input's Gram, batch by batch, and of one factorisation each."""
    data = {cols: torch.randn(max(batch_tokens), cols) for block in inputs for cols in block}
    grams = factors = 0.0
    for cols in (cols for block in inputs for cols in block):
        total = torch.zeros(cols, cols)
        start = time.perf_counter()
        for tokens in batch_tokens:
            add_gram(total, data[cols][:tokens])
        mirror(total)
        grams += time.perf_counter() - start
        stats = Stats.of(tokens=sum(batch_tokens), gram=total)
        factors += timed(lambda stats=stats: inverse_factor(stats, 0.01, "floor"))
    return grams, factors


def file_bytes(source: Path, target: Path) -> tuple[float, float]:
    """Seconds to read every tensor of a checkpoint, and to write as many bytes to the disk."""
    checkpoint = Checkpoint.open(source)
    start = time.perf_counter()
    tensors = [checkpoint.read(name) for name in checkpoint.names]
    read = time.perf_counter() - start
    start = time.perf_counter()
    with target.open("wb") as file:
        for tensor in tensors:
            file.write(memoryview(tensor.flatten().view(torch.uint8).numpy()))
        file.flush()
        os.fsync(file.fileno())
    write = time.perf_counter() - start
    target.unlink()
    return read, write


if __name__ == "__main__":
    linear(torch.randn(256, 256), torch.randn(256, 256))  # load the library before any clock starts
    main()
