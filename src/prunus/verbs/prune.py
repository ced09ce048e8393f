"""prune: a model in, a pruned model out, with the proof."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor, nn

from ..checkpoint.journal import Journal
from ..checkpoint.levels import gather_levels
from ..checkpoint.writer import MirrorWriter
from ..core import registry
from ..core.errors import RecipeError
from ..core.progress import Progress, Silent
from ..measure.memory import peak_memory_bytes
from ..models.feed import Call
from ..recipe import Recipe
from ..report.card import model_card
from ..report.record import build_record, read_record
from ..stream.evaluate import open_source, perplexity
from ..stream.loop import PruneLoop
from ..stream.prove import prove
from ..stream.sources import CheckpointSource, MemorySource
from ..stream.state import hidden_bytes
from ..train.ancestry import ancestry_of
from ..train.masks import Masks
from .prepare import (
    Prepared,
    calibration_windows,
    check_memory,
    choose_device,
    coverage_of,
    finished_record,
    is_tokenised,
    journal_for,
    limits_of,
    needs_windows,
    prepare,
    prepare_checkpoint,
)
from .prune_module import Fed, prune_module, zeros_of

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class PruneResult:
    """What a run did and measured; ``record`` is what ``prunus.json`` holds. ``masks`` are those of a module in
    memory, by parameter, True = kept."""

    record: Mapping[str, Any]
    masks: Masks = field(default_factory=lambda: Masks({}))

    @property
    def output(self) -> Path | None:
        """The pruned checkpoint's folder; None for a model pruned in memory."""
        return Path(self.record["output"]) if self.record["output"] else None

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the pruned Sites."""
        return float(self.record["sparsity"])

    @property
    def sites(self) -> list[dict[str, Any]]:
        """One record a Site: name, shape, sparsity, rel_error and more."""
        return list(self.record["sites"])

    @property
    def perplexity(self) -> dict[str, Any] | None:
        """``dense`` and ``pruned`` perplexity with tokens and seqlen, where they were measured."""
        return self.record["evaluation"]  # type: ignore[no-any-return]


def prune(model: str | Path | nn.Module, output: str | Path | None = None, recipe: Recipe | None = None, *,
          tokenizer: object = None, data: Iterable[Any] | None = None, call: Call | None = None, loss: Loss | None = None,
          recalibrate: bool = True, resume: bool = False, overwrite: bool = False, progress: Progress | None = None,
          **settings: Any) -> PruneResult:  # fmt: skip
    """Prune a model.

    ``model`` is a checkpoint folder, a ``.gguf`` file, ``pkg:PACKAGE`` or a hub id, written pruned to ``output``; or a
    model in memory, pruned in place. ``settings`` are a :class:`~prunus.recipe.Recipe`'s fields (``method``, ``sparsity``,
    ``calibration``, …), or give a whole ``recipe``. ``resume`` goes on with a killed run; ``overwrite`` replaces ``output``
    once the new one is complete. Of a model in memory nothing is evaluated or resumed, and its own dtype is computed with:
    what is set for those has no effect.

    A language model of Transformers in memory is calibrated on text, which takes its ``tokenizer``. Any other module, or
    that one when it is given ``data``, is calibrated on batches: its linear layers and convolutions are pruned block by
    block, each on the inputs that it has behind the pruned ones before. A batch is a tensor, keywords, or a tuple of which
    the model gets what its forward takes, unless ``call(model, batch)`` runs it otherwise; ``samples`` inputs (1,024) of
    the data are looked at. ``loss(model, batch)`` is for criteria that look at gradients. In the end batch norms take their
    running statistics anew from the data, but for frozen ones (in evaluation mode in a model that is not), unless
    ``recalibrate`` is false.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    wanted = Recipe.either(recipe, settings)
    wanted.check()
    reporter = progress or Silent()
    try:
        if isinstance(model, nn.Module):
            if output is not None:
                raise RecipeError(["a model in memory is pruned in place: save it yourself, or give its path as MODEL"])
            if data is not None or not _writes_text(model):
                return _prune_module(model, wanted, Fed(data, call, loss, recalibrate), reporter)
            return _prune_in_memory(model, wanted, tokenizer, reporter)
        if data is not None or call is not None or loss is not None:
            raise RecipeError(["data, call and loss are for modules in memory; a checkpoint is calibrated on text"])
        if output is None:
            raise RecipeError(["an output folder is missing (-o OUT)"])
        return _prune_on_disk(model, Path(output).expanduser(), wanted, (resume, overwrite), reporter)
    finally:
        reporter.close()


def _prune_in_memory(model: nn.Module, recipe: Recipe, tokenizer: object, progress: Progress) -> PruneResult:
    start = perf_counter()
    device = next(model.parameters()).device if recipe.device == "auto" else choose_device(recipe.device)
    source = MemorySource(model, device)
    windows = None
    training = model.training
    model.eval()
    try:
        if needs_windows(recipe.build_method(), recipe):
            if tokenizer is None and not is_tokenised(recipe):
                raise RecipeError([f"method '{recipe.method}' looks at text: give the model's tokenizer=…"])
            windows = calibration_windows(source, tokenizer, recipe)
        prepared = prepare(source, type(model).__name__, recipe, windows, progress, tokenizer=tokenizer)
        results = _loop(prepared, None, progress).run()
    finally:
        model.train(training)
    record = build_record(prepared.plan, recipe, results, zeros_of(model, results), None)
    return PruneResult({**record, "seconds": round(perf_counter() - start, 3)}, Masks.of(model))


def _prune_module(model: nn.Module, recipe: Recipe, fed: Fed, progress: Progress) -> PruneResult:
    start = perf_counter()
    plan, results, masks = prune_module(model, recipe, fed, progress)
    record = build_record(plan, recipe, results, zeros_of(model, results), None)
    return PruneResult({**record, "seconds": round(perf_counter() - start, 3)}, Masks(masks))


def _writes_text(model: nn.Module) -> bool:
    """Whether this is a model of Transformers that tokens go into."""
    tokens = getattr(model, "get_input_embeddings", None)
    try:
        return hasattr(model, "config") and tokens is not None and isinstance(tokens(), nn.Embedding)
    except NotImplementedError:  # models of images have no embedding to give
        return False


def _prune_on_disk(model: str | Path, output: Path, recipe: Recipe, flags: tuple[bool, bool],
                   progress: Progress) -> PruneResult:  # fmt: skip
    start = perf_counter()
    resume, overwrite = flags
    journal = journal_for(model, output, resume, overwrite)
    stored = _stored_plan(journal, output, overwrite) if resume else None
    shares = {step["name"]: step["sparsity"] for step in stored["steps"]} if stored else None
    prepared = prepare_checkpoint(model, recipe, progress, shares)
    source = prepared.source
    if not isinstance(source, CheckpointSource):
        raise TypeError("a run from disk to disk needs a checkpoint")
    check_memory(prepared)
    digest = prepared.plan.digest()
    if output.exists() and resume and not overwrite:
        return PruneResult(finished_record(output, digest))
    done = journal.begin(prepared.plan.to_json(), digest, resume)
    with journal.kept_on_error():
        source.writer = MirrorWriter(source.checkpoint, journal.output)
        source.writer.prepare(begun=bool(done), also=_state_bytes(prepared))
        results = _loop(prepared, journal, progress).run(done)
        source.writer.copy(set(source.checkpoint.names) - source.disk_names([step.site for step in prepared.plan.steps]))
        source.writer.copy_extras()
        if prepared.plan.method.grid is not None:
            gather_levels(journal.folder, journal.output, registry.grid.describe(prepared.plan.method.grid))
        source.writer.sync()
        written, peak = perf_counter(), peak_memory_bytes()
        record = _prove_and_describe(prepared, source, journal.output, results, progress)
        before = sum(max((site["block_seconds"] for site in entry["sites"]), default=0.0) for entry in done)
        record |= {
            "output": str(output),
            "ancestry": ancestry_of(source.checkpoint.folder),
            "seconds": round(before + perf_counter() - start, 3),
            "seconds_to_written": round(before + written - start, 3),
            "peak_memory_bytes_to_written": peak,
        }
        _write_record(record, journal.output)
        journal.finish(overwrite)
    return PruneResult(record)


def _prove_and_describe(prepared: Prepared, source: CheckpointSource, written: Path, results: list[dict[str, Any]],
                        progress: Progress) -> dict[str, Any]:  # fmt: skip
    """Check the written checkpoint, judge it against the dense one, and put all of it into a record."""
    recipe = prepared.recipe
    budget = limits_of(recipe).budget
    proof = prove(source.checkpoint, written, prepared.plan, results, progress, budget, recipe.trust_remote_code)
    evaluation = None
    if prepared.judged is not None:
        pruned = open_source(written, source.model.dtype, source.device, recipe.trust_remote_code)
        before = perplexity(source, prepared.judged, recipe.batch_tokens, progress, "Judging the dense model")
        after = perplexity(pruned, prepared.judged, recipe.batch_tokens, progress, "Judging the pruned model")
        evaluation = {
            "text": recipe.eval_text, "seqlen": recipe.seqlen, "tokens": before.tokens,
            "dense": before.value, "pruned": after.value,
        }  # fmt: skip
    for result in results:
        result["sparsity"] = proof.site_sparsity[result["name"]]
    return build_record(prepared.plan, recipe, results, proof.to_json(), evaluation)


def _state_bytes(prepared: Prepared) -> int:
    """Disk that hidden states may take: two buffers where they do not fit in memory, and the saved ones."""
    streams = 2 if prepared.plan.method.follows_dense else 1
    return 0 if prepared.windows is None else 4 * streams * hidden_bytes(prepared.source.model, prepared.windows)


def _write_record(record: dict[str, Any], folder: Path) -> None:
    (folder / "prunus.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(record), encoding="utf-8")


def _loop(prepared: Prepared, journal: Journal | None, progress: Progress) -> PruneLoop:
    limits = limits_of(prepared.recipe)
    return PruneLoop(
        prepared.source, prepared.plan, prepared.calibration(progress), journal,
        batch_tokens=limits.batch_tokens, state_budget=limits.budget, gram_budget=limits.budget, progress=progress,
        coverage=coverage_of(prepared.recipe), gradients=prepared.gradients,
    )  # fmt: skip


def _stored_plan(journal: Journal, output: Path, overwrite: bool) -> dict[str, Any] | None:
    """The plan of the unfinished run, or that of the finished one that ``output`` is and that is not to be replaced."""
    if journal.unfinished or overwrite or not output.exists():
        return journal.stored_plan()
    plan: dict[str, Any] | None = read_record(output).get("plan")
    return plan
