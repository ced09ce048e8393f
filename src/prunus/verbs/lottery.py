"""lottery: tickets drawn level by level by magnitude, rewound, trained again, and held against controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint.disk import sync_all
from ..checkpoint.journal import Journal
from ..core.errors import RecipeError, UnsupportedModelError
from ..core.progress import Progress, Silent
from ..lab.judge import counts, judge
from ..lab.kept import WEIGHTS, load_weights, save_weights, save_weights_as
from ..lab.loop import Course, Kept, Sparsify, Sparsity, train
from ..lab.tickets import barrier, earliest, masked, shuffled_masks
from ..lottery_recipe import MASK, REINIT, LotteryRecipe
from ..models.modules import module_sites
from ..report.lottery import lottery_card, lottery_record
from ..report.lottery_pictures import pictures
from ..samples.batches import InOrder, Shuffled
from ..samples.examples import Samples
from ..train.masks import Masks
from ..train_recipe import RunSettings
from ..zoo.build import build
from .prune import prune
from .sparsifier import Sparsifier
from .train import STATE, carried_out, steady
from .train_checks import digests_of, read_by

DENSE, TICKET, AGAIN = "dense", "ticket", "ticket-again"
_RUN = RunSettings("ticket")
_MASKS, _REWIND = "masks.safetensors", "rewind.safetensors"
_ANOTHER = 104_729
"""Added to a seed for what has to be drawn anew: initial weights, masks, the order of examples."""


@dataclass(frozen=True)
class LotteryResult:
    """What the levels came to; ``record`` is what ``prunus.json`` holds."""

    record: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """The folder with the record, the pictures, masks and weights."""
        return Path(self.record["output"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One a level and kind: sparsity, mean score with its spread over seeds, when training would have stopped early."""
        return list(self.record["rows"])

    def masks(self, level: int, seed: int = 0) -> Masks:
        """A ticket's masks by parameter, True = kept."""
        return Masks.load(_folder(self.output, level, TICKET, seed).parent / _MASKS)


def lottery(output: str | Path, recipe: LotteryRecipe | None = None, *, resume: bool = False, overwrite: bool = False,
            progress: Progress | None = None, **settings: Any) -> LotteryResult:  # fmt: skip
    """Search for lottery tickets: train, prune the smallest weights, rewind the others, and so on, level by level.

    ``settings`` are a :class:`~prunus.lottery_recipe.LotteryRecipe`'s and its training's fields, or give a whole
    ``recipe``. ``output`` gets each level's masks and weights, ``prunus.json``, a table and pictures. ``resume`` goes on
    with a stopped run behind its last whole epoch; ``overwrite`` replaces ``output`` once the new one is complete.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    wanted = LotteryRecipe.either(recipe, settings)
    told = progress or Silent()
    try:
        with steady(wanted.training.threads):
            return _lottery(Path(output).expanduser(), wanted, (resume, overwrite), told)
    finally:
        told.close()


def _lottery(output: Path, recipe: LotteryRecipe, flags: tuple[bool, bool], progress: Progress) -> LotteryResult:
    def make(samples: Samples, device: torch.device, journal: Journal) -> tuple[dict[str, Any], dict[str, str]]:
        record = lottery_record(recipe, samples, _Draw(recipe, samples, device, journal, progress).all())
        return record, {name: draw(record) for name, draw in pictures(record).items()}

    return LotteryResult(carried_out(output, recipe.training, flags, partial(_plan, recipe), make, lottery_card))


@dataclass(frozen=True)
class _Draw:
    """A search being carried out."""

    recipe: LotteryRecipe
    samples: Samples
    device: torch.device
    journal: Journal
    progress: Progress

    def all(self) -> list[dict[str, Any]]:
        """The results of every level, kind and seed; those that are in the journal are not made again."""
        done = {entry["done"]: entry["result"] for entry in self.journal.entries() if "done" in entry}
        results = []
        for seed in self.recipe.training.seeds:
            for level in range(self.recipe.levels + 1):
                for kind in self._kinds(level):
                    key = f"{kind}, level {level}, seed {seed}"
                    if key not in done:
                        done[key] = self._one(level, kind, seed, key)
                        sync_all(_folder(self.journal.output, level, kind, seed))
                        self.journal.mark({"done": key, "result": done[key]})
                    results.append(done[key])
        return results

    def _kinds(self, level: int) -> list[str]:
        if not level:
            return [DENSE, *([AGAIN] if self.recipe.stability else [])]
        controlled = level % self.recipe.control_every == 0 or level == self.recipe.levels
        return [TICKET, *([AGAIN] if self.recipe.stability else []), *(self.recipe.controls if controlled else ())]

    def _one(self, level: int, kind: str, seed: int, key: str) -> dict[str, Any]:
        """Train one network, judge and write it."""
        began = perf_counter()
        masks = self._masks(level, seed)
        model, masks = self._begun(kind, level, seed, masks)
        training = self.recipe.training.training(_RUN, seed + _ANOTHER if kind == AGAIN else seed)
        steps = self._steps(training.batch) * training.epochs
        first = self.recipe.first(steps)
        course = Course(looks=self.recipe.looks, first=0 if kind in (DENSE, REINIT) else first)
        if kind == DENSE:
            place = _seed_folder(self.journal.output, seed)
            course = replace(course, at=first, behind=lambda network: save_weights_as(network, place / _REWIND))
        kept = Kept(self.journal.folder / STATE, key, self.journal.mark)
        sparsify = _holding(masks) if level else None
        history = train(model, self.samples, training, sparsify, kept, self.progress, course)
        found = judge(model, InOrder(self.samples, self.samples.test, training.batch, self.device))
        more = {"barrier": self._barrier(model, level, seed)} if kind == AGAIN else {}
        folder = _folder(self.journal.output, level, kind, seed)
        tallied = counts(model)
        save_weights(model.cpu(), folder, self.samples.tokenizer)
        return {
            "level": level, "kind": kind, "seed": seed, "score": found.score, "loss": found.loss, **tallied,
            "wanted_sparsity": self.recipe.sparsity(level), "early": earliest(history), **more, "history": history,
            "steps": steps - course.first, "seconds": round(perf_counter() - began, 3),
        }  # fmt: skip

    def _begun(self, kind: str, level: int, seed: int, masks: Mapping[str, Tensor]) -> tuple[
        nn.Module, Mapping[str, Tensor]
    ]:  # fmt: skip
        """The network that training begins with, and its masks."""
        fresh = kind == REINIT
        model = self._built(seed + _ANOTHER if fresh else seed)
        if kind == MASK:
            masks = shuffled_masks(masks, seed + level)
        if not fresh and kind != DENSE:
            load_weights(model, _seed_folder(self.journal.output, seed) / _REWIND)
        return masked(model, masks).to(self.device), masks

    def _masks(self, level: int, seed: int) -> Mapping[str, Tensor]:
        """The masks of a level's ticket: those of the smallest weights that the network trained before it has left."""
        if not level:
            return {}
        folder = _folder(self.journal.output, level, TICKET, seed).parent
        if (folder / _MASKS).is_file():
            return Masks.load(folder / _MASKS)
        before = self._built(seed)
        load_weights(before, _folder(self.journal.output, level - 1, TICKET if level > 1 else DENSE, seed) / WEIGHTS)
        cut = prune(
            before, method="magnitude", allocation=self.recipe.allocation, sparsity=self.recipe.sparsity(level),
            exclude=self.recipe.exclude,
        )  # fmt: skip
        if not cut.masks:
            raise UnsupportedModelError(f"{type(before).__name__}: none of its weights were pruned, so there is no ticket.")
        folder.mkdir(parents=True, exist_ok=True)
        cut.masks.save(folder / _MASKS)
        return cut.masks

    def _barrier(self, again: nn.Module, level: int, seed: int) -> float:
        """The barrier between a ticket and the same trained on examples in another order."""
        ticket = self._built(seed)
        load_weights(ticket, _folder(self.journal.output, level, TICKET if level else DENSE, seed) / WEIGHTS)
        batch = self.recipe.training.batch
        tests = InOrder(self.samples, self.samples.test, batch, self.device)
        return barrier(ticket.to(self.device), again, self._built(seed).to(self.device), tests)

    def _built(self, seed: int) -> nn.Module:
        return build(self.recipe.training.model, seed, self.samples.given())

    def _steps(self, batch: int) -> int:
        """Steps of an epoch."""
        return len(Shuffled(self.samples, batch, self.device))


def _holding(masks: Mapping[str, Tensor]) -> Sparsify:
    """Holds what masks drop at zero."""

    def begin(model: nn.Module, optimizer: Optimizer, _steps: int, state: Mapping[str, Any] | None) -> Sparsity:
        return Sparsifier(model, optimizer, "fixed", masks=masks, state=state)

    return begin


def _seed_folder(output: Path, seed: int) -> Path:
    return output / f"seed-{seed}"


def _folder(output: Path, level: int, kind: str, seed: int) -> Path:
    return _seed_folder(output, seed) / f"level-{level:02d}" / kind


def _plan(recipe: LotteryRecipe, samples: Samples, device: torch.device) -> dict[str, Any]:
    """What decides the output's bytes."""
    _check_fits(recipe, samples, device)
    passing = ("latency", "threads", "device", "calibration")
    settings = {name: value for name, value in recipe.to_json().items() if name not in passing}
    return {
        "kind": "lottery", "settings": settings, "samples": samples.digest(),
        "files": digests_of(read_by(recipe.training)), "device": device.type, "threads": torch.get_num_threads(),
    }  # fmt: skip


def _check_fits(recipe: LotteryRecipe, samples: Samples, device: torch.device) -> None:
    """Raise RecipeError if there is nothing to rewind to in so many steps, or no such layer to exclude."""
    training = recipe.training
    steps = training.epochs * len(Shuffled(samples, training.batch, device))
    if recipe.first(steps) >= steps:
        raise RecipeError([f"rewind {recipe.rewind:g} is not before the last of {steps} steps"])
    named = [site.name for site in module_sites(build(training.model, training.seeds[0], samples.given())).sites]
    strange = [glob for glob in recipe.exclude if not any(fnmatch(name, glob) for name in named)]
    if strange:
        raise RecipeError([f"exclude '{glob}' names none of {', '.join(named[:8])}, …" for glob in strange])
