"""The floor of one-shot pruning on this machine, measured piece by piece in a fresh process; prints one JSON line.

Two forward passes of the blocks, the Gram products of their distinct inputs, one factorisation each, and the model's bytes
read and written once. Every piece uses the fastest product that prunus knows of; nothing is overlapped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from prunus.checkpoint.safetensors_file import raw_bytes
from prunus.checkpoint.source import Checkpoint
from prunus.core.matmul import FastLinears, add_gram, linear, mirror
from prunus.core.stats import Stats
from prunus.measure.speed import matmul_flops
from prunus.models.calls import BlockCall
from prunus.models.recorder import Recorder
from prunus.models.skeleton import find_stacks
from prunus.solve.factor import inverse_factor
from prunus.stream.heap import reused_memory


@torch.no_grad()
def main() -> None:
    """Measure the pieces for the model and windows in the first argument."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    model = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32).eval()
    blocks = find_stacks(model)[0].blocks
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


def forward_passes(model: Any, blocks: Any, batches: list[torch.Tensor]) -> tuple[float, list[list[int]]]:
    """Seconds of two passes through all blocks, and the columns of the distinct inputs of each block's linears."""
    recorder, seconds = Recorder(list(blocks)), 0.0
    columns: list[list[int]] = []
    for batch in batches:
        hidden, calls = recorder.record(partial(model.base_model, input_ids=batch, use_cache=False))
        if not columns:
            columns = [distinct_inputs(block, call, hidden) for block, call in zip(blocks, calls, strict=True)]
        for block, call in zip(blocks, calls, strict=True):
            start = time.perf_counter()
            call.run(block, hidden)
            hidden = call.run(block, hidden).hidden
            seconds += time.perf_counter() - start
    return seconds, columns


def distinct_inputs(block: Any, call: BlockCall, hidden: torch.Tensor) -> list[int]:
    """The columns of each tensor that linears of a block are handed."""
    seen: list[torch.Tensor] = []

    def note(module: Any, args: tuple[torch.Tensor]) -> None:
        if not any(args[0] is tensor for tensor in seen):
            seen.append(args[0])

    hooks = [m.register_forward_pre_hook(note) for m in block.modules() if isinstance(m, torch.nn.Linear)]
    call.run(block, hidden)
    for hook in hooks:
        hook.remove()
    return [tensor.shape[-1] for tensor in seen]


def gram_products(inputs: list[list[int]], batch_tokens: list[int]) -> tuple[float, float]:
    """Seconds of every distinct input's Gram, batch by batch, and of one factorisation each."""
    data = {cols: torch.randn(max(batch_tokens), cols) for block in inputs for cols in block}
    grams = factors = 0.0
    for cols in (cols for block in inputs for cols in block):
        total = torch.zeros(cols, cols)
        start = time.perf_counter()
        for tokens in batch_tokens:
            add_gram(total, data[cols][:tokens].T.contiguous())
        mirror(total)
        grams += time.perf_counter() - start
        stats = Stats.of(tokens=sum(batch_tokens), gram=total)
        start = time.perf_counter()
        inverse_factor(stats, 0.01, "floor")
        factors += time.perf_counter() - start
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
            file.write(raw_bytes(tensor))
        file.flush()
        os.fsync(file.fileno())
    write = time.perf_counter() - start
    target.unlink()
    return read, write


if __name__ == "__main__":
    linear(torch.randn(256, 256), torch.randn(256, 256))  # load the library before any clock starts
    main()
