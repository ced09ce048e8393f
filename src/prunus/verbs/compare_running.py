"""What is measured of whole models in memory: speed, energy, memory, what they say and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compare_recipe import CompareRecipe
from ..core.errors import RecipeError
from ..core.progress import Progress, Silent
from ..core.seeded import seeded
from ..measure.energy import Energy, meter
from ..measure.memory import available_memory_bytes
from ..measure.tasks import Score, scores
from ..measure.timing import Timing
from ..models.reload import load_whole
from ..runtime.decode import Decoded, drawing, timed
from ..runtime.peak import Memory, Run, memory_of
from ..runtime.ready import RunsOn, load_ready
from ..stream.sources import CheckpointSource
from .turns import Turns

_SITTINGS = 3
"""In how many the rounds are timed."""
_MANY = 8
"""How many prompts at once the second measurement of memory has, by which the largest batch is found."""


@dataclass
class Ran:
    """What came of running one model."""

    runs: list[Decoded] = field(default_factory=list)
    prompt_tokens: int = 0
    energy: Energy | None = None
    memory: Memory | None = None
    largest_batch: int | None = None
    continuations: list[str] | None = None
    tasks: dict[str, Score] | None = None

    @property
    def prefill(self) -> Timing | None:
        """Tokens a second of the prompt."""
        return Timing.of([self.prompt_tokens / run.prefill_seconds for run in self.runs]) if self.runs else None

    @property
    def decode(self) -> Timing | None:
        """Tokens a second behind the prompt."""
        steps = [sum(run.step_seconds) / len(run.step_seconds) for run in self.runs]
        return Timing.of([1 / step for step in steps]) if steps else None

    @property
    def latency(self) -> Timing | None:
        """Seconds of the prompt and all new tokens."""
        return Timing.of([run.prefill_seconds + sum(run.step_seconds) for run in self.runs]) if self.runs else None


class Whole:
    """Models in memory together, as their users run them.

    They are timed in turns on ``prompt [tokens]``: :meth:`sit` between other work, twice, and the third time in
    :meth:`run`. Where they do not fit, or nothing but their quality is asked for, none is read.
    """

    def __init__(self, sources: Sequence[CheckpointSource], recipe: CompareRecipe, prompt: Tensor) -> None:
        self._sources, self._recipe, self._prompt = sources, recipe, prompt
        self._files: list[str | None] = [*[None] * (len(sources) - 1), recipe.activations]
        self._turns: Turns | None = None
        self._models: list[Any] = []
        asked = bool(recipe.tasks) or not recipe.quality_only
        self._obstacle = _obstacle(sources, recipe) if asked else None
        if self._obstacle or not asked:
            return
        remote, device = recipe.run.trust_remote_code, sources[0].device
        self._models = [_whole(source, file, remote) for source, file in zip(sources, self._files, strict=True)]
        if not recipe.quality_only:
            works = [partial(timed, model, prompt.to(device)[None], recipe.new_tokens) for model in self._models]
            self._turns = Turns(works, recipe.repeats, _SITTINGS, recipe.warmups, meter(device, recipe.watts))

    def sit(self, progress: Progress) -> None:
        """Time some of the rounds."""
        if self._turns is not None:
            self._turns.sit(progress)

    def run(self, tokenizer: Any, starts: Sequence[Tensor], progress: Progress) -> tuple[list[Ran], list[str]]:
        """What came of running every model, and what was not measured, with the reason; ``starts [1 tokens]`` are what
        they continue. Afterwards they are gone."""
        found = [Ran() for _ in self._sources]
        if not self._models:
            return found, [self._obstacle] if self._obstacle else []
        if self._turns is None:
            return found, _answered(self._models, found, tokenizer, self._recipe, progress)
        _continue(self._models, found, tokenizer, starts, self._recipe, progress)
        missing = _answered(self._models, found, tokenizer, self._recipe, progress)
        self._turns.sit(progress)
        missing += _note(self._turns, self._prompt.numel(), found)
        self._models, self._turns = [], None
        return found, missing + _remembered(self._sources, found, self._recipe, self._files, progress)


def _obstacle(sources: Sequence[CheckpointSource], recipe: CompareRecipe) -> str | None:
    """Why whole models cannot be run."""
    device = sources[0].device
    needed = 2 * sum(source.checkpoint.nbytes for source in sources)
    if needed > available_memory_bytes(device):
        few = f"{'the model needs' if len(sources) == 1 else 'the models together need'} {needed / 1e9:.1f} GB of memory"
        return f"speed, memory, continuations{' and tasks' if recipe.tasks else ''}: {few}"
    if recipe.activations is not None and device.type != "cpu":
        return "speed, memory and continuations: columns are skipped on the CPU alone"
    return None


def _note(turns: Turns, prompt_tokens: int, found: Sequence[Ran]) -> list[str]:
    """Have what every model is known of hold what its turns came to; what is missing."""
    for ran, runs in zip(found, turns.runs, strict=True):
        ran.runs, ran.prompt_tokens = runs, prompt_tokens
    if turns.energies is None:
        return ["energy: no meter of the accelerator can be read (pip install 'prunus[energy]'), and no watts are given"]
    for ran, energy in zip(found, turns.energies, strict=True):
        ran.energy = energy
    return []


def _answered(models: Sequence[Any], found: Sequence[Ran], tokenizer: Any, recipe: CompareRecipe, progress: Progress
              ) -> list[str]:  # fmt: skip
    """Have every model answer the tasks; what is missing. A task that cannot be asked loses nothing else."""
    if not recipe.tasks:
        return []
    progress.start("Answering tasks", len(models))
    answers = []
    for model in models:
        try:
            answers.append(scores(model, tokenizer, recipe.asked()))
        except RecipeError as error:
            return list(error.faults)
        progress.step()
    for ran, answered in zip(found, answers, strict=True):
        ran.tasks = answered
    return []


def _continue(models: Sequence[Any], found: Sequence[Ran], tokenizer: Any, starts: Sequence[Tensor],
              recipe: CompareRecipe, progress: Progress) -> None:  # fmt: skip
    """Have every model go on with the prompts."""
    progress.start("Generating", len(models))
    for model, ran in zip(models, found, strict=True):
        ran.continuations = _continued(model, tokenizer, starts, recipe)
        progress.step()


def _continued(model: Any, tokenizer: Any, starts: Sequence[Tensor], recipe: CompareRecipe) -> list[str]:
    """What a model says behind each prompt, with the same draws for every model."""
    said = []
    for ids in (start.to(model.device) for start in starts):
        with seeded(recipe.seed, model.device), torch.inference_mode():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=recipe.continuation_tokens or recipe.new_tokens,
                pad_token_id=model.generation_config.pad_token_id or 0, **drawing(recipe.temperature, recipe.top_p),
            )  # fmt: skip
        said.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    return said


def _remembered(sources: Sequence[CheckpointSource], found: Sequence[Ran], recipe: CompareRecipe,
                files: Sequence[str | None], progress: Progress) -> list[str]:  # fmt: skip
    """Measure every model's memory in a process of its own; what is missing."""
    if sources[0].device.type != "cpu":
        return ["memory: measured on the CPU alone"]
    progress.start("Measuring memory", len(sources))
    for source, file, ran in zip(sources, files, found, strict=True):
        run = Run(
            str(source.checkpoint.folder), None, "fastest", recipe.prompt_tokens, recipe.new_tokens, 1,
            torch.get_num_threads(), recipe.run.trust_remote_code, file,
        )  # fmt: skip
        ran.memory = memory_of(run)
        if recipe.memory_limit is not None and ran.memory is not None:
            ran.largest_batch = _largest(recipe.memory_limit * 2**30, ran.memory, memory_of(replace(run, batch=_MANY)))
        progress.step()
    return [] if all(ran.memory for ran in found) else ["memory: the system does not tell a process's peak"]


def _largest(limit: float, one: Memory, many: Memory | None) -> int | None:
    """How many prompts at once fit in ``limit`` bytes, by the peaks of one and of several: what a prompt takes is the same
    for each."""
    if many is None:
        return None
    each = max(1.0, (many.peak_bytes - one.peak_bytes) / (_MANY - 1))
    return max(0, int((limit - one.peak_bytes) / each) + 1) if limit >= one.peak_bytes else 0


def _whole(source: CheckpointSource, activations: str | None, remote: bool) -> Any:
    """The model in memory as its user would run it: a packed one stays packed, one with thresholds skips columns."""
    device = source.device
    if source.checkpoint.packed or activations is not None:
        how = RunsOn(device=device, activations=None if activations is None else Path(activations))
        return load_ready(source.checkpoint.folder, how, Silent(), remote)[0].model.to(device)
    return load_whole(source.checkpoint.folder, source.model.dtype, remote)[0].to(device)
