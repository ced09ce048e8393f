"""What a run will take on this machine, before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..core.method import Method
from ..core.plan import Estimate, Step
from ..core.stats import Needs
from ..measure.memory import resident_bytes
from ..measure.speed import matmul_flops
from ..observe.moments import nbytes
from ..observe.waves import waves
from .solve_block import observed_needs
from .sources import CheckpointSource, Source
from .state import hidden_bytes
from .trunk import Limits

_FORWARD_EFFICIENCY = 0.8
"""Of the matrix-product rate that a transformer's forward pass reaches."""
_SOLVER_EFFICIENCY = 0.15
"""Of that rate that a left-to-right solver reaches."""
_DISK_RATE = 0.5e9
"""Bytes a second, read, written and compared."""


def estimate(source: Source, steps: Sequence[Step], method: Method, windows: Tensor | None,
             limits: Limits, eval_tokens: int) -> Estimate:  # fmt: skip
    """Peak memory, time and disk of a run, from operation counts and a short matrix-product probe."""
    rate = matmul_flops(source.device, source.model.dtype)
    tokens = windows.numel() if windows is not None else 0
    blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in source.blocks]
    parameters = sum(parameter.numel() for parameter in source.model.parameters())
    forward = 2 * (2 * tokens * sum(blocks) + 2 * eval_tokens * parameters)
    grams, solving = _solver_flops(steps, method, tokens)
    disk = source.checkpoint.nbytes if isinstance(source, CheckpointSource) else 0
    seconds = forward / rate / _FORWARD_EFFICIENCY + grams / rate + solving / rate / _SOLVER_EFFICIENCY
    seconds += 3 * disk / _DISK_RATE
    return Estimate(_memory(source, steps, method, windows, limits, max(blocks)), seconds, disk)


def _solver_flops(steps: Sequence[Step], method: Method, tokens: int) -> tuple[float, float]:
    if Needs.GRAM not in method.needs:
        return 0.0, 0.0
    inputs = {(s.site.block, s.site.name.rpartition(".")[0], s.site.cols): s.site.batch for s in steps}
    grams = sum(2 * tokens * cols**2 for (_, _, cols) in inputs)
    factors = sum(batch * 4 / 3 * cols**3 for (_, _, cols), batch in inputs.items())
    updates = sum(2 * step.site.numel * step.site.cols for step in steps)
    return grams, factors + updates


def _memory(source: Source, steps: Sequence[Step], method: Method, windows: Tensor | None,
            limits: Limits, block: int) -> int:  # fmt: skip
    batch_tokens, budget = limits
    width = source.model.dtype.itemsize
    outside = sum(p.numel() for p in source.model.parameters()) - sum(
        p.numel() for block in source.blocks for p in block.parameters()
    )
    hidden = source.model.config.get_text_config().hidden_size
    state = min(budget, 2 * hidden_bytes(source.model, windows)) if windows is not None else 0
    moments = 0
    if windows is not None:
        needs = observed_needs(method)
        for index in {step.site.block for step in steps}:
            for wave in waves([step.site for step in steps if step.site.block == index], needs, budget):
                used = sum(nbytes(needs, len(wave.experts) if wave.experts else s.batch, s.cols) for s in wave.sites)
                moments = max(moments, used)
    widest = max((step.site.rows for step in steps), default=0)
    activations = 8 * batch_tokens * max(hidden, widest) * width if windows is not None else 0
    return int(resident_bytes() + outside * width + 2 * block * width + 3 * moments + state + activations)
