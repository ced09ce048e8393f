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
from ..core.errors import RecipeError
from ..core.progress import Progress, Silent
from ..core.stats import Needs
from ..models.depth import shallower
from ..models.layout import planned_checkpoint
from ..models.locate import locate
from ..models.names import untie
from ..models.numbers import LAYERS, least_experts, shapes, with_numbers
from ..models.skeleton import build_skeleton
from ..models.tokens import load_tokenizer
from ..observe.windows import digest_of
from ..report.shrunk import shrink_record, shrunk_card
from ..shrink_recipe import ShrinkRecipe
from ..stream.evaluate import open_source, perplexity
from ..stream.gradients import Gradients
from ..stream.sources import CheckpointSource
from ..structure.axes import Anatomy, Finder
from ..structure.chooser import Task
from ..structure.cut import Kept
from ..structure.depth_survey import survey_depth
from ..structure.dry_run import fault_of_running, misfit
from ..structure.follow import follow
from ..structure.loop import ShrinkLoop, parameters_of, tasks_by_block
from ..structure.output import CutOutput, new_prefixes
from ..structure.plan import ShrinkPlan
from ..structure.prove import prove_cut
from ..structure.sizes import choose_sizes, config_of, depth_of, spread
from ..structure.survey import stream_scores
from .prepare import (
    calibration_windows,
    coverage_of,
    evaluation_windows,
    finished_record,
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
        return ShrinkResult(finished_record(output, digest))
    done = journal.begin(prepared.plan.to_json(), digest, resume)
    with journal.kept_on_error():
        record = _carry_out(prepared, journal, recipe, done, progress)
        record |= {"output": str(output), "seconds": round(perf_counter() - start, 3)}
        (journal.output / "prunus.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (journal.output / "README.md").write_text(shrunk_card(record), encoding="utf-8")
        journal.finish(overwrite)
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
    return {**shrink_record(plan, recipe, results, proof, evaluation, sizes), "units": loop.units, "experts": loop.seen}


def _prepare(model: str | Path, recipe: ShrinkRecipe, progress: Progress, stored: Mapping[str, Any] | None) -> _Prepared:
    run = recipe.run
    source = open_model(model, run)
    anatomy = anatomy_of(source, run.trust_remote_code)
    wanted = spread(recipe.wanted(), anatomy)
    layers = wanted.pop("layers", None)
    build = (source.model.dtype, run.trust_remote_code)
    sizes = choose_sizes(anatomy, wanted, lambda changes: shapes(source.config, changes, *build) is not None,
                         {"experts": least_experts(source.config)})  # fmt: skip
    fewer = depth_of(layers, len(source.blocks)) if layers is not None else len(source.blocks)
    if not sizes and fewer == len(source.blocks):
        raise RecipeError(["nothing would be cut: every size that was asked for is what the model has"])
    importance, channels = recipe.build_importance(), recipe.build_width_importance()
    needs = importance.needs | (channels.needs if "width" in sizes else Needs.NOTHING)
    chosen_inside = any(name != "width" for name in sizes)
    looks = bool(needs) or fewer < len(source.blocks) or run.calibration is not None
    looks = looks or (chosen_inside and run.build_method().looks_at_inputs) or bool({"width", "experts"} & set(sizes))
    windows, judged = _texts(source, recipe, looks)
    gradients = None
    if windows is not None:
        sites = [site for found in source.found for site in found.sites]
        gradients = Gradients(source, sites, windows, needs, limits_of(run), progress)
        gradients.collect()
    blocks = _blocks(source, recipe, fewer, windows, progress, stored)
    config = with_numbers(shallower(source.config, blocks), config_of(anatomy, sizes))
    smaller = _smaller(source, anatomy, sizes, blocks, config, run.trust_remote_code)
    units = {}
    if "width" in sizes:
        units["width"] = _width_units(source, anatomy, recipe, sizes["width"], windows, gradients, progress, stored)
    plan = ShrinkPlan(
        model=str(model),
        fingerprint=source.checkpoint.fingerprint,
        importance=importance,
        experts=recipe.build_expert_importance(),
        method=run.build_method(),
        sizes={name: (anatomy.axes[name].size, size) for name, size in sizes.items()},
        blocks=blocks,
        count=len(source.blocks),
        config=config_of(anatomy, sizes),
        settings=_settings(recipe, source, windows),
        parameters=(parameters_of(source.model), parameters_of(smaller)),
        left=anatomy.left,
        units=units,
    )
    fixed = [Kept(anatomy.axes["width"].couplings[0], units["width"])] if "width" in sizes else []
    tasks = tasks_by_block(source, _tasks(anatomy, sizes))
    inside = {index: found for index, found in tasks.items() if index in blocks}
    return _Prepared(source, plan, inside, fixed, windows, judged, config, smaller, gradients)


def _texts(source: CheckpointSource, recipe: ShrinkRecipe, looks: bool) -> tuple[Tensor | None, Tensor | None]:
    """The windows to calibrate on and those to judge on, None where no text is looked at."""
    run = recipe.run
    tokenizer = None
    if (looks and not is_tokenised(run)) or run.eval_windows:
        tokenizer = load_tokenizer(source.checkpoint.folder, run.trust_remote_code)
    windows = calibration_windows(source, tokenizer, run) if looks else None
    judged = None
    if run.eval_windows:
        judged = evaluation_windows(source, tokenizer, run.eval_text, run.seqlen, run.eval_windows)
    return windows, judged


def _blocks(source: CheckpointSource, recipe: ShrinkRecipe, fewer: int, windows: Tensor | None, progress: Progress,
            stored: Mapping[str, Any] | None) -> tuple[int, ...]:  # fmt: skip
    """The blocks that stay; those of an unfinished run are known from its plan."""
    count = len(source.blocks)
    if stored is not None and len(stored.get("blocks", ())) == fewer:
        return tuple(stored["blocks"])
    if fewer == count or windows is None:
        return tuple(range(count))
    survey = survey_depth(source, windows, limits_of(recipe.run), progress)
    gone = recipe.build_depth().choose(survey, count - fewer)
    return tuple(index for index in range(count) if index not in gone)


def _smaller(source: CheckpointSource, anatomy: Anatomy, sizes: Mapping[str, int], blocks: tuple[int, ...], config: Any,
             trust_remote_code: bool) -> Any:  # fmt: skip
    """The smaller model, its parameters on ``meta``, once it is clear that it is what the cut leaves and that it runs.

    Raises:
        RecipeError: if its config describes another model, or one that does not run.
    """
    changes = {**config_of(anatomy, sizes), LAYERS: len(blocks)}
    listed = ", ".join(f"{key} = {value}" for key, value in changes.items())
    new = shapes(config, {}, source.model.dtype, trust_remote_code)
    if new is None:
        raise RecipeError([f"no model can be built with {listed}: cut less, or along fewer axes at once"])
    smaller = build_skeleton(config, source.model.dtype, trust_remote_code)
    for target in set(smaller.all_tied_weights_keys) - set(source.model.all_tied_weights_keys):  # type: ignore[arg-type]
        untie(smaller, target)
    prefixes = new_prefixes(source, blocks)
    kept = [Kept(one, torch.arange(anatomy.axes[name].units(one, size)))
            for name, size in sizes.items() for one in anatomy.axes[name].couplings]  # fmt: skip
    fault = misfit(source, smaller, kept, prefixes) or fault_of_running(source, smaller, prefixes, vocabulary(source))
    if fault:
        raise RecipeError(
            [f"a model with {listed} is not what would be left, or does not run ({fault}): choose other sizes"]
        )
    return smaller


def anatomy_of(source: CheckpointSource, trust_remote_code: bool = False) -> Anatomy:
    """Along what a model can be cut, and along what not, with the reasons."""
    followed = follow(source, vocabulary(source))
    return Finder(source.config, source.model.dtype, followed, trust_remote_code).anatomy()


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
        "batch_tokens": recipe.run.batch_tokens, "width_importance": recipe.width_importance, "depth": recipe.depth,
    }  # fmt: skip
    if windows is not None:
        settings["calibration"] = {
            "text": recipe.run.calibration or "factbook", "samples": len(windows), "seqlen": windows.shape[1],
            "tokens": windows.numel(), "digest": digest_of(windows),
        }  # fmt: skip
    return settings
