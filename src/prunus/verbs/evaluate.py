"""eval: a model's perplexity, streamed block by block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from ..core.progress import Progress, Silent
from ..core.thresholds import ActivationUse
from ..measure.intervals import Interval
from ..models.tokens import load_tokenizer
from ..recipe import Recipe
from ..stream.evaluate import perplexity
from .prepare import evaluation_windows, open_model
from .threshold import cut_model


@dataclass(frozen=True)
class Evaluation:
    """Perplexity over ``tokens`` tokens in windows of ``seqlen``; ``scored`` of them were predicted. ``interval`` is where
    the perplexity of text like this is with a confidence of 95% (None: of too few windows). ``activations`` says what
    thresholds came to, where the model computed with some."""

    model: str
    text: str
    perplexity: float
    interval: Interval | None
    tokens: int
    scored: int
    seqlen: int
    seconds: float
    activations: ActivationUse | None = None


def evaluate(model: str | Path, text: str | Path = "factbook-heldout", *, seqlen: int = 512, windows: int | None = None,
             activations: str | Path | None = None, device: str = "auto", dtype: str = "auto",
             trust_remote_code: bool = False, progress: Progress | None = None) -> Evaluation:  # fmt: skip
    """Perplexity of a model on a text: exp of the mean token loss over non-overlapping windows of ``seqlen`` tokens.

    The text is joined and tokenised once, the tail dropped; ``windows`` limits how many are read. ``activations`` is a file
    of thresholds that inputs are cut at (:func:`prunus.threshold`).

    Raises:
        CheckpointError, UnsupportedModelError: if the model cannot be read or followed.
        CalibrationError: if the text cannot be used.
    """
    reporter = progress or Silent()
    start = perf_counter()
    try:
        recipe = Recipe.of({"device": device, "dtype": dtype, "seqlen": seqlen, "trust_remote_code": trust_remote_code})
        source = open_model(model, recipe)
        cut = None if activations is None else cut_model(source, activations)
        tokenizer = load_tokenizer(source.checkpoint.folder, trust_remote_code)
        ids = evaluation_windows(source, tokenizer, str(text), seqlen, windows)
        result = perplexity(source, ids, recipe.batch_tokens, reporter, "Evaluating")
    finally:
        reporter.close()
    return Evaluation(
        str(model), str(text), result.value, result.interval(), result.tokens, result.scored, seqlen,
        round(perf_counter() - start, 3), None if cut is None else cut.use(),
    )  # fmt: skip
