"""compare: a dense and a pruned model side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError, RecipeError
from ..core.progress import Progress, Silent
from ..core.thresholds import ActivationUse
from ..measure.memory import available_memory_bytes
from ..measure.speed import decode_speeds, generate
from ..models.reload import load_whole
from ..models.tokens import load_tokenizer
from ..recipe import Recipe
from ..runtime.ready import RunsOn, load_ready
from ..stream.evaluate import divergences
from ..stream.sources import CheckpointSource
from .prepare import evaluation_windows, open_model, vocabulary
from .threshold import cut_model

PROMPTS = ("The capital of France is", "The economy depends on", "Once upon a time")


@dataclass(frozen=True)
class Side:
    """One model's figures; speed and continuations are None where the models do not fit in memory together."""

    model: str
    perplexity: float
    disk_bytes: int
    memory_bytes: int
    parameters: int
    nonzeros: int
    tokens_per_second: float | None
    continuations: list[str] | None


@dataclass(frozen=True)
class Comparison:
    """Two models on the same ``tokens`` of ``text``.

    ``kl`` is the mean KL(dense ‖ pruned) a token in nats, ``agreement`` the fraction of tokens of which both think the same
    likeliest. ``activations`` says what thresholds came to, where the second computed with some.
    """

    dense: Side
    pruned: Side
    kl: float
    agreement: float
    text: str
    tokens: int
    seqlen: int
    prompts: list[str]
    not_measured: str | None
    activations: ActivationUse | None = None


def compare(dense: str | Path, pruned: str | Path, text: str | Path = "factbook-heldout", *, seqlen: int = 512,
            windows: int | None = 32, prompts: Sequence[str] = PROMPTS, new_tokens: int = 32,
            activations: str | Path | None = None,
            device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False,
            progress: Progress | None = None) -> Comparison:  # fmt: skip
    """Perplexity, KL, agreement, sizes, non-zeros, tokens a second and greedy continuations of two models.

    Quality is streamed block by block; speed and continuations load both models whole, where memory allows. ``activations``
    is a file of thresholds that the second model's inputs are cut at (:func:`prunus.threshold`).

    Raises:
        RecipeError: if settings have faults, or a prompt has no tokens.
        CheckpointError, UnsupportedModelError: if a model cannot be read or followed, or their vocabularies differ.
        CalibrationError: if the text cannot be used.
    """
    reporter = progress or Silent()
    try:
        recipe = Recipe.of({"device": device, "dtype": dtype, "seqlen": seqlen, "trust_remote_code": trust_remote_code})
        one, two = open_model(dense, recipe), open_model(pruned, recipe)
        if vocabulary(one) != vocabulary(two):
            raise CheckpointError(
                f"{dense} has {vocabulary(one)} vocabulary entries, {pruned} has {vocabulary(two)}: their predictions "
                "cannot be compared."
            )
        cut = None if activations is None else cut_model(two, activations)
        tokenizer = load_tokenizer(one.checkpoint.folder, trust_remote_code)
        starts = _starts(tokenizer, prompts)
        ids = evaluation_windows(one, tokenizer, str(text), seqlen, windows)
        tasks = ("Dense model", "Pruned model")
        ppl_one, ((ppl_two, kl),) = divergences(one, [two], ids, recipe.batch_tokens, reporter, tasks)
        reporter.start("Generating", 1)
        speeds, said, reason = _run_whole((one, two), activations, tokenizer, starts, new_tokens, trust_remote_code)
        reporter.step()
    finally:
        reporter.close()
    sides = [
        _side(str(name), source, ppl.value, speeds[k] if speeds else None, said[k] if said else None)
        for k, (name, source, ppl) in enumerate(((dense, one, ppl_one), (pruned, two, ppl_two)))
    ]
    return Comparison(sides[0], sides[1], kl.kl, kl.agreement, str(text), ppl_one.tokens, seqlen, list(prompts), reason,
                      None if cut is None else cut.use())  # fmt: skip


def _side(name: str, source: CheckpointSource, value: float, speed: float | None, said: list[str] | None) -> Side:
    checkpoint, counted = source.checkpoint, source.parameters_on_disk()
    nonzeros = sum(int(torch.count_nonzero(checkpoint.read(tensor))) for tensor in counted)
    parameters = sum(checkpoint.entry(tensor).nbytes // checkpoint.entry(tensor).dtype.itemsize for tensor in counted)
    memory = sum(checkpoint.entry(tensor).nbytes for tensor in counted)
    return Side(name, value, checkpoint.nbytes, memory, parameters, nonzeros, speed, said)


def _starts(tokenizer: Any, prompts: Sequence[str]) -> list[Tensor]:
    """The tokens ``[1 tokens]`` of every prompt."""
    found = [tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in prompts]
    faults = [f"the prompt {prompt!r} has no tokens" for prompt, ids in zip(prompts, found, strict=True) if not ids.numel()]
    if faults or not found:
        raise RecipeError(faults or ["no prompt is given, and one at least is to be continued"])
    return found


def _run_whole(pair: tuple[CheckpointSource, CheckpointSource], activations: str | Path | None, tokenizer: Any,
               starts: Sequence[Tensor], new_tokens: int,
               remote: bool) -> tuple[list[float] | None, list[list[str]] | None, str | None]:  # fmt: skip
    """Tokens a second and continuations of both models, or the reason why not."""
    one, two = pair
    needed = 2 * (one.checkpoint.nbytes + two.checkpoint.nbytes)
    if needed > available_memory_bytes(one.device):
        return None, None, f"speed and continuations: both models need {needed / 1e9:.1f} GB of memory"
    if activations is not None and one.device.type != "cpu":
        return None, None, "speed and continuations: columns are skipped on the CPU alone"
    files = (None, activations)
    models = [_whole(source, file, remote, one.device).to(one.device) for source, file in zip(pair, files, strict=True)]
    ids = [prompt.to(one.device) for prompt in starts]
    said = [[tokenizer.decode(generate(model, prompt, new_tokens)) for prompt in ids] for model in models]
    return decode_speeds(models, ids[0], new_tokens, repeats=5), said, None


def _whole(source: CheckpointSource, activations: str | Path | None, remote: bool, device: torch.device) -> Any:
    """The model in memory as its user would run it: a packed one stays packed, one with thresholds skips columns."""
    if source.checkpoint.packed or activations is not None:
        how = RunsOn(device=device, activations=None if activations is None else Path(activations))
        return load_ready(source.checkpoint.folder, how, Silent(), remote)[0].model
    return load_whole(source.checkpoint.folder, source.model.dtype, remote)[0]
