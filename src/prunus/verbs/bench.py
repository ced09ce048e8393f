"""bench: how fast a packed model runs, beside the ways it could run dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import torch

from ..core.errors import RecipeError, ResourceError
from ..core.progress import Progress, Silent
from ..core.registry import suggest
from ..exports.engines import ENGINES, Running, Sizes, engine_faults, running
from ..exports.written import Request
from ..measure.environment import environment
from ..measure.memory import available_memory_bytes
from ..measure.timing import Timing
from ..models.locate import locate
from ..report.record import headed
from ..runtime.choose import Choice
from ..runtime.decode import Decoded, decode
from ..runtime.library import backend, kernels
from ..runtime.peak import Run, memory_of
from ..runtime.ready import RunsOn, load_ready
from ..runtime.skipping import FEW
from ..runtime.ways import WAYS, bytes_a_token
from .turns import Turns

_READ_BYTES = 512 << 20


@dataclass(frozen=True)
class Way:
    """One way to run the model: tokens a second of prompt and of decoding, and how near the memory's limit decoding is.

    ``weight_bytes`` are read for each step; ``of_floor`` is the time that reading them takes over a step's own time.
    ``peak_bytes`` is the memory of a process that does nothing else (None: not known, as of other engines).
    """

    name: str
    prefill_tokens_per_second: Timing
    decode_tokens_per_second: Timing
    weight_bytes: int
    of_floor: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Bench:
    """All ways, which took turns; ``layers`` counts linear layers by how the packed model runs them; engines that are not
    installed are ``left_out``."""

    model: str
    backend: str
    prompt_tokens: int
    new_tokens: int
    batch: int
    repeats: int
    threads: int
    bandwidth: float | None
    packed_layers: int
    linear_layers: int
    choices: list[Choice]
    ways: list[Way]
    left_out: list[str]
    environment: dict[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """All of it as plain values, as other runs' ``prunus.json`` has it."""
        return {**headed("bench"), **asdict(self)}


def bench(model: str | Path, *, ways: Sequence[str] | None = None, prompt_tokens: int = 128, new_tokens: int = 32,
          batch: int = 1, repeats: int = 10, activations: str | Path | None = None,
          keep: Literal["fastest", "packed"] = "fastest", threads: int | None = None,
          trust_remote_code: bool = False, progress: Progress | None = None) -> Bench:  # fmt: skip
    """Time a checkpoint as ``load`` gives it against dense ways to run the same weights, interleaved in one run.

    ``ways`` are names of :data:`prunus.runtime.ways.WAYS` and :data:`prunus.exports.engines.ENGINES` (default: all that are
    installed). The prompts are random tokens. With a file of thresholds, ``activations``, the model skips columns, and
    what of its weights was read a step is counted.

    Raises:
        RecipeError: if a setting has a fault.
        CheckpointError, UnsupportedModelError: if the model cannot be read or built.
        ResourceError: if the models do not fit in memory together.
    """
    known = {**WAYS, **ENGINES}
    faults = [f"there is no way '{name}'{suggest(name, known)}" for name in ways or () if name not in known]
    faults += engine_faults(ways or (), batch)
    if activations is not None and batch > FEW:
        faults.append(f"activations: columns are skipped for at most {FEW} prompts at once, and batch is {batch}")
    least = {
        "prompt_tokens": (prompt_tokens, 1),
        "new_tokens": (new_tokens, 2),
        "batch": (batch, 1),
        "repeats": (repeats, 1),
    }
    faults += [f"{name} is {value}, and must be {most} or more" for name, (value, most) in least.items() if value < most]
    if faults:
        raise RecipeError(faults)
    reporter = progress or Silent()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        request = Request(locate(model), trust_remote_code=trust_remote_code)
        dense = [name for name in WAYS if ways is None or name in ways]
        sizes = Sizes(torch.get_num_threads(), prompt_tokens + new_tokens, batch)
        with running(ways, request, sizes, reporter) as beside:
            how = RunsOn(keep, activations=None if activations is None else Path(activations))
            return _bench(str(model), request, dense, beside, (prompt_tokens, new_tokens, batch, repeats), how, reporter)
    finally:
        torch.set_num_threads(before)
        reporter.close()


def _bench(name: str, request: Request, wanted: list[str], beside: Running, sizes: tuple[int, int, int, int], how: RunsOn,
           progress: Progress) -> Bench:  # fmt: skip
    prompt_tokens, new_tokens, batch, repeats = sizes
    loaded, choices = load_ready(request.folder, how, progress, request.trust_remote_code)
    layers = [module for module in loaded.model.modules() if hasattr(module, "in_features")]
    dense = 4 * sum(module.in_features * module.out_features for module in layers)
    needed = int(1.1 * dense * sum({"float32": 1.0, "bfloat16": 1.5}.get(way, 1.25) for way in wanted))
    if needed > available_memory_bytes():
        raise ResourceError(
            f"{name}: {len(wanted)} dense ways take about {needed / 1e9:.1f} GB beside the packed model, "
            f"{available_memory_bytes() / 1e9:.1f} GB are free. Choose fewer with --way."
        )
    own = "skipping" if how.activations else "packed" if loaded.packed else "as loaded"
    models = {own: loaded.model}
    progress.start("Making dense ways", len(wanted))
    for way in wanted:
        if way != "dense int8" or kernels() is not None:
            models[way] = WAYS[way](loaded.model)
        progress.step(way)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, loaded.model.config.vocab_size, (batch, prompt_tokens), generator=generator)
    runs: dict[str, Callable[[], Decoded]] = {way: partial(decode, one, ids, new_tokens) for way, one in models.items()}
    runs |= {way: partial(engine.decode, ids, new_tokens) for way, engine in beside.engines.items()}
    reading: list[float] = []
    turns = Turns(list(runs.values()), repeats, len(models) + 1, beside=lambda: reading.extend(_bytes_a_second()))
    turns.sit(progress)
    peaks: dict[str, int | None] = dict.fromkeys(runs)
    for way in models:
        progress.start(f"Memory, {way}", 1)
        memory = memory_of(
            Run(str(request.folder), None if way == own else way, how.keep, prompt_tokens, new_tokens, batch,
                torch.get_num_threads(), request.trust_remote_code,
                None if how.activations is None else str(how.activations))
        )  # fmt: skip
        peaks[way] = None if memory is None else memory.peak_bytes
        progress.step()
        turns.sit(progress)
    bandwidth = median(reading) if reading else None
    nbytes = {way: bytes_a_token(one) for way, one in models.items()}  # after the runs: what was skipped is counted there
    nbytes |= {way: engine.weight_bytes for way, engine in beside.engines.items()}
    times = dict(zip(runs, turns.runs, strict=True))
    found = [_way(way, nbytes[way], times[way], ids.numel(), batch, bandwidth, peaks[way]) for way in runs]
    return Bench(name, backend(), prompt_tokens, new_tokens, batch, repeats, torch.get_num_threads(), bandwidth,
                 loaded.packed, len(loaded.layers), choices, found, beside.left_out, environment())  # fmt: skip


def _way(name: str, nbytes: int, runs: list[Decoded], tokens: int, batch: int, bandwidth: float | None,
         peak: int | None) -> Way:  # fmt: skip
    steps = [median(run.step_seconds) for run in runs]
    return Way(
        name,
        Timing.of([tokens / run.prefill_seconds for run in runs]),
        Timing.of([batch / step for step in steps]),
        nbytes,
        nbytes / bandwidth / median(steps) if bandwidth else float("nan"),
        peak,
    )


def _bytes_a_second() -> list[float]:
    """What the memory gives to all threads now, where there is a kernel that reads it."""
    found = kernels()
    if found is None:
        return []
    room = torch.zeros(_READ_BYTES, dtype=torch.uint8)
    start = perf_counter()
    found.read(room)
    return [room.nbytes / (perf_counter() - start)]
