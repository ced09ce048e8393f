"""What is looked at before anything is trained: whether a recipe's networks can be built, run, pruned and packed at all."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from ..core.errors import OutputError, PrunusError, RecipeError
from ..lab.judge import logits_of
from ..lab.kept import load_weights
from ..samples.batches import InOrder
from ..samples.examples import Samples
from ..train_recipe import RunSettings, TrainRecipe
from ..zoo.build import build
from .pack import check_packing
from .sparse_settings import checked
from .sparsifier import Sparsifier


def check_sparse(recipe: TrainRecipe) -> None:
    """Raise RecipeError if the settings of what becomes of zeros in training have faults."""
    faults = []
    for run in recipe.runs:
        schedule = recipe.schedule_of(run)
        try:
            if schedule is not None:
                checked(schedule, 1, run.sparse)
        except RecipeError as error:
            faults += [f"run {run.name}: {fault}" for fault in error.faults]
    if faults:
        raise RecipeError(faults)


def check_built(recipe: TrainRecipe, samples: Samples) -> None:
    """Raise RecipeError or CheckpointError if the network cannot be built for these data, started from the files that the
    runs name, taught by those, or made sparse and packed as the runs ask for."""
    model = build(recipe.model, recipe.seeds[0], samples.given())
    if samples.is_text and (recipe.crop or recipe.flip):
        raise RecipeError(["crop and flip are for images, the data are text"])
    _check_outputs(model, recipe, samples)
    for path in (
        name for run in recipe.runs for name in (run.start, run.teacher) if name and name.endswith(".safetensors")
    ):
        load_weights(model, Path(path).expanduser())
    faults = [f"run {run.name}: {fault}" for run in recipe.runs for fault in _misfits(recipe, run, samples)]
    if faults:
        raise RecipeError(faults)


def _check_outputs(model: nn.Module, recipe: TrainRecipe, samples: Samples) -> None:
    """Raise RecipeError if the network does not say of two examples what is to be judged."""
    if next(model.parameters(), None) is None:
        raise RecipeError([f"model '{recipe.model}' has no parameters that could be trained"])
    few = InOrder(samples, samples.test, 2, torch.device("cpu"), torch.arange(min(2, len(samples.test))))
    shape = list(samples.example().shape[1:])
    try:
        logits = logits_of(model.eval(), next(iter(few))[0])
    except Exception as error:  # whatever a network of the user's raises
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RecipeError([f"model '{recipe.model}' does not run on the data's inputs {shape} ({told})"]) from error
    wanted = 3 if samples.is_text else 2
    if not isinstance(logits, torch.Tensor) or logits.dim() != wanted:
        found = f"{list(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        axes = "[windows tokens vocabulary]" if samples.is_text else "[images classes]"
        raise RecipeError([f"model '{recipe.model}' gives {found} for two examples; wanted are logits {axes}"])
    if logits.shape[-1] < samples.classes:
        raise RecipeError([f"model '{recipe.model}' has {logits.shape[-1]} outputs, the data {samples.classes} classes"])


def _misfits(recipe: TrainRecipe, run: RunSettings, samples: Samples) -> list[str]:
    """What a run asks for that the network, or what comes with prunus, cannot do."""
    faults: list[str] = []
    schedule = run.schedule if run.sparse else None
    if schedule is not None:
        model = build(recipe.model, recipe.seeds[0], samples.given())
        steps = recipe.epochs_of(run) * max(1, len(samples.train) // recipe.batch)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run itself will tell
            faults += _faults_of(lambda: Sparsifier(model, optimizer, schedule, **{"steps": max(1, steps), **run.sparse}))
    if run.pack:
        faults += _faults_of(lambda: check_packing(**run.pack))
    return faults


def _faults_of(attempt: Callable[[], object]) -> Sequence[str]:
    """What is wrong with an attempt."""
    try:
        attempt()
    except RecipeError as error:
        return error.faults
    except PrunusError as error:
        return [str(error)]
    return []


def read_by(recipe: TrainRecipe) -> Iterator[Path]:
    """Files that a recipe reads, but the data."""
    for run in recipe.runs:
        for name in (run.start, run.teacher):
            if name is not None and name.endswith(".safetensors"):
                yield Path(name).expanduser()
    head, _, _ = recipe.model.partition(":")
    if head.endswith(".py"):
        yield Path(head).expanduser()


def digests_of(paths: Iterable[Path]) -> Mapping[str, str]:
    """SHA-256 of files by their names."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def check_apart(output: Path, read: Iterable[Path]) -> None:
    """Raise OutputError if a file that is read lies in the folder that is to be replaced."""
    for path in read:
        if path.resolve().is_relative_to(output.resolve()):
            raise OutputError(
                f"{output} has {path} in it, which this run reads and which would go with it. Give another -o."
            )
