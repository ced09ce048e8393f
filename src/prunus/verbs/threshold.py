"""threshold: how small an activation must be to count as zero, so that weights need not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from ..checkpoint.replace import check_free_file
from ..checkpoint.thresholds_file import read_thresholds, write_thresholds
from ..core.errors import CalibrationError, UnsupportedModelError
from ..core.progress import Progress, Silent
from ..core.thresholds import ActivationUse, InputThreshold, Thresholds
from ..measure.environment import environment
from ..models.thresholding import CutModel, check_fits
from ..models.tokens import load_tokenizer
from ..observe.windows import digest_of
from ..recipe import Recipe
from ..stream.evaluate import divergences
from ..stream.sources import CheckpointSource
from ..stream.thresholds import cut_sites, find_thresholds
from ..threshold_recipe import ThresholdRecipe
from .prepare import DEFAULT_CALIBRATION, calibration_windows, evaluation_windows, limits_of, open_model


@dataclass(frozen=True)
class HeldOut:
    """What thresholds do on text they were not found on."""

    text: str
    tokens: int
    seqlen: int
    dense_perplexity: float
    perplexity: float
    kl: float
    agreement: float
    use: ActivationUse


@dataclass(frozen=True)
class ThresholdResult:
    """Thresholds that were found and written; ``left_dense`` are matrices with inputs that are not cut, and why."""

    model: str
    output: str
    sparsity: float
    allocation: str
    inputs: tuple[InputThreshold, ...]
    left_dense: dict[str, str]
    held_out: HeldOut | None
    seconds: float


def threshold(model: str | Path, output: str | Path, recipe: ThresholdRecipe | None = None, *, overwrite: bool = False,
              progress: Progress | None = None, **settings: Any) -> ThresholdResult:  # fmt: skip
    """Find a threshold for every input of a decoder's blocks, and write them as one JSON file.

    Entries of at most the threshold count as zero when text is continued, and weights that they would meet need not be read
    (TEAL, arXiv:2408.14690). ``settings`` are the fields of a :class:`~prunus.threshold_recipe.ThresholdRecipe`.

    Raises:
        RecipeError: if settings have faults.
        CheckpointError, UnsupportedModelError: if the model cannot be read or followed, or is no decoder.
        CalibrationError: if a text cannot be used.
        OutputError: if the file is there already, or cannot be written.
    """
    asked = ThresholdRecipe.either(recipe, settings)
    reporter, start, path = progress or Silent(), perf_counter(), Path(output)
    check_free_file(path, overwrite, "thresholds", read_thresholds)
    try:
        source = _decoder(model, asked.run)
        tokenizer = load_tokenizer(source.checkpoint.folder, asked.run.trust_remote_code)
        windows = calibration_windows(source, tokenizer, asked.run)
        if windows.shape[1] <= asked.dense_tokens:
            raise CalibrationError(
                f"windows of {windows.shape[1]} tokens, of which dense_tokens {asked.dense_tokens} are not cut, leave "
                "nothing. Give longer ones, or fewer --dense-tokens."
            )
        judged = None
        if asked.run.eval_windows:
            judged = evaluation_windows(source, tokenizer, asked.run.eval_text, asked.run.seqlen, asked.run.eval_windows)
        sites, left = cut_sites(source, windows)
        inputs = find_thresholds(source, sites, windows, asked.wanted(), limits_of(asked.run), reporter)
        found = Thresholds(source.checkpoint.fingerprint, asked.dense_tokens, tuple(inputs))
        held_out = None if judged is None else _held_out(model, source, found, judged, asked.run, reporter)
    finally:
        reporter.close()
    result = ThresholdResult(
        str(model), str(output), asked.wanted().sparsity, asked.allocation, found.inputs, left, held_out,
        round(perf_counter() - start, 3),
    )  # fmt: skip
    shares = {} if held_out is None else {one.layers[0]: one.sparsity for one in held_out.use.inputs}
    write_thresholds(path, found, _about(result, asked, windows), shares)
    return result


def cut_model(source: CheckpointSource, file: str | Path) -> CutModel:
    """Let a Source compute with the thresholds in a file.

    Raises:
        CheckpointError: if the file cannot be read, or was made for another model.
    """
    thresholds = read_thresholds(Path(file))
    check_fits(thresholds, source.model, source.checkpoint.fingerprint, str(file))
    blocks = {source.prefix(index): block for index, block in enumerate(source.blocks)}
    return CutModel(blocks, thresholds, str(file))


def _decoder(model: str | Path, recipe: Recipe) -> CheckpointSource:
    source = open_model(model, recipe)
    if not source.continues_text or len(source.stacks) > 1:
        raise UnsupportedModelError(
            f"{type(source.model).__name__}: it is no decoder with a language-model head. Columns are skipped where text "
            "is continued token by token, so that thresholds are found for decoders alone."
        )
    return source


def _held_out(model: str | Path, dense: CheckpointSource, found: Thresholds, windows: Tensor, recipe: Recipe,
              progress: Progress) -> HeldOut:  # fmt: skip
    other = open_model(model, recipe)
    blocks = {other.prefix(index): block for index, block in enumerate(other.blocks)}
    cut = CutModel(blocks, found, "")
    tasks = ("Dense model", "Thresholded model")
    before, ((after, far),) = divergences(dense, [other], windows, recipe.batch_tokens, progress, tasks)
    return HeldOut(recipe.eval_text, before.tokens, windows.shape[1], before.value, after.value, far.kl, far.agreement,
                   cut.use())  # fmt: skip


def _about(result: ThresholdResult, recipe: ThresholdRecipe, windows: Tensor) -> Mapping[str, Any]:
    """The protocol, as plain values."""
    held_out = None
    if result.held_out is not None:
        held_out = asdict(result.held_out)
        used = held_out.pop("use")
        held_out |= {name: used[name] for name in ("sparsity", "weight_bytes", "bytes_not_read")}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": result.model,
        "recipe": recipe.to_json(),
        "calibration": {
            "text": recipe.run.calibration or DEFAULT_CALIBRATION,
            "samples": len(windows),
            "seqlen": windows.shape[1],
            "tokens": windows.numel(),
            "digest": digest_of(windows),
        },
        "held_out": held_out,
        "left_dense": result.left_dense,
        "environment": environment(),
    }
