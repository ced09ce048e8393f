"""What a run will take on this machine, before it starts: operations counted, rates measured once and kept here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..core.method import Method
from ..core.plan import Estimate, Step
from ..core.site import Site
from ..core.stats import Needs
from ..measure.memory import available_memory_bytes, resident_bytes
from ..measure.speed import matmul_flops
from ..models.reload import reload_bytes
from ..observe.moments import nbytes
from ..observe.waves import Wave, waves
from .heap import KEPT
from .passages import written_through
from .solve_block import observed_needs
from .sources import CheckpointSource, Source
from .state import hidden_bytes
from .trunk import Limits

_FORWARD_EFFICIENCY = 0.8
"""Of the matrix-product rate that a transformer's forward pass reaches."""
_SOLVER_EFFICIENCY = 0.3
"""Of that rate that factorisations and column loops reach."""
_EIGEN = 4
"""Operations of an eigendecomposition and a product of its parts, in units of cols³ and at that efficiency."""
_SELECTION_RATE = 50e6
"""Weights a second whose masks are chosen, and whose errors are measured."""
_DISK_RATE = 0.5e9
"""Bytes a second, read, written and compared."""
_TUNED_COPIES = 6
"""Of a block in fp32 while a stage tunes it: as it was, masters, gradients, Adam's two moments, and masks."""
_MORE_TURNS = 3
"""Turns of a usual block beyond the first (q, k, v; o; gate, up; down), each half a pass and one of the dense model."""
_GRADIENT_PASSES = 4
"""Forward passes that gradients take: one forward, one again, and back, which is as much as two."""
_ACTIVATIONS = 8
"""Tensors of the widest layer's size that a forward pass holds."""


class _Stage(NamedTuple):
    """Bytes that part of a run takes where it computes, and in the machine's own memory whatever that is."""

    computing: int
    kept: int = 0


class _Group(NamedTuple):
    """Sites that read one input, hence share moments and a factorisation."""

    batch: int
    rows: int
    cols: int
    alone: bool

    @property
    def weights(self) -> int:
        return self.batch * self.rows * self.cols


def estimate(source: Source, steps: Sequence[Step], method: Method, windows: Tensor | None,
             limits: Limits, judged: Tensor | None, written: int = 0) -> Estimate:  # fmt: skip
    """Peak memory, time and disk of a run.

    ``windows [samples seqlen]`` are the calibration tokens, of which the model writes ``written``, and ``judged`` those of
    the evaluation; None without.
    """
    observed = {
        index: waves([step.site for step in steps if step.site.block == index], observed_needs(method), limits.budget)
        for index in {step.site.block for step in steps}
    }
    disk = source.checkpoint.nbytes if isinstance(source, CheckpointSource) else 0
    seconds = _seconds(source, method, observed, windows, judged, written) + 3 * disk / _DISK_RATE
    memory, gpu = _memory(source, method, observed, windows, judged, limits, written)
    return Estimate(memory, seconds, disk, gpu)


def _seconds(source: Source, method: Method, observed: dict[int | None, list[Wave]], windows: Tensor | None,
             judged: Tensor | None, written: int) -> float:  # fmt: skip
    rate = matmul_flops(source.device, source.model.dtype)
    tokens = windows.numel() if windows is not None else 0
    blocks = [_size(block) for block in source.blocks]
    refining: float = sum(stage.passes for stage in method.stages) + method.follows_dense
    if method.true_sequential:
        refining += _MORE_TURNS * (0.5 + method.follows_dense)
    if method.criterion.needs != method.criterion.needs.of_inputs:
        refining += _GRADIENT_PASSES
    passes = sum((1 + refining + len(observed.get(index, ()))) * size for index, size in enumerate(blocks))
    judging = 2 * judged.numel() if judged is not None else 0
    forward = 2 * tokens * passes + 2 * (judging + written_through(written)) * _size(source.model)
    groups = [group for found in observed.values() for wave in found for group in _groups(wave)]
    seconds = forward / rate / _FORWARD_EFFICIENCY + sum(group.weights for group in groups) / _SELECTION_RATE
    if Needs.GRAM in method.needs:
        follows = Needs.DRIFT in method.needs
        moments = (3 if follows else 1) * sum(tokens * group.cols**2 for group in groups)  # a Gram's half is spared
        inverse = 4 / 3 * (1 + follows) + (_EIGEN if method.temper != 1 else 0)
        solving = inverse * sum(group.batch * group.cols**3 for group in groups)
        products = 2 * (method.solver.products + 4 * follows) * sum(group.weights * group.cols for group in groups)
        seconds += (moments + products) / rate / _FORWARD_EFFICIENCY + solving / rate / _SOLVER_EFFICIENCY
    return seconds


def _memory(source: Source, method: Method, observed: dict[int | None, list[Wave]], windows: Tensor | None,
            judged: Tensor | None, limits: Limits, written: int) -> tuple[int, int]:  # fmt: skip
    """Bytes resident in the machine's memory, and on a GPU if that computes, at the peak.

    It is the largest of what writing own text, embedding, pruning a block, judging, and loading the result as a check take.
    """
    width = source.model.dtype.itemsize
    block = max(map(_size, source.blocks)) * width
    outside = (_size(source.model) - sum(map(_size, source.blocks))) * width
    streams = 2 if method.follows_dense else 1
    state = min(limits.budget, 2 * streams * hidden_bytes(source.model, windows)) if windows is not None else 0
    groups = [(wave, group) for found in observed.values() for wave in found for group in _groups(wave)]
    wide = max((group.rows for _, group in groups), default=0)
    running = _ACTIVATIONS * limits.batch_tokens * wide * 4 if windows is not None else 0
    solving = max((_working_bytes(group, method) for _, group in groups), default=0)
    tuning = _TUNED_COPIES * 4 * max(map(_size, source.blocks)) if method.tunes else 0
    moments = max((_moment_bytes(wave, method) for wave, _ in groups), default=0) if windows is not None else 0
    pruning = block + moments + max(running, solving, tuning + running)
    stages = [_Stage(outside, state), _Stage(pruning, block + state + KEPT)]
    if written and source.nbytes <= limits.budget:
        stages.append(_Stage(source.nbytes, KEPT))
    if judged is not None:
        vocabulary = source.model.get_input_embeddings().weight.shape[0]
        stages.append(_Stage(outside + block + 12 * judged.shape[1] * vocabulary, block))
    if isinstance(source, CheckpointSource):
        reloaded = reload_bytes(source.checkpoint)
        stages.append(_Stage(0, reloaded if reloaded <= min(limits.budget, available_memory_bytes()) else 0))
    if source.device.type == "cuda":
        return resident_bytes() + max(stage.kept for stage in stages), max(stage.computing for stage in stages)
    return resident_bytes() + max(map(sum, stages)), 0


def _groups(wave: Wave) -> list[_Group]:
    """Sites of a wave by what they most likely share: the module they are in and their number of inputs."""
    found: dict[tuple[str, int], list[Site]] = {}
    for site in wave.sites:
        found.setdefault((site.name.rpartition(".")[0], site.cols), []).append(site)
    return [
        _Group(len(wave.experts or ()) or sites[0].batch, sum(site.rows for site in sites), cols, len(sites) == 1)
        for (_, cols), sites in found.items()
    ]


def _moment_bytes(wave: Wave, method: Method) -> int:
    """Of what stands behind a layer there is a moment only where the layer has its input for itself."""
    return sum(
        nbytes(observed_needs(method), group.batch, group.cols, group.rows if group.alone else 0) for group in _groups(wave)
    )


def _working_bytes(group: _Group, method: Method) -> int:
    """What solving a group takes: the factor of its Gram's inverse, half as much again on the way, and the weights."""
    factor = 6 * group.batch * group.cols**2 if Needs.GRAM in method.needs else 0
    factor += 4 * (group.batch + 3) * group.cols**2 if factor and method.temper != 1 else 0  # Hᵖ, and on the way to one
    aim = 1 if Needs.DRIFT in method.needs else 0
    return int(factor + 4 * (method.solver.copies + aim) * group.weights)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
