"""shrink: a model in, one with fewer heads, neurons, channels or blocks out, that loads like any other, with the proof."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.journal import Journal
from ..checkpoint.planned import write_index
from ..checkpoint.source import Checkpoint
from ..checkpoint.writer import MirrorWriter
from ..core.errors import OutputError, RecipeError, UnsupportedModelError
from ..core.progress import Progress, Silent
from ..models.layout import planned_checkpoint
from ..models.names import NO_PLACE
from ..observe.windows import digest_of
from ..report.record import FILE as RECORD
from ..report.record import read_record
from ..report.shrunk import shrink_record, shrunk_card
from ..shrink_recipe import ShrinkRecipe
from ..stream.evaluate import open_source, perplexity
from ..stream.prove import TOLERANCE, few_ids
from ..stream.sources import CheckpointSource
from ..structure.cost import parameters_of
from ..structure.loop import ShrinkLoop
from ..structure.outline import Outline
from ..structure.output import CutOutput
from ..structure.plan import ShrinkPlan
from ..structure.prove import ROUNDED, prove_cut
from ..structure.target_search import Found
from ..structure.targets import Target
from .prepare import coverage_of, finished_record, journal_for, limits_of
from .survey import Survey, survey

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
    """A plan, the outline of what it leaves, and what was found out about the model."""

    survey: Survey
    outline: Outline
    plan: ShrinkPlan


def shrink(model: str | Path, output: str | Path, recipe: ShrinkRecipe | None = None, *, resume: bool = False,
           overwrite: bool = False, progress: Progress | None = None, **settings: Any) -> ShrinkResult:  # fmt: skip
    """Cut heads, key/value groups, neurons, the hidden width, experts or blocks out of a model.

    ``model`` is a checkpoint folder, a ``.gguf`` file, ``pkg:PACKAGE`` or a hub id, written smaller to ``output``.
    ``settings`` are a :class:`~prunus.shrink_recipe.ShrinkRecipe`'s fields (``neurons=0.75``, ``layers=-4``,
    ``params="0.8x"``, …), or give a whole ``recipe``. ``resume`` goes on with a killed run; ``overwrite`` replaces
    ``output`` once the new one is complete.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    wanted = ShrinkRecipe.either(recipe, settings)
    if len(wanted.targets()) > 1:
        raise RecipeError(["several targets give several models: use shrink_family"])
    (result,) = _shrink(model, [Path(output).expanduser()], wanted, (resume, overwrite), progress or Silent())
    return result


def shrink_family(model: str | Path, output: str | Path, recipe: ShrinkRecipe | None = None, *, resume: bool = False,
                  overwrite: bool = False, progress: Progress | None = None, **settings: Any) -> list[
    ShrinkResult
]:  # fmt: skip
    """The same for several targets: a model for each in a folder of its own in ``output``, such as ``params-0.8x``.

    The parent is surveyed once for all of them.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    wanted = ShrinkRecipe.either(recipe, settings)
    targets = wanted.targets()
    if not targets:
        raise RecipeError(["a family needs targets: params, params_nonembedding, flops, memory or latency"])
    outputs = [Path(output).expanduser() / target.name for target in targets]
    if len({(target.kind, target.share, target.amount) for target in targets}) < len(targets):
        raise RecipeError(["two of the targets are the same"])
    return _shrink(model, outputs, wanted, (resume, overwrite), progress or Silent())


def _shrink(model: str | Path, outputs: Sequence[Path], recipe: ShrinkRecipe, flags: tuple[bool, bool],
            progress: Progress) -> list[ShrinkResult]:  # fmt: skip
    """A model in each of the folders, one for every target, or one of the sizes that were asked for."""
    start = perf_counter()
    try:
        resume, overwrite = flags
        targets: list[Target | None] = [*recipe.targets()] or [None]
        labels = [f"{target.kind} {target.text}" if target is not None else None for target in targets]
        known = []
        for output, label in zip(outputs, labels, strict=True):
            journal_for(model, output, resume, overwrite)
            known.append(_known_plan(output, label, overwrite) if resume else None)
        found = survey(model, recipe, progress)
        wanted = list(zip(_shapes(found, known), labels, known, strict=True))
        before = perf_counter() - start
        with ExitStack() as stack:  # all plans are on disk before the first cut: what was searched is not lost
            members = [_begin(str(model), *pair, found, flags, stack) for pair in zip(outputs, wanted, strict=True)]
            return [
                member if isinstance(member, ShrinkResult) else _finish(member, overwrite, before, _bytes(members[k + 1 :]))
                for k, member in enumerate(members)
            ]
    finally:
        progress.close()


def _known_plan(output: Path, label: str | None, overwrite: bool) -> Mapping[str, Any] | None:
    """The plan of an unfinished run for the same target, or of a finished one that is to stay.

    Raises:
        OutputError: if the unfinished run is for another target.
    """
    plan: Mapping[str, Any] | None = Journal(output).stored_plan()
    if plan is not None and plan.get("settings", {}).get("target") != label:
        before = plan.get("settings", {}).get("target") or "given sizes"
        raise OutputError(
            f"{output}: the unfinished run there is for {before}, this one for {label or 'given sizes'}. Repeat its "
            f"settings to resume it, or remove {Journal(output).folder} to start anew."
        )
    if plan is None and not overwrite and (output / RECORD).is_file():
        finished = read_record(output).get("plan") or {}
        plan = finished if finished.get("settings", {}).get("target") == label else None
    return plan


def _shapes(found: Survey, known: Sequence[Mapping[str, Any] | None]) -> list[Found]:
    """The sizes and blocks of every model: those asked for, those of plans that are known, and for the rest a search's."""
    targets = found.recipe.targets()
    if not targets:
        sizes = dict(found.given)
        count = sizes.pop("layers", found.count)
        if known[0] is not None and len(known[0]["blocks"]) == count:
            found.know(known[0])
        return [Found(sizes, found.blocks(count), {})]
    open_targets = [target for target, plan in zip(targets, known, strict=True) if plan is None]
    searched = iter(found.find(open_targets) if open_targets else [])
    return [next(searched) if plan is None else _of_plan(plan) for plan in known]


def _of_plan(plan: Mapping[str, Any]) -> Found:
    sizes = {name: after for name, (_, after) in plan["sizes"].items()}
    return Found(sizes, tuple(plan["blocks"]), plan["target"] or {})


@dataclass(frozen=True)
class _Member:
    """A model that is to be cut: all but its writing is done."""

    output: Path
    prepared: _Prepared
    journal: Journal
    done: list[dict[str, Any]]
    layout: Checkpoint
    """The checkpoint that will be written."""


def _bytes(members: Sequence[_Member | ShrinkResult]) -> int:
    """Room on the disk that models take which are still to be written."""
    return sum(member.layout.nbytes for member in members if isinstance(member, _Member))


def _begin(model: str, output: Path, wanted: tuple[Found, str | None, Mapping[str, Any] | None], found: Survey,
           flags: tuple[bool, bool], stack: ExitStack) -> _Member | ShrinkResult:  # fmt: skip
    """Write a model's plan down, or give what is there already."""
    resume, overwrite = flags
    shape, label, known = wanted
    if known is not None:
        found.know(known)
    prepared = _prepare(model, found, shape, label)
    digest = prepared.plan.digest()
    if output.exists() and resume and not overwrite:
        return ShrinkResult(finished_record(output, digest))
    plan = prepared.plan
    journal = Journal(output, costly=plan.target is not None or len(plan.blocks) < plan.count)
    done = journal.begin(plan.to_json(), digest, resume)
    stack.callback(journal.close)
    return _Member(output, prepared, journal, done, _layout(prepared, journal.output))


def _layout(prepared: _Prepared, folder: Path) -> Checkpoint:
    """The smaller checkpoint: names and shapes of the outline, dtypes of the dense one."""
    outline, source = prepared.outline, prepared.survey.source
    back = {new: old for old, new in outline.prefixes.items()}

    def dtype_of(name: str) -> torch.dtype:
        home = next((new for new in back if name.startswith(f"{new}.")), None)
        return source.stored_dtype(name if home is None else back[home] + name.removeprefix(home))

    return planned_checkpoint(outline.model, dtype_of, folder, SHARD_BYTES)


def _finish(member: _Member, overwrite: bool, before: float, after: int) -> ShrinkResult:
    """Cut one model; ``before`` are the seconds that its survey and search took, which a family shares, ``after`` the bytes
    that the rest of the family will take."""
    start, journal = perf_counter(), member.journal
    with journal.kept_on_error():
        record = _carry_out(member, after)
        record |= {"output": str(member.output), "seconds": round(before + perf_counter() - start, 3)}
        (journal.output / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (journal.output / "README.md").write_text(shrunk_card(record), encoding="utf-8")
        journal.finish(overwrite)
    return ShrinkResult(record)


def _carry_out(member: _Member, after: int) -> dict[str, Any]:
    """Cut, write, prove, judge; the record."""
    plan, outline, found = member.prepared.plan, member.prepared.outline, member.prepared.survey
    source, recipe, progress = found.source, found.recipe, found.progress
    journal, layout = member.journal, member.layout
    writer = MirrorWriter(layout, journal.output)
    writer.prepare(begun=bool(member.done), also=after)
    output, limits = CutOutput(outline.model, writer, outline.prefixes), limits_of(recipe.run)
    fixed = outline.fixed(plan.units.get("width"))
    loop = ShrinkLoop(source, plan, outline.tasks(), fixed, found.windows, output, journal, limits,
                      coverage_of(recipe.run), found.gradients, progress)  # fmt: skip
    results = loop.run(member.done)
    source.checkpoint.copy_extras(journal.output)
    outline.config.save_pretrained(journal.output)
    write_index(layout)
    writer.sync()
    budget, trust = limits.budget, recipe.run.trust_remote_code
    window, masked = found.windows[:1] if found.windows is not None else few_ids(source), loop.logits
    if masked is None or source.model.dtype != torch.float32:  # no text was looked at, or the logits are rough
        reference = open_source(source.checkpoint.folder, torch.float32, torch.device("cpu"), trust)
        again = ShrinkLoop(reference, plan, outline.tasks(), fixed, window, output, journal, limits,
                           progress=progress)  # fmt: skip
        with suppress(UnsupportedModelError):  # a model that cannot be run block by block
            masked = again.replayed(journal.entries())
    tolerance = ROUNDED if loop.rounded else TOLERANCE
    proof = prove_cut(journal.output, layout, window, masked, budget, progress, trust, tolerance)
    sizes = (source.checkpoint.nbytes, layout.nbytes)
    record = shrink_record(plan, recipe, results, proof, _judged(found, journal.output), sizes)
    return {**record, "units": loop.cutter.units, "experts": loop.cutter.seen}


def _judged(found: Survey, output: Path) -> dict[str, Any] | None:
    """The perplexities of both models, where they were asked for."""
    if found.judged is None:
        return None
    source, run = found.source, found.recipe.run
    after = open_source(output, source.model.dtype, source.device, run.trust_remote_code)
    one = perplexity(source, found.judged, run.batch_tokens, found.progress, "Judging the dense model")
    two = perplexity(after, found.judged, run.batch_tokens, found.progress, "Judging the smaller model")
    return {
        "text": run.eval_text, "seqlen": run.seqlen, "tokens": one.tokens, "dense": one.value, "pruned": two.value,
    }  # fmt: skip


def _prepare(model: str, found: Survey, shape: Found, label: str | None) -> _Prepared:
    source, recipe = found.source, found.recipe
    outline = found.outliner.outline(shape.sizes, shape.blocks)
    width = shape.sizes.get("width")
    axes = found.outliner.anatomy.axes
    choice = found.choice()
    plan = ShrinkPlan(
        model=model,
        fingerprint=source.checkpoint.fingerprint,
        importance=choice.importance,
        experts=choice.experts,
        method=choice.method,
        sizes={name: (axes[name].size, size) for name, size in shape.sizes.items()},
        blocks=shape.blocks,
        count=found.count,
        config=outline.numbers,
        settings=_settings(recipe, source, found.windows, label, found.given),
        parameters=(parameters_of(source.model), parameters_of(outline.model)),
        left={**found.outliner.anatomy.left, **dict.fromkeys(source.names.strangers, NO_PLACE)},
        units={"width": found.channels(width)} if width is not None else {},
        target=shape.record or None,
    )
    return _Prepared(found, outline, plan)


def _settings(recipe: ShrinkRecipe, source: CheckpointSource, windows: Tensor | None, label: str | None,
              given: Mapping[str, int]) -> dict[str, Any]:  # fmt: skip
    """What decides the output's bytes beside the method and the sizes."""
    settings: dict[str, Any] = {
        "seed": recipe.run.seed, "device": source.device.type, "dtype": str(source.model.dtype).removeprefix("torch."),
        "batch_tokens": recipe.run.batch_tokens, "width_importance": recipe.width_importance, "depth": recipe.depth,
        "starved_experts": recipe.run.starved_experts, "min_expert_tokens": recipe.run.min_expert_tokens,
    }  # fmt: skip
    if label is not None:
        settings |= {"target": label, "along": list(recipe.along), "given": dict(given)}
    if windows is not None:
        settings["calibration"] = {
            "text": recipe.run.calibration or "factbook", "samples": len(windows), "seqlen": windows.shape[1],
            "tokens": windows.numel(), "digest": digest_of(windows),
        }  # fmt: skip
    return settings
