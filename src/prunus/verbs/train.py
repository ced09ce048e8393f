"""train: networks trained, pruned and trained on as a recipe says, and compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint.disk import sync_all
from ..checkpoint.journal import Journal
from ..checkpoint.replace import check_free, check_place
from ..core.progress import Progress, Silent
from ..lab.judge import Teacher, counts, judge, loss_of
from ..lab.kept import WEIGHTS, load_weights, save_weights
from ..lab.loop import Course, Kept, Sparsify, Sparsity, train
from ..lab.operations import Operations
from ..measure.speed import forward_seconds
from ..models.modules import module_sites
from ..recipe import Recipe
from ..report.record import FILE as RECORD
from ..report.right import bits_of
from ..report.trained import train_card, train_record
from ..report.trained_pictures import accuracy_svg, training_svg
from ..samples.batches import InOrder
from ..samples.examples import Samples
from ..samples.source import source_of
from ..train.masks import Masks
from ..train.shared import share_weights
from ..train_recipe import SCRATCH, RunSettings, TrainRecipe
from ..zoo.build import build
from .pack import pack
from .prepare import choose_device, finished_record
from .prune import prune
from .sparsifier import Sparsifier
from .train_checks import check_apart, check_built, check_sparse, digests_of, read_by

STATE = "state.safetensors"
_WARMUP = 50
"""Passes over one example before any is timed."""


@dataclass(frozen=True)
class TrainResult:
    """What a recipe's runs came to; ``record`` is what ``prunus.json`` holds."""

    record: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """The folder with the record, the pictures and each run's weights."""
        return Path(self.record["output"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One a run: its name, mean score with its spread over seeds, change, latency, sizes."""
        return list(self.record["rows"])

    def weights(self, run: str, seed: int = 0) -> Path:
        """The file with a run's weights, a plain state dict."""
        return weights_of(self.output, run, seed)


def train_runs(output: str | Path, recipe: TrainRecipe | None = None, *, resume: bool = False, overwrite: bool = False,
               progress: Progress | None = None, **settings: Any) -> TrainResult:  # fmt: skip
    """Make all runs of a recipe with each of its seeds: trained from scratch, pruned, trained on with their zeros held.

    ``settings`` are a :class:`~prunus.train_recipe.TrainRecipe`'s fields, or give a whole ``recipe``. ``output`` gets each
    run's weights, ``prunus.json``, a table and two pictures. ``resume`` goes on with a stopped run behind its last whole
    epoch; ``overwrite`` replaces ``output`` once the new one is complete.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    wanted = TrainRecipe.either(recipe, settings)
    told = progress or Silent()
    try:
        with steady(wanted.threads):
            return _train_runs(Path(output).expanduser(), wanted, (resume, overwrite), told)
    finally:
        told.close()


def weights_of(output: Path, run: str, seed: int) -> Path:
    """Where a run's weights stand in an output."""
    return output / run / f"seed-{seed}" / WEIGHTS


def _train_runs(output: Path, recipe: TrainRecipe, flags: tuple[bool, bool], progress: Progress) -> TrainResult:
    check_sparse(recipe)

    def make(samples: Samples, device: torch.device, journal: Journal) -> tuple[dict[str, Any], dict[str, str]]:
        bench = _Bench(recipe, samples, device, journal, progress)
        results = bench.all()
        record = train_record(recipe, samples, results, bench.latencies())
        return record, {"accuracy.svg": accuracy_svg(record), "training.svg": training_svg(record)}

    return TrainResult(carried_out(output, recipe, flags, partial(_plan, recipe), make, train_card))


Made = Callable[[Samples, torch.device, Journal], tuple[dict[str, Any], dict[str, str]]]
"""Carries a recipe out, with a journal; gives its record, and pictures by file."""


def carried_out(output: Path, training: TrainRecipe, flags: tuple[bool, bool],
                plan_of: Callable[[Samples, torch.device], dict[str, Any]], make: Made,
                card_of: Callable[[Mapping[str, Any]], str]) -> dict[str, Any]:  # fmt: skip
    """The record of networks trained into ``output``, or that of the finished run that is resumed; ``flags`` are ``resume``
    and ``overwrite``."""
    start = perf_counter()
    resume, overwrite = flags
    device = choose_device(training.device)
    check_free(output, resume or overwrite)
    check_place(output)
    data = getattr(source_of(training.data), "path", None)
    check_apart(output, [*read_by(training), *([Path(data).expanduser()] if data else [])])
    journal = Journal(output)
    journal.check_free(resume)
    samples = source_of(training.data).open()
    check_built(training, samples)
    plan = plan_of(samples, device)
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    if output.exists() and resume and not overwrite:
        return {**finished_record(output, digest), "output": str(output)}
    journal.begin(plan, digest, resume)
    with journal.kept_on_error():
        journal.output.mkdir(exist_ok=True)
        record, pictures = make(samples, device, journal)
        record |= {"plan": plan, "plan_digest": digest, "output": str(output), "seconds": round(perf_counter() - start, 3)}
        files = {RECORD: json.dumps(record, indent=1) + "\n", "README.md": card_of(record), **pictures}
        for name, text in files.items():
            (journal.output / name).write_text(text, encoding="utf-8")
        journal.finish(overwrite)
    return record


@dataclass(frozen=True)
class _Bench:
    """A recipe being carried out."""

    recipe: TrainRecipe
    samples: Samples
    device: torch.device
    journal: Journal
    progress: Progress

    def all(self) -> list[dict[str, Any]]:
        """The results of every run with every seed, in order; those that are in the journal are not made again."""
        done = {entry["done"]: entry["result"] for entry in self.journal.entries() if "done" in entry}
        results = []
        for seed in self.recipe.seeds:
            for run in self.recipe.runs:
                key = _key(run, seed)
                if key not in done:
                    done[key] = self.one(run, seed)
                    sync_all(weights_of(self.journal.output, run.name, seed).parent)
                    self.journal.mark({"done": key, "result": done[key]})
                results.append(done[key])
        return results

    def one(self, run: RunSettings, seed: int) -> dict[str, Any]:
        """Build, prune, train, judge and write one network."""
        start = perf_counter()
        recipe, samples, device = self.recipe, self.samples, self.device
        model = self._built(run, seed)
        kept = Kept(self.journal.folder / STATE, _key(run, seed), self.journal.mark)
        training = recipe.training(run, seed)
        if run.prune and kept.load() is None:
            self._prune(model, run, seed)
            if training.epochs:
                kept.save({"epoch": 0, "model": model.state_dict()})
        shared = share_weights(model, run.shared) if run.shared is not None else None
        course = Course(teacher=self._teacher(run, seed))
        history = train(model, samples, training, self._sparsify(run, seed), kept, self.progress, course)
        if shared is not None:
            shared.finish()
        found = judge(model, InOrder(samples, samples.test, recipe.batch, device))
        flops = Operations.of(model, samples.example().to(device)).sparse()
        path = weights_of(self.journal.output, run.name, seed)
        save_weights(model.cpu(), path.parent, samples.tokenizer)
        return {
            "run": run.name, "seed": seed, "score": found.score, "loss": found.loss, "right": bits_of(found.right),
            **counts(model),
            "flops": flops, "training_flops": sum(epoch["flops"] for epoch in history),
            "file_bytes": path.stat().st_size, "packed": self._packed(run, path.parent), "history": history,
            "seconds": round(perf_counter() - start, 3),
        }  # fmt: skip

    def _teacher(self, run: RunSettings, seed: int) -> Teacher | None:
        """The network that a run learns from."""
        if run.teacher is None:
            return None
        model = build(self.recipe.model, seed, self.samples.given())
        written = not run.teacher.endswith(".safetensors")
        load_weights(
            model, weights_of(self.journal.output, run.teacher, seed) if written else Path(run.teacher).expanduser()
        )
        return Teacher(model.eval().to(self.device), **run.distill)

    def _sparsify(self, run: RunSettings, seed: int) -> Sparsify | None:
        """What holds or moves a run's zeros while it is trained; None: nothing."""
        schedule = self.recipe.schedule_of(run)
        if schedule is None:
            return None
        masked = schedule.partition(":")[0] == "fixed" and not run.sparse

        def begin(model: nn.Module, optimizer: Optimizer, steps: int, state: Mapping[str, Any] | None) -> Sparsity | None:
            masks = self._zeros(model, seed) if masked and state is None else None
            if masks == {} and run.schedule is None:
                return None
            settings = {"seed": seed, "steps": steps, "masks": masks or None, **run.sparse}
            return Sparsifier(model, optimizer, schedule, state=state, **settings)

        return begin

    def _zeros(self, model: nn.Module, seed: int) -> dict[str, Tensor]:
        """Masks of the layers that were pruned: those with zeros, and those of nothing but zeros that began otherwise."""
        fresh = build(self.recipe.model, seed, self.samples.given())
        weights = {site.parameter: model.get_parameter(site.parameter) for site in module_sites(model).sites}
        emptied = [name for name, one in weights.items() if not one.any() and fresh.get_parameter(name).any()]
        return {**Masks.of(model), **{name: torch.zeros_like(weights[name], dtype=torch.bool) for name in emptied}}

    def _packed(self, run: RunSettings, folder: Path) -> dict[str, Any] | None:
        """What packing makes of the weights in a folder: bytes of the file, and of shared weights stage by stage."""
        if not run.pack:
            return None
        found = pack(folder, folder / "packed", overwrite=True, **run.pack)
        stages = {layer.name: asdict(layer.stages) for layer in found.layers if layer.stages is not None}
        stages |= {"together": asdict(found.stages)} if found.stages is not None else {}
        return {"bytes": found.packed_bytes, "ratio": found.plain_bytes / found.packed_bytes, "stages": stages}

    def _prune(self, model: nn.Module, run: RunSettings, seed: int) -> None:
        """Prune a network at once, in place."""
        shown = InOrder.some(self.samples, self.recipe.calibration, self.recipe.batch, self.device, seed)
        chance = {"criterion": f"random:seed={seed}"} if run.prune.get("criterion") == "random" else {}
        settings = Recipe.of({"samples": self.recipe.calibration, **run.pruning, **chance})
        prune(
            model, recipe=settings, data=shown, call=lambda net, batch: net(batch[0]),
            loss=lambda net, batch: loss_of(net, *batch), recalibrate=run.recalibrates, progress=self.progress,
        )  # fmt: skip

    def latencies(self) -> dict[str, tuple[float, float]]:
        """Seconds of a pass over one example of every run's first network, and of the first run's taken in turn with it."""
        if not self.recipe.latency:
            return {}
        seed, runs = self.recipe.seeds[0], self.recipe.runs
        one = self.samples.example().to(self.device)
        first = self._written(runs[0], seed)
        self.progress.start("Timing", len(runs))
        found = {}
        for run in runs:
            models = [first, self._written(run, seed)] if run is not runs[0] else [first]
            seconds = forward_seconds(models, one, _WARMUP, self.recipe.latency)
            found[run.name] = (seconds[-1], seconds[0])
            self.progress.step(run.name)
        return found

    def _built(self, run: RunSettings, seed: int) -> nn.Module:
        """The network that a run starts from."""
        model = build(self.recipe.model, seed, self.samples.given())
        if run.start.endswith(".safetensors"):
            load_weights(model, Path(run.start).expanduser())
        elif run.start != SCRATCH:
            load_weights(model, weights_of(self.journal.output, run.start, seed))
        return model.to(self.device)

    def _written(self, run: RunSettings, seed: int) -> nn.Module:
        """A run's network as it was written, in eval mode."""
        model = build(self.recipe.model, seed, self.samples.given())
        load_weights(model, weights_of(self.journal.output, run.name, seed))
        return model.eval().to(self.device)


def _plan(recipe: TrainRecipe, samples: Samples, device: torch.device) -> dict[str, Any]:
    """What decides the output's bytes."""
    passing = ("latency", "threads", "device")
    return {
        "kind": "train", "settings": {name: value for name, value in recipe.to_json().items() if name not in passing},
        "samples": samples.digest(), "files": digests_of(read_by(recipe)), "device": device.type,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _key(run: RunSettings, seed: int) -> str:
    return f"{run.name}, seed {seed}"


@contextmanager
def steady(threads: int) -> Iterator[None]:
    """Within this context so many threads compute (0: as many as there are), and a GPU the same way every time."""
    before, cudnn = torch.get_num_threads(), torch.backends.cudnn
    chosen = cudnn.deterministic, cudnn.benchmark
    try:
        if threads:
            torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = chosen
        torch.set_num_threads(before)
