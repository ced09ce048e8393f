"""Healing, what ``distill`` and ``recover`` share: a model trained on, its zeros held, maybe towards a teacher."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.disk import sync_all
from ..checkpoint.journal import Journal
from ..checkpoint.levels import FILE as GRID
from ..core.errors import CalibrationError, CheckpointError, RecipeError
from ..core.progress import Progress, Silent
from ..heal_recipe import HealRecipe
from ..models.reload import load_whole
from ..models.tokens import load_tokenizer, tokenize
from ..observe.text import read_text, thin
from ..observe.windows import digest_of
from ..recipe import Recipe
from ..report.healed import curves_svg, heal_record, healed_card
from ..report.record import FILE as RECORD
from ..report.record import headed, read_record
from ..stream.evaluate import divergences, open_source, perplexity
from ..stream.sources import CheckpointSource
from ..stream.trunk import Limits
from ..train.ancestry import ancestry_of
from ..train.held import pruned_matrices
from ..train.lessons import Windows, training_windows
from ..train.low_rank import add_low_rank, merge_low_rank
from ..train.prove import prove_healed
from ..train.ranks import is_first, wait, world
from ..train.run import Run, asked_of, lessons_of, train
from ..train.shared import SharedWeights, share_pruned
from ..train.teacher import TeacherCache
from ..train.write import write_healed
from .heal_checks import check_disk, check_finite, check_memory, check_teacher
from .prepare import check_length, evaluation_windows, finished_record, journal_for, open_model, vocabulary

DEFAULT_TEXT = "factbook"
_CHARACTERS = 8
"""Characters of text read for each token that is trained on, at least."""


@dataclass(frozen=True)
class HealResult:
    """What a run did and measured; ``record`` is what ``prunus.json`` holds."""

    record: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """The healed checkpoint's folder."""
        return Path(self.record["output"])

    @property
    def held_out(self) -> tuple[float, float]:
        """The loss on held-out windows before and after."""
        return self.record["held_out"]["before"], self.record["held_out"]["after"]

    @property
    def perplexity(self) -> dict[str, Any] | None:
        """``before`` and ``after``, and of the ``teacher``, where they were measured."""
        return self.record["evaluation"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Opened:
    """Student, teacher, and the windows: to train on, held out, to judge on."""

    source: CheckpointSource
    teacher: CheckpointSource | None
    windows: Tensor
    held_out: Tensor
    judged: Tensor | None


def heal(kind: str, model: str | Path, output: Path, recipe: HealRecipe, flags: tuple[bool, bool],
         progress: Progress | None) -> HealResult:  # fmt: skip
    """Train ``model`` by a recipe into ``output``; ``flags`` are ``resume`` and ``overwrite``, ``kind`` the verb's name.

    Raises:
        PrunusError: one of :mod:`prunus.core.errors`, saying what, where and what to do.
    """
    told = progress if progress is not None and is_first() else Silent()
    try:
        return _heal(kind, model, output, recipe, flags, told) if is_first() else _help(model, output, recipe, flags, told)
    finally:
        told.close()


def _heal(kind: str, model: str | Path, output: Path, recipe: HealRecipe, flags: tuple[bool, bool],
          progress: Progress) -> HealResult:  # fmt: skip
    start = perf_counter()
    resume, overwrite = flags
    journal = journal_for(model, output, resume, overwrite, recipe.teacher)
    opened = _open(model, recipe)
    plan = _plan(kind, str(model), opened, recipe)
    digest = hashlib.sha256(json.dumps({**plan, "model": None}, sort_keys=True).encode()).hexdigest()
    if output.exists() and resume and not overwrite:
        return HealResult(finished_record(output, digest))
    check_finite(str(model), opened.source)
    journal.begin(plan, digest, resume)
    journal.output.mkdir(exist_ok=True)
    with journal.kept_on_error():
        record = _carry_out(opened, recipe, journal, progress)
        record = {**headed(kind), **record, "plan": plan, "plan_digest": digest, "model": str(model), "output": str(output)}
        record["ancestry"] = ancestry_of(opened.source.checkpoint.folder)
        record["seconds"] = round(perf_counter() - start, 3)
        (journal.output / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (journal.output / "training.svg").write_text(curves_svg(record), encoding="utf-8")
        (journal.output / "README.md").write_text(healed_card(record), encoding="utf-8")
        journal.finish(overwrite)
    wait()
    return HealResult(record)


def _help(model: str | Path, output: Path, recipe: HealRecipe, flags: tuple[bool, bool], progress: Progress) -> HealResult:
    """The part of the other processes: they train with the first, which does the rest."""
    resume, overwrite = flags
    if output.exists() and resume and not overwrite:
        return HealResult(read_record(output))
    opened = _open(model, recipe)
    journal = Journal(output)
    cache = _cache(opened, recipe, journal)
    wait()
    _train(opened, recipe, journal, cache, progress)
    wait()
    return HealResult(read_record(output))


def _open(model: str | Path, recipe: HealRecipe) -> _Opened:
    """Everything that is read before anything is written."""
    run = Recipe(device=recipe.device, trust_remote_code=recipe.trust_remote_code)
    source = open_model(model, run)
    if (source.checkpoint.folder / GRID).is_file():
        raise CheckpointError(
            f"{model}: its weights are on a grid ({GRID}), which training would leave. Heal before quantising."
        )
    if not source.continues_text:
        raise RecipeError(
            [f"{type(source.model).__name__} is no decoder with a language-model head: it cannot be healed by text"]
        )
    teacher = None
    if recipe.teacher is not None:
        teacher = open_model(recipe.teacher, run)
        if vocabulary(teacher) != vocabulary(source):
            counts = f"teacher {recipe.teacher} has {vocabulary(teacher)} tokens, {model} has {vocabulary(source)}"
            raise RecipeError([f"{counts}: they have to be the same"])
    if source.device.index:
        taken = f"device {source.device}: training takes the first GPU that it sees; choose it by CUDA_VISIBLE_DEVICES"
        raise RecipeError([taken])
    check_length(source, recipe.seqlen)
    name = recipe.text or DEFAULT_TEXT
    tokenizer = load_tokenizer(source.checkpoint.folder, recipe.trust_remote_code)
    wanted = recipe.tokens + recipe.held_out * recipe.seqlen
    text = thin(read_text(name), max(8 << 20, _CHARACTERS * wanted), recipe.seed)
    if teacher is not None:
        check_teacher(teacher, (source, tokenizer), text, recipe)
    ids = tokenize(tokenizer, text, vocabulary(source))
    windows, held_out = training_windows(ids, recipe.seqlen, recipe.tokens, recipe.held_out, recipe.seed, name)
    judged = None
    if recipe.eval_windows:
        judged = evaluation_windows(source, tokenizer, recipe.eval_text, recipe.seqlen, recipe.eval_windows)
    return _Opened(source, teacher, windows, held_out, judged)


def _plan(kind: str, model: str, opened: _Opened, recipe: HealRecipe) -> dict[str, Any]:
    """What decides the output's bytes."""
    passing = ("eval_text", "eval_windows", "memory_budget", "teacher")
    return {
        "kind": kind, "model": model, "fingerprint": opened.source.checkpoint.fingerprint,
        "teacher": opened.teacher.checkpoint.fingerprint if opened.teacher is not None else None,
        "windows": digest_of(torch.cat([opened.windows, opened.held_out])),
        "settings": {name: value for name, value in recipe.to_json().items() if name not in passing},
        "device": opened.source.device.type, "processes": world(),
    }  # fmt: skip


def _carry_out(opened: _Opened, recipe: HealRecipe, journal: Journal, progress: Progress) -> dict[str, Any]:
    """Ask the teacher, train, write, prove, judge; the record."""
    source = opened.source
    budget = int(recipe.memory_budget * 2**30)
    check_memory(source, opened.teacher, recipe)
    check_disk(source, recipe, journal.folder)
    cache = _cache(opened, recipe, journal)
    if cache is not None and opened.teacher is not None:
        first = max((entry.get("taught", 0) for entry in journal.entries()), default=0)
        limits = Limits(recipe.batch_tokens, budget)
        cache.fill(opened.teacher, limits, progress, first, lambda count: journal.mark({"taught": count}))
    wait()
    student, zeros, history = _train(opened, recipe, journal, cache, progress)
    write_healed(source, student, journal.output)
    proof = prove_healed(source, journal.output, zeros, budget, progress, recipe.trust_remote_code)
    del student
    evaluation = _judged(opened, recipe, journal.output, progress) if opened.judged is not None else None
    return heal_record(recipe, history, proof, evaluation)


def _train(opened: _Opened, recipe: HealRecipe, journal: Journal, cache: TeacherCache | None,
           progress: Progress) -> tuple[Any, dict[str, Tensor], list[dict[str, Any]]]:  # fmt: skip
    """The trained student, where it had zeros that were held, and what was logged."""
    source = opened.source
    student, _ = load_whole(source.checkpoint.folder, torch.float32, recipe.trust_remote_code)
    pruned = pruned_matrices(student) if recipe.masks == "held" else frozenset()
    zeros = {name: student.get_parameter(name) == 0 for name in pruned}
    shared = _instead(student, recipe)
    if recipe.lora is not None or shared is not None:
        pruned = frozenset()  # they are frozen, and what is trained in their place leaves out what is zero
    live = opened.teacher if any(loss.needs_hidden for loss in recipe.losses()) else None
    lessons = lessons_of(recipe.losses(), source, live, recipe.trust_remote_code)
    windows = (Windows(opened.windows, cache), Windows(opened.held_out, cache, len(opened.windows)))
    folder = (journal.folder / "trainer").resolve()

    def mark(entry: dict[str, Any]) -> None:
        sync_all(folder)
        journal.mark(entry)

    saved = frozenset(entry["checkpoint"] for entry in journal.entries() if "checkpoint" in entry)
    trained = train(student, Run(folder, recipe, source.device, mark, saved), windows, lessons, pruned, progress)
    if not trained.better or trained.gathered:
        student, _ = load_whole(source.checkpoint.folder, torch.float32, recipe.trust_remote_code)
        shared = _instead(student, recipe if trained.better else replace(recipe, lora=None))
    if trained.better and trained.gathered:
        student.load_state_dict(trained.gathered)
    if not trained.better or trained.gathered != {}:
        if shared is not None:
            shared.finish()
        merge_low_rank(student)
    return student, zeros, trained.history


def _instead(student: Any, recipe: HealRecipe) -> SharedWeights | None:
    """Put what is trained in the place of weights there, where the recipe asks for it."""
    if recipe.lora is not None:
        add_low_rank(student, recipe.lora, recipe.lora_alpha or 2 * recipe.lora, recipe.seed)
    return None if recipe.shared is None else share_pruned(student, recipe.shared)


def _cache(opened: _Opened, recipe: HealRecipe, journal: Journal) -> TeacherCache | None:
    """Where what the teacher says of all windows is kept; None where it is not asked, or runs beside the student."""
    losses = recipe.losses()
    asked = asked_of(losses)
    if asked is None or opened.teacher is None or any(loss.needs_hidden for loss in losses):
        return None
    top, temperature = min(asked[0], vocabulary(opened.teacher)), asked[1]
    return TeacherCache(journal.folder / "teacher", torch.cat([opened.windows, opened.held_out]), top, temperature)


def _judged(opened: _Opened, recipe: HealRecipe, output: Path, progress: Progress) -> dict[str, Any]:
    """Perplexities before and after, and of the teacher, and how far both are from it."""
    source, teacher, judged, tokens = opened.source, opened.teacher, opened.judged, recipe.batch_tokens
    if judged is None:
        raise CalibrationError("nothing to judge on")
    after = open_source(output, source.model.dtype, source.device, recipe.trust_remote_code)
    found: dict[str, Any] = {"text": recipe.eval_text, "seqlen": recipe.seqlen}
    if teacher is None:
        one = perplexity(source, judged, tokens, progress, "Judging the model as it was")
        two = perplexity(after, judged, tokens, progress, "Judging the healed model")
        return {**found, "tokens": one.tokens, "before": one.value, "after": two.value}
    tasks = ("Judging the teacher", "Judging the model as it was", "Judging the healed model")
    dense, ((before, far), (healed, near)) = divergences(teacher, [source, after], judged, tokens, progress, tasks)
    return {**found, "tokens": before.tokens, "teacher": dense.value, "before": before.value, "after": healed.value,
            "kl_before": far.kl, "kl_after": near.kl}  # fmt: skip
