"""shrink: a model in, one with fewer heads, neurons, channels or blocks out, that loads like any other, with the proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.journal import Journal
from ..checkpoint.planned import write_index
from ..checkpoint.replace import check_free, check_replaceable
from ..checkpoint.writer import MirrorWriter
from ..core.errors import OutputError, ProofError, RecipeError
from ..core.progress import Progress, Silent
from ..models.layout import planned_checkpoint
from ..models.locate import locate
from ..models.names import untie
from ..models.numbers import shapes, with_numbers
from ..models.skeleton import build_skeleton
from ..models.tokens import load_tokenizer
from ..observe.windows import digest_of
from ..report.record import read_record
from ..report.shrunk import shrink_record, shrunk_card
from ..shrink_recipe import ShrinkRecipe
from ..stream.evaluate import open_source, perplexity
from ..stream.gradients import Gradients
from ..stream.sources import CheckpointSource
from ..structure.axes import Anatomy, Finder
from ..structure.chooser import Task
from ..structure.cut import Kept
from ..structure.dry_run import fault_of_running
from ..structure.follow import follow
from ..structure.loop import ShrinkLoop, parameters_of, tasks_by_block
from ..structure.output import CutOutput, new_prefixes
from ..structure.plan import ShrinkPlan
from ..structure.prove import prove_cut
from ..structure.sizes import choose_sizes, config_of
from ..structure.survey import stream_scores
from .prepare import (
    calibration_windows,
    coverage_of,
    evaluation_windows,
    is_tokenised,
    limits_of,
    open_model,
    vocabulary,
)

SHARD_BYTES = 5 * 10**9
"""Most bytes of a file of the output."""


@dataclass(frozen=True)
class ShrinkResult:
    """What a run did and measured; ``record`` is what ``prunus.json`` holds."""

    record: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """The smaller checkpoint's folder."""
        return Path(self.record["output"])

    @property
    def parameters(self) -> tuple[int, int]:
        """Parameters before and after."""
        before, after = self.record["plan"]["parameters"]
        return before, after

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of every axis that was cut, its size before and after."""
        return {name: (pair[0], pair[1]) for name, pair in self.record["plan"]["sizes"].items()}

    @property
    def perplexity(self) -> dict[str, Any] | None:
        """``dense`` and ``pruned`` perplexity with tokens and seqlen, where they were measured."""
        return self.record["evaluation"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Prepared:
    """An opened model, its plan, and what the loop needs to carry it out."""

    source: CheckpointSource
    plan: ShrinkPlan
    tasks: dict[int, list[Task]]
    fixed: list[Kept]
    windows: Tensor | None
    judged: Tensor | None
    config: Any
    model: Any
    gradients: Gradients | None


def shrink(model: str | Path, output: str | Path, recipe: ShrinkRecipe | None = None, *, resume: bool = False,
           overwrite: bool = False, progress: Progress | None = None, **settings: Any) -> ShrinkResult:  # fmt: skip
    """Cut heads, key/value groups, neurons, the hidden width, experts or blocks out of a model.

    ``model`` is a checkpoint folder, a ``.gguf`` file, ``pkg:PACKAGE`` or a hub id, written smaller to ``output``.
    ``settings`` are a :class:`~prunus.shrink_recipe.ShrinkRecipe`'s fields (``neurons=0.75``, ``layers=-4``, …), or give a
    whole ``recipe``. ``resume`` goes on with a killed run; ``overwrite`` replaces ``output`` once the new one is complete.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    wanted = ShrinkRecipe.either(recipe, settings)
    reporter = progress or Silent()
    try:
        return _shrink(model, Path(output).expanduser(), wanted, (resume, overwrite), reporter)
    finally:
        reporter.close()


def _shrink(model: str | Path, output: Path, recipe: ShrinkRecipe, flags: tuple[bool, bool],
            progress: Progress) -> ShrinkResult:  # fmt: skip
    start = perf_counter()
    resume, overwrite = flags
    check_free(output, resume or overwrite)
    check_replaceable(output, locate(model), model)
    journal = Journal(output)
    journal.check_free(resume)
    stored = journal.stored_plan() if resume else None
    prepared = _prepare(model, recipe, progress, stored)
    digest = prepared.plan.digest()
    if output.exists() and resume and not overwrite:
        return _finished(output, digest)
    done = journal.begin(prepared.plan.to_json(), digest, resume)
    try:
        record = _carry_out(prepared, journal, recipe, done, progress)
        record |= {"output": str(output), "seconds": round(perf_counter() - start, 3)}
        (journal.output / "prunus.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (journal.output / "README.md").write_text(shrunk_card(record), encoding="utf-8")
        journal.finish(overwrite)
    except OSError as error:
        journal.abandon()
        where = error.filename or journal.folder
        raise OutputError(
            f"{where}: {error.strerror or error}. Free some space or mend the disk, then --resume."
        ) from error
    except ProofError as error:
        journal.abandon()
        kept = f" What was written is kept in {journal.folder}: remove that to start anew." if journal.unfinished else ""
        raise ProofError(f"{error}{kept}") from error
    except BaseException:
        journal.abandon()
        raise
    return ShrinkResult(record)


def _carry_out(prepared: _Prepared, journal: Journal, recipe: ShrinkRecipe, done: list[dict[str, Any]],
               progress: Progress) -> dict[str, Any]:  # fmt: skip
    """Cut, write, prove, judge; the record."""
    source, plan = prepared.source, prepared.plan
    prefixes = new_prefixes(source, plan.blocks)
    back = {new: old for old, new in prefixes.items()}

    def dtype_of(name: str) -> torch.dtype:
        home = next((new for new in back if name.startswith(f"{new}.")), None)
        return source.stored_dtype(name if home is None else back[home] + name.removeprefix(home))

    layout = planned_checkpoint(prepared.model, dtype_of, journal.output, SHARD_BYTES)
    writer = MirrorWriter(layout, journal.output)
    writer.prepare(begun=bool(done))
    loop = ShrinkLoop(
        source, plan, prepared.tasks, prepared.fixed, prepared.windows, CutOutput(prepared.model, writer, prefixes),
        journal, limits_of(recipe.run), coverage_of(recipe.run), prepared.gradients, progress,
    )  # fmt: skip
    results = loop.run(done)
    source.checkpoint.copy_extras(journal.output)
    prepared.config.save_pretrained(journal.output)
    write_index(layout)
    writer.sync()
    first = prepared.windows[:1] if prepared.windows is not None else None
    budget = limits_of(recipe.run).budget
    proof = prove_cut(journal.output, layout, first, loop.logits, budget, recipe.run.trust_remote_code)
    evaluation = None
    if prepared.judged is not None:
        after = open_source(journal.output, source.model.dtype, source.device, recipe.run.trust_remote_code)
        tokens = recipe.run.batch_tokens
        one = perplexity(source, prepared.judged, tokens, progress, "Judging the dense model")
        two = perplexity(after, prepared.judged, tokens, progress, "Judging the smaller model")
        evaluation = {
            "text": recipe.run.eval_text, "seqlen": recipe.run.seqlen, "tokens": one.tokens,
            "dense": one.value, "pruned": two.value,
        }  # fmt: skip
    sizes = (source.checkpoint.nbytes, layout.nbytes)
    return {**shrink_record(plan, recipe, results, proof, evaluation, sizes), "units": loop.units}


def _prepare(model: str | Path, recipe: ShrinkRecipe, progress: Progress, stored: Mapping[str, Any] | None) -> _Prepared:
    run = recipe.run
    source = open_model(model, run)
    method, importance = run.build_method(), recipe.build_importance()
    anatomy = anatomy_of(source, run.trust_remote_code)
    config, sizes = _sizes(source, anatomy, recipe)
    looks = method.looks_at_inputs or importance.needs or run.calibration is not None
    looks = looks or ("width" in sizes and recipe.build_width_importance().needs)
    tokenizer = None
    if (looks and not is_tokenised(run)) or run.eval_windows:
        tokenizer = load_tokenizer(source.checkpoint.folder, run.trust_remote_code)
    windows = calibration_windows(source, tokenizer, run) if looks else None
    judged = None
    if run.eval_windows:
        judged = evaluation_windows(source, tokenizer, run.eval_text, run.seqlen, run.eval_windows)
    blocks = tuple(range(len(source.blocks)))
    smaller = build_skeleton(config, source.model.dtype, run.trust_remote_code)
    fault = fault_of_running(source, smaller, new_prefixes(source, blocks), vocabulary(source))
    if fault:
        listed = ", ".join(f"{key} = {value}" for key, value in config_of(source.config, anatomy, sizes).items())
        raise RecipeError([f"a model with {listed} can be built, but does not run ({fault}): choose other sizes"])
    needs = importance.needs | recipe.build_width_importance().needs
    sites = [site for found in source.found for site in found.sites]
    gradients = Gradients(source, sites, windows, needs, limits_of(run), progress) if windows is not None else None
    if gradients is not None:
        gradients.collect()
    units = {}
    if "width" in sizes:
        units["width"] = _width_units(source, anatomy, recipe, sizes["width"], windows, gradients, progress, stored)
    fixed = [Kept(anatomy.axes["width"].couplings[0], units["width"])] if "width" in sizes else []
    for target in set(smaller.all_tied_weights_keys) - set(source.model.all_tied_weights_keys):  # type: ignore[arg-type]
        untie(smaller, target)
    plan = ShrinkPlan(
        model=str(model),
        fingerprint=source.checkpoint.fingerprint,
        importance=importance,
        method=method,
        sizes={name: (anatomy.axes[name].size, size) for name, size in sizes.items()},
        blocks=blocks,
        count=len(source.blocks),
        config=config_of(source.config, anatomy, sizes),
        settings=_settings(recipe, source, windows),
        parameters=(parameters_of(source.model), parameters_of(smaller)),
        left=anatomy.left,
        units=units,
    )
    return _Prepared(source, plan, tasks_by_block(source, _tasks(anatomy, sizes)), fixed, windows, judged, config, smaller,
                     gradients)  # fmt: skip


def anatomy_of(source: CheckpointSource, trust_remote_code: bool = False) -> Anatomy:
    """Along what a model can be cut, and along what not, with the reasons."""
    followed = follow(source, vocabulary(source))
    return Finder(source.config, source.model.dtype, followed, trust_remote_code).anatomy()


def _sizes(source: CheckpointSource, anatomy: Anatomy, recipe: ShrinkRecipe) -> tuple[Any, dict[str, int]]:
    """The new config, and the size of every axis that is cut."""
    build = (source.model.dtype, recipe.run.trust_remote_code)

    def buildable(changes: dict[str, int]) -> bool:
        return shapes(source.config, changes, *build) is not None

    sizes = choose_sizes(anatomy, recipe.wanted(), buildable, {})
    if not sizes:
        raise RecipeError(["nothing would be cut: every size that was asked for is what the model has"])
    changes = config_of(source.config, anatomy, sizes)
    config = with_numbers(source.config, changes)
    new = shapes(source.config, changes, *build)
    if new is None:
        listed = ", ".join(f"{key} = {value}" for key, value in changes.items())
        raise RecipeError([f"no model can be built with {listed}: cut less, or along fewer axes at once"])
    return config, sizes


def _tasks(anatomy: Anatomy, sizes: Mapping[str, int]) -> list[Task]:
    """What is to be chosen while the blocks are gone through: everything but the stream's channels."""
    tasks = []
    for name in ("kv_groups", *(other for other in sizes if other != "kv_groups")):
        if name in sizes:
            axis = anatomy.axes[name]
            couplings = axis.couplings[1:] if name == "width" else axis.couplings
            tasks += [Task(one, axis.units(one, sizes[name]), axis.groups, name) for one in couplings]
    return tasks


def _width_units(source: CheckpointSource, anatomy: Anatomy, recipe: ShrinkRecipe, size: int, windows: Tensor | None,
                 gradients: Gradients | None, progress: Progress, stored: Mapping[str, Any] | None) -> Tensor:  # fmt: skip
    """The channels of the residual stream that stay; those of an unfinished run are known from its plan."""
    if stored is not None and "width" in stored.get("units", {}):
        return torch.tensor(stored["units"]["width"])
    stream = anatomy.axes["width"].couplings[0]
    importance = recipe.build_width_importance()
    scores = stream_scores(source, stream, importance, windows, limits_of(recipe.run), gradients, progress)
    return scores.argsort(descending=True, stable=True)[:size].sort().values


def _settings(recipe: ShrinkRecipe, source: CheckpointSource, windows: Tensor | None) -> dict[str, Any]:
    """What decides the output's bytes beside the method and the sizes."""
    settings: dict[str, Any] = {
        "seed": recipe.run.seed, "device": source.device.type, "dtype": str(source.model.dtype).removeprefix("torch."),
        "batch_tokens": recipe.run.batch_tokens, "width_importance": recipe.width_importance,
    }  # fmt: skip
    if windows is not None:
        settings["calibration"] = {
            "text": recipe.run.calibration or "factbook", "samples": len(windows), "seqlen": windows.shape[1],
            "tokens": windows.numel(), "digest": digest_of(windows),
        }  # fmt: skip
    return settings


def _finished(output: Path, digest: str) -> ShrinkResult:
    """The result of a run that was complete already when it was resumed."""
    record = read_record(output)
    if record.get("plan_digest") != digest:
        raise OutputError(f"{output} exists already and is not this run's. Give another -o, or --overwrite.")
    Journal(output).discard()
    return ShrinkResult(record)
