"""compare: models side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.disk import write_atomically
from ..checkpoint.replace import check_free_file
from ..compare_recipe import CompareRecipe
from ..core.errors import CheckpointError, RecipeError
from ..core.progress import Progress, Silent
from ..core.thresholds import ActivationUse
from ..measure.energy import Energy
from ..measure.environment import environment
from ..measure.intervals import Interval
from ..measure.quality import Divergence, Perplexity
from ..measure.tasks import Score, check_asked
from ..measure.timing import Timing
from ..measure.weights import Histogram, histogram, reach_of
from ..models.tokens import load_tokenizer
from ..report.record import headed, read_record
from ..stream.evaluate import divergences
from ..stream.operations import TokenOperations, token_operations
from ..stream.sources import CheckpointSource
from .compare_running import Ran, Whole
from .prepare import evaluation_windows, open_model, vocabulary
from .threshold import cut_model


@dataclass(frozen=True)
class Figure:
    """What was measured, and where the truth is with a confidence of 95% (None: of too little)."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class TaskFigure:
    """A ``metric`` of a task over so many ``questions``; ``change`` is the interval of what the model has more than the
    first on the same questions."""

    metric: str
    value: float
    questions: int
    interval: Interval | None
    change: Interval | None


@dataclass(frozen=True)
class Costs:
    """What a million new tokens take, prompts included: ``grams`` of CO₂e and ``price``, where what makes them was said."""

    joules_per_token: float | None
    source: str | None
    measured: bool
    grams: float | None
    price: float | None


@dataclass(frozen=True)
class Side:
    """One model's figures; what could not be measured is None.

    ``perplexity_times`` is the interval of its perplexity as a multiple of the first model's on the same windows; ``kl``
    the mean KL(first ‖ this) a token in nats; ``agreement`` the share of tokens of which both think the same likeliest.
    ``memory_bytes`` is what its weights take as they are stored once unpacked, ``resident_bytes`` a process with it loaded,
    ``peak_bytes`` one that runs it; ``largest_batch`` is how many prompts at once fit in the recipe's limit of memory, by
    two such peaks. ``operations`` are those of a token in windows of the recipe's length. ``weights`` is how those of its
    matrices are distributed, in the first model's bins.
    """

    model: str
    perplexity: Figure
    perplexity_times: Interval | None
    kl: Figure
    agreement: Figure
    disk_bytes: int
    memory_bytes: int
    parameters: int
    nonzeros: int
    operations: TokenOperations
    packed: bool
    weights: Histogram
    prefill_tokens_per_second: Timing | None
    decode_tokens_per_second: Timing | None
    latency_seconds: Timing | None
    resident_bytes: int | None
    peak_bytes: int | None
    largest_batch: int | None
    costs: Costs | None
    continuations: list[str] | None
    tasks: dict[str, TaskFigure] | None


@dataclass(frozen=True)
class Comparison:
    """Models on the same ``tokens`` of a text, the first of them what the others are held against.

    ``not_measured`` says what is missing, and why. ``activations`` says what thresholds came to, where the last computed
    with some.
    """

    models: list[Side]
    tokens: int
    recipe: CompareRecipe
    not_measured: list[str]
    activations: ActivationUse | None
    seconds: float

    @property
    def dense(self) -> Side:
        """The first model."""
        return self.models[0]

    @property
    def pruned(self) -> Side:
        """The last model."""
        return self.models[-1]

    @property
    def record(self) -> dict[str, Any]:
        """All of it as plain values, as prunus.json has it."""
        return {
            **headed("compare"), "seconds": self.seconds, "tokens": self.tokens,
            "models": [asdict(model) for model in self.models], "not_measured": self.not_measured,
            "activations": None if self.activations is None else asdict(self.activations),
            "recipe": self.recipe.to_json(), "environment": environment(),
        }  # fmt: skip


def compare(model: str | Path, *others: str | Path, recipe: CompareRecipe | None = None, output: str | Path | None = None,
            overwrite: bool = False, progress: Progress | None = None, **settings: Any) -> Comparison:  # fmt: skip
    """Quality, sizes, memory, speed and what models say, ``others`` held against the first.

    Quality is streamed block by block; what needs a whole model is left out where memory does not allow it, with the
    reason. ``settings`` are a :class:`~prunus.compare_recipe.CompareRecipe`'s fields, or give a whole ``recipe``.
    ``output`` is a JSON file for the record, which ``overwrite`` may replace.

    Raises:
        RecipeError: if settings have faults, or a prompt has no tokens.
        CheckpointError, UnsupportedModelError: if a model cannot be read or followed, or their vocabularies differ.
        CalibrationError: if the text cannot be used.
        OutputError: if the record cannot be written.
        MissingLibraryError: if tasks are asked for and lm-eval is not installed.
    """
    start = perf_counter()
    wanted = CompareRecipe.either(recipe, settings)
    reporter = progress or Silent()
    place = None if output is None else Path(output).expanduser()
    if place is not None:
        check_free_file(place, overwrite, "figures of a comparison", partial(read_record, kind="compare"))
    try:
        check_asked(wanted.asked())
        sources = [open_model(name, wanted.run) for name in (model, *others)]
        _check_vocabularies([str(model), *map(str, others)], sources)
        cut = None if wanted.activations is None else cut_model(sources[-1], wanted.activations)
        tokenizer = load_tokenizer(sources[0].checkpoint.folder, wanted.run.trust_remote_code)
        starts = _starts(tokenizer, wanted.prompts)
        ids = evaluation_windows(sources[0], tokenizer, wanted.text, wanted.run.seqlen, wanted.windows)
        tasks = ["Judging the model" if k == 0 else f"Judging model {k + 1}" for k in range(len(sources))]
        whole = Whole(sources, wanted, ids.flatten()[: wanted.prompt_tokens])
        whole.sit(reporter)
        first, rest = divergences(sources[0], sources[1:], ids, wanted.run.batch_tokens, reporter, tasks)
        whole.sit(reporter)
        ran, missing = whole.run(tokenizer, starts, reporter)
    finally:
        reporter.close()
    qualities = [(first, None), *rest]
    limit = reach_of(tensor for _, tensor in _tensors(sources[0]) if tensor.dim() > 1)
    sides = [
        Side(
            str(name),
            **_judged(quality, first),
            **_stored(source, limit, wanted.run.seqlen),
            **_measured(run, ran[0].tasks, wanted),
        )
        for name, source, quality, run in zip((model, *others), sources, qualities, ran, strict=True)
    ]
    used, seconds = None if cut is None else cut.use(), round(perf_counter() - start, 3)
    found = Comparison(sides, first.tokens, wanted, missing, used, seconds)
    if place is not None:
        write_atomically(place, json.dumps(found.record, indent=1) + "\n")
    return found


def _check_vocabularies(names: Sequence[str], sources: Sequence[CheckpointSource]) -> None:
    first = vocabulary(sources[0])
    for name, source in zip(names, sources, strict=True):
        if vocabulary(source) != first:
            raise CheckpointError(
                f"{names[0]} has {first} vocabulary entries, {name} has {vocabulary(source)}: their predictions "
                "cannot be compared."
            )


def _judged(quality: tuple[Perplexity, Divergence | None], first: Perplexity) -> dict[str, Any]:
    """The figures of a model's quality, beside the first's."""
    own, far = quality
    return {
        "perplexity": Figure(own.value, own.interval()),
        "perplexity_times": own.times(first) if far else None,
        "kl": Figure(far.kl, far.kl_interval()) if far else Figure(0.0, None),
        "agreement": Figure(far.agreement, far.agreement_interval()) if far else Figure(1.0, None),
    }


def _stored(source: CheckpointSource, limit: float, seqlen: int) -> dict[str, Any]:
    """The figures of a checkpoint's tensors, each of which is read once."""
    checkpoint = source.checkpoint
    entries = [checkpoint.entry(tensor) for tensor in source.parameters_on_disk()]
    nonzeros: dict[str, int] = {}

    def matrices() -> Iterator[Tensor]:
        for name, tensor in _tensors(source):
            nonzeros[name] = int(torch.count_nonzero(tensor))
            if tensor.dim() > 1:
                yield tensor

    weights = histogram(matrices(), limit)
    return {
        "disk_bytes": checkpoint.nbytes,
        "memory_bytes": sum(entry.nbytes for entry in entries),
        "parameters": sum(entry.nbytes // entry.dtype.itemsize for entry in entries),
        "nonzeros": sum(nonzeros.values()),
        "operations": token_operations(source, nonzeros, seqlen),
        "packed": checkpoint.packed,
        "weights": weights,
    }


def _tensors(source: CheckpointSource) -> Iterator[tuple[str, Tensor]]:
    """A model's parameters as they are on disk, by name."""
    for name in sorted(source.parameters_on_disk()):
        yield name, source.checkpoint.read(name)


def _measured(ran: Ran, before: Mapping[str, Score] | None, recipe: CompareRecipe) -> dict[str, Any]:
    """The figures of running a model; ``before`` are the first model's answers."""
    return {
        "prefill_tokens_per_second": ran.prefill,
        "decode_tokens_per_second": ran.decode,
        "latency_seconds": ran.latency,
        "resident_bytes": None if ran.memory is None else ran.memory.resident_bytes,
        "peak_bytes": None if ran.memory is None else ran.memory.peak_bytes,
        "largest_batch": ran.largest_batch,
        "costs": _costs(ran.energy, ran.latency, recipe) if ran.latency else None,
        "continuations": ran.continuations,
        "tasks": None if ran.tasks is None else _task_figures(ran.tasks, before),
    }


def _costs(energy: Energy | None, latency: Timing, recipe: CompareRecipe) -> Costs | None:
    if energy is None and recipe.price is None:
        return None
    seconds = 1e6 * latency.median / recipe.new_tokens
    return Costs(
        None if energy is None else energy.joules_per_token,
        None if energy is None else energy.source,
        energy is not None and energy.measured,
        energy.grams(recipe.grid_intensity) if energy and recipe.grid_intensity else None,
        recipe.price * seconds / 3600 if recipe.price else None,
    )


def _task_figures(scores: Mapping[str, Score], before: Mapping[str, Score] | None) -> dict[str, TaskFigure]:
    return {
        name: TaskFigure(
            score.metric, score.value, score.questions, score.interval,
            score.change(before[name]) if before is not None and before[name] is not score else None,
        )
        for name, score in scores.items()
    }  # fmt: skip


def _starts(tokenizer: Any, prompts: Sequence[str]) -> list[Tensor]:
    """The tokens ``[1 tokens]`` of every prompt."""
    found = [tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in prompts]
    faults = [f"the prompt {prompt!r} has no tokens" for prompt, ids in zip(prompts, found, strict=True) if not ids.numel()]
    if faults:
        raise RecipeError(faults)
    return found
