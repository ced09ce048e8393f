"""What every pruning run starts with: device and dtype, calibration windows, the Plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.journal import Journal
from ..checkpoint.replace import check_free, check_replaceable
from ..checkpoint.source import Checkpoint
from ..core.errors import CalibrationError, OutputError, RecipeError, ResourceError, UnsupportedModelError
from ..core.method import Method
from ..core.plan import Plan
from ..core.progress import Progress
from ..core.roles import Profile
from ..core.site import Site
from ..measure.memory import available_memory_bytes, resident_bytes
from ..models.listed import is_expert
from ..models.locate import locate
from ..models.tokens import load_tokenizer, plain_ids, tokenize
from ..observe.text import read_text, thin
from ..observe.windows import consecutive_windows, digest_of, random_windows, stored_windows
from ..recipe import Recipe
from ..report.record import read_record
from ..stream.coverage import Coverage
from ..stream.estimate import estimate
from ..stream.gradients import Gradients
from ..stream.passages import own_count, with_own_windows
from ..stream.planning import Request, plan_steps
from ..stream.probe import never_run
from ..stream.profile import make_profile
from ..stream.select import Choice, select_sites
from ..stream.sources import CheckpointSource, Source
from ..stream.trials import Trials, trial_levels
from ..stream.trunk import Limits

DEFAULT_CALIBRATION = "factbook"
_LEAST_CHARACTERS = 8 << 20
"""A calibration text is not thinned out below this; else to 64 characters for each token that is wanted."""


@dataclass(frozen=True)
class Prepared:
    """An opened model, its Plan, the windows to calibrate on (None where the method looks at weights alone) and those
    to judge on (None where nothing is judged). The model writes ``own`` of the former itself, of the ids ``plain``.
    """

    recipe: Recipe
    source: Source
    plan: Plan
    windows: Tensor | None
    judged: Tensor | None = None
    gradients: Gradients | None = None
    own: int = 0
    plain: Tensor | None = None

    def calibration(self, progress: Progress) -> Tensor | None:
        """The windows, some of them written by the model where that is wanted."""
        if self.windows is None or self.plain is None:
            return self.windows
        limits = limits_of(self.recipe)
        return with_own_windows(self.source, self.windows, self.own, self.plain, self.recipe.seed, limits, progress)


def limits_of(recipe: Recipe) -> Limits:
    """What a run may take at a time."""
    return Limits(recipe.batch_tokens, int(recipe.memory_budget * 2**30))


def choice_of(recipe: Recipe) -> Choice:
    """What a recipe wants pruned."""
    return Choice(recipe.include, recipe.exclude, recipe.skip_unsupported)


def coverage_of(recipe: Recipe) -> Coverage:
    """What becomes of experts that too few tokens reach."""
    return Coverage(recipe.starved_experts, recipe.min_expert_tokens)


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU if there is one, else the CPU.

    Raises:
        RecipeError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError([f"device '{name}' cannot be used here ({reason}); --device cpu always can"]) from error
    return device


def choose_dtype(name: str, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """``auto`` is float32 on a CPU or where weights are stored in several dtypes, elsewhere the stored one.

    Raises:
        RecipeError: if the dtype cannot hold the stored weights exactly.
    """
    floats = {
        entry.dtype for shard in checkpoint.shards for entry in shard.entries.values() if entry.dtype.is_floating_point
    }
    stored = torch.float32 if len(floats) != 1 else next(iter(floats))
    if name == "auto":
        return torch.float32 if device.type == "cpu" else stored
    chosen: torch.dtype = getattr(torch, name)
    if chosen not in (torch.float32, stored):
        held = ", ".join(sorted(map(str, floats)))
        raise RecipeError([f"dtype {name} cannot hold the checkpoint's weights ({held}) exactly; use float32 or auto"])
    return chosen


def open_model(model: str | Path, recipe: Recipe) -> CheckpointSource:
    """The model as a Source that is read block by block."""
    device = choose_device(recipe.device)
    checkpoint = Checkpoint.open(locate(model))
    dtype = choose_dtype(recipe.dtype, checkpoint, device)
    return CheckpointSource(checkpoint, dtype, device, trust_remote_code=recipe.trust_remote_code)


def needs_windows(method: Method, recipe: Recipe) -> bool:
    """Whether text is looked at: the method asks for it, or the person gave some to measure errors on."""
    return method.looks_at_inputs or recipe.calibration is not None


def is_tokenised(recipe: Recipe) -> bool:
    """Whether the calibration text is a file of token windows, which needs no tokenizer."""
    return recipe.calibration is not None and recipe.calibration.endswith(".npy")


def calibration_windows(source: Source, tokenizer: object | None, recipe: Recipe) -> Tensor:
    """Random windows ``[samples seqlen]`` of the calibration text, or those that are stored."""
    name = recipe.calibration or DEFAULT_CALIBRATION
    if is_tokenised(recipe):
        windows = stored_windows(Path(name).expanduser(), recipe.windows, vocabulary(source))
        check_length(source, windows.shape[1])
        return windows
    check_length(source, recipe.seqlen)
    most = max(_LEAST_CHARACTERS, 64 * recipe.windows * recipe.seqlen)
    ids = tokenize(tokenizer, thin(read_text(name), most, recipe.seed), vocabulary(source))
    return random_windows(ids, recipe.windows, recipe.seqlen, recipe.seed, name)


def own_windows(source: Source, recipe: Recipe, windows: Tensor | None) -> int:
    """How many of the windows the model writes itself; none where a preset would have it, but it writes no text.

    Raises:
        RecipeError: if it writes none and was asked to.
    """
    if windows is None or not recipe.own_share:
        return 0
    if not source.continues_text:
        if recipe.own_text is None:
            return 0
        name = type(source.model).__name__
        raise RecipeError(
            [f"own_text {recipe.own_text:g}: {name} is no decoder with a language-model head, it writes no text"]
        )
    return own_count(len(windows), recipe.own_share)


def evaluation_windows(source: Source, tokenizer: object | None, text: str, seqlen: int, most: int | None) -> Tensor:
    """Consecutive windows ``[windows seqlen]`` of a text.

    Raises:
        UnsupportedModelError: if perplexity says nothing of the model.
        CalibrationError: if the text cannot be used.
    """
    if source.sees_ahead:
        raise UnsupportedModelError(
            f"{type(source.model).__name__}: it is no decoder, its tokens see those behind them, so that perplexity says "
            "nothing of it. It can be pruned or cut with --eval-windows 0."
        )
    check_length(source, seqlen)
    return consecutive_windows(tokenize(tokenizer, read_text(text), vocabulary(source)), seqlen, text, most)


def check_length(source: Source, seqlen: int) -> None:
    """Raise CalibrationError if windows are longer than the model's positions."""
    most = getattr(source.model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and seqlen > most:
        raise CalibrationError(
            f"--seqlen {seqlen} is longer than the {most} positions that the model has. Give at most {most}."
        )


def vocabulary(source: Source) -> int:
    """Entries of the model's embedding."""
    return int(source.model.get_input_embeddings().weight.shape[0])


def prepare(source: Source, label: str, recipe: Recipe, windows: Tensor | None, progress: Progress,
            shares: Mapping[str, float] | None = None, judged: Tensor | None = None,
            tokenizer: object = None) -> Prepared:  # fmt: skip
    """The complete Plan for a Source; nothing is written. ``shares`` are known from an unfinished run."""
    own = own_windows(source, recipe, windows)
    method = recipe.build_method()
    silent = partial(never_run, source, windows=windows) if windows is not None else None
    selection = select_sites(source, choice_of(recipe), silent)
    limits = limits_of(recipe)
    needs = method.criterion.needs | method.compared_by.needs
    gradients = Gradients(source, selection.sites, windows, needs, limits, progress) if windows is not None else None
    request = Request(method, recipe.wanted(), recipe.pins(), recipe.loose_pattern(), shares)

    def survey(compared: Sequence[Site], limited: Sequence[Site]) -> Profile:
        sites = [*compared, *limited]
        profile = make_profile(source, sites, method, _surveyed(windows, method, request), limits, progress, gradients)
        tried = method.allocator.needs_trials and compared
        if not tried or gradients is None or windows is None or request.target is None:
            return profile
        gradients.collect()
        levels = trial_levels(method, request.target.sparsity)
        trials = Trials(source, method, compared, levels, windows, limits, progress, coverage_of(recipe), gradients.of)
        trials.build()
        return replace(profile, levels=levels, evaluate=trials.evaluate)

    steps, more = plan_steps(source, selection, request, survey)
    plan = Plan(
        model=label,
        fingerprint=source.checkpoint.fingerprint if isinstance(source, CheckpointSource) else "in memory",
        method_name=recipe.method,
        method=method,
        steps=tuple(steps),
        untouched={**selection.untouched, **more},
        settings=_settings(recipe, source, windows, own),
        parameters=sum(parameter.numel() for parameter in source.model.parameters()),
        estimate=estimate(
            source, steps, method, windows, limits, judged, own * windows.shape[1] if windows is not None else 0
        ),
    )
    plain = plain_ids(source.model.config, tokenizer, vocabulary(source)) if own else None
    return Prepared(recipe, source, plan, windows, judged, gradients, own, plain)


def prepare_checkpoint(model: str | Path, recipe: Recipe, progress: Progress,
                       shares: Mapping[str, float] | None = None) -> Prepared:  # fmt: skip
    """Open a model by its name and plan its pruning."""
    source = open_model(model, recipe)
    windows = judged = None
    calibrated = needs_windows(recipe.build_method(), recipe)
    reads_text = calibrated and not is_tokenised(recipe)
    tokenizer = None
    if reads_text or recipe.eval_windows:
        tokenizer = load_tokenizer(source.checkpoint.folder, recipe.trust_remote_code)
    if calibrated:
        windows = calibration_windows(source, tokenizer, recipe)
    if recipe.eval_windows:
        judged = evaluation_windows(source, tokenizer, recipe.eval_text, recipe.seqlen, recipe.eval_windows)
        if windows is None:  # else planning finds out
            _check_judgeable(source, judged)
    return prepare(source, str(model), recipe, windows, progress, shares, judged, tokenizer if reads_text else None)


def journal_for(model: str | Path, output: Path, resume: bool, overwrite: bool, teacher: str | None = None) -> Journal:
    """The journal of a run from ``model`` (and a ``teacher``) to ``output``, once it is clear that it may write there.

    Raises:
        OutputError: if something is there that is not to go, or an unfinished run that is not to be resumed.
    """
    check_free(output, resume or overwrite)
    check_replaceable(output, locate(model), model)
    if teacher is not None:
        check_replaceable(output, locate(teacher), teacher, "the teacher")
    journal = Journal(output)
    journal.check_free(resume)
    return journal


def finished_record(output: Path, digest: str) -> dict[str, Any]:
    """The record of a run that was complete already when it was resumed.

    Raises:
        OutputError: if what is there is another run's.
    """
    record = read_record(output)
    if record.get("plan_digest") != digest:
        raise OutputError(f"{output} exists already and is not this run's. Give another -o, or --overwrite.")
    Journal(output).discard()
    return record


def check_memory(prepared: Prepared) -> None:
    """Raise ResourceError if the run would need more memory than is free; what is resident already is not counted."""
    estimate, recipe = prepared.plan.estimate, prepared.recipe
    if estimate is None:
        return
    wanted = [(torch.device("cpu"), estimate.memory_bytes - resident_bytes())]
    wanted += [(prepared.source.device, estimate.gpu_bytes)] if estimate.gpu_bytes else []
    for device, needed in wanted:
        free = available_memory_bytes(device)
        if needed > free:
            raise ResourceError(
                f"{prepared.plan.model}: the run needs about {needed / 2**30:.1f} GiB more memory, {free / 2**30:.1f} GiB "
                f"are free on {device}. Try a smaller --memory-budget (now {recipe.memory_budget:g}), --batch-tokens (now "
                f"{recipe.batch_tokens}) or --samples (now {recipe.windows}); `prunus plan` shows what each would take."
            )


def _surveyed(windows: Tensor | None, method: Method, request: Request) -> Tensor | None:
    """The windows of the survey: all, or where scores are only compared with each other as many as are enough."""
    most = method.allocator.survey_tokens
    if windows is None or most is None or any(pin.threshold is not None for pin in request.pins):
        return windows
    return windows[: max(1, most // windows.shape[1])]


def _check_judgeable(source: Source, windows: Tensor) -> None:
    """Raise UnsupportedModelError now rather than after the pruning if the model cannot be judged block by block."""
    try:
        never_run(source, [site for found in source.found for site in found.sites], windows)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"{error} Methods that look at weights alone can prune it with --eval-windows 0."
        ) from error


def _settings(recipe: Recipe, source: Source, windows: Tensor | None, own: int) -> dict[str, Any]:
    """What decides the output's bytes beside the method and the steps."""
    settings: dict[str, Any] = {
        "sparsity": recipe.sparsity,
        "set": list(recipe.set),
        "seed": recipe.seed,
        "device": source.device.type,
        "dtype": str(source.model.dtype).removeprefix("torch."),
        "batch_tokens": recipe.batch_tokens,
    }
    if any(
        is_expert(block, site) for block, found in zip(source.blocks, source.found, strict=True) for site in found.sites
    ):
        settings |= {"starved_experts": recipe.starved_experts, "min_expert_tokens": recipe.min_expert_tokens}
    if windows is not None:
        settings["calibration"] = {
            "text": recipe.calibration or DEFAULT_CALIBRATION,
            "samples": len(windows),
            "seqlen": windows.shape[1],
            "tokens": windows.numel(),
            "own": own,
            "digest": digest_of(windows),
        }
    return settings
