"""Columns that small activations leave unread: what that costs SmolLM2-135M, and what it gains, whole and layer by layer.

    python benchmarks/activations.py layers [THREADS]
    python benchmarks/activations.py quality FOLDER
    python benchmarks/activations.py decoding FOLDER [THREADS …]

``layers``: one token through a layer at several levels, beside torch and prunus's own dense kernels in the same run, each
on as many copies as go beyond any cache. ``of_floor`` is the time that reading the active columns takes, by all threads in
several streams, over the way's own. The others are of SmolLM2-135M: thresholds are found on 32 windows × 256 tokens of the
Factbook and kept in FOLDER. ``quality`` is on 16 windows of 256 tokens of its held-out documents and of *Persuasion*, every
token but a window's first cut (at 50% also with the first half of every window left dense, as in the paper). ``decoding``
is greedy, behind a prompt of 32 tokens of the held-out text, all models in turns in one process.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import prunus
from kernels import COLD, SHAPES, Way, measure, packed_way, torch_ways
from prunus.checkpoint.thresholds_file import read_thresholds
from prunus.core.progress import Silent
from prunus.models.locate import locate
from prunus.models.thresholding import CutModel
from prunus.models.tokens import load_tokenizer
from prunus.observe.text import read_text
from prunus.recipe import Recipe
from prunus.runtime.arranged import Arranged, arrange, by_column, dense_by_column
from prunus.runtime.decode import Decoded, decode
from prunus.runtime.library import Kernels, kernels
from prunus.runtime.ready import RunsOn, load_ready
from prunus.runtime.skipping import Phase, SkippingLinear
from prunus.runtime.ways import bytes_a_token
from prunus.storage.dense import Dense
from prunus.storage.packed import PackedWeight
from prunus.storage.values import Values
from prunus.stream.evaluate import divergences
from prunus.stream.sources import CheckpointSource
from prunus.verbs.prepare import evaluation_windows, open_model
from quality import MODEL, TEXTS
from rows import Rows

LEVELS = (0.0, 0.25, 0.5, 0.75)
KINDS = ("float32", "bfloat16", "int8")
SPARSITIES = (0.25, 0.4, 0.5)
ALLOCATIONS = ("uniform", "greedy")
SEQLEN, SAMPLES, WINDOWS = 256, 32, 16
PROMPT, NEW, REPEATS = 32, 24, 7
FILE = Path(__file__).parent / "rows" / "activations.jsonl"


def skipping_way(found: Kernels, rows: int, cols: int, kind: str, level: float) -> Way:
    """Copies of one layer by column, and a token of which a share ``level`` is small."""
    weight = torch.randn(rows, cols)
    one: Arranged | None = by_column(weight)
    if kind != "float32":
        packed = arrange(PackedWeight.of(weight, Dense(), Values(kind)))
        assert packed is not None
        one = dense_by_column(packed)
    assert one is not None
    token = torch.where(torch.rand(1, cols) < level, torch.zeros(()), torch.ones(()))
    phase = Phase(torch.nn.Identity())
    phase.prompt = False
    calls: list[Callable[[Tensor], Any]] = []
    for _ in range(max(2, round(COLD / one.nbytes))):
        copy = Arranged(one.layout, rows, cols, 0, {name: tensor.clone() for name, tensor in one.tensors.items()})
        layer = SkippingLinear(copy, None, found, 0.5, phase)
        calls.append(lambda _x, layer=layer: layer(token))  # type: ignore[misc]
    return Way(calls, round(one.nbytes * float(token.mean())))


def layers(threads: int) -> None:
    """Every shape and kind of value."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    found = kernels()
    assert found is not None
    for shape in SHAPES:
        rows, cols = map(int, shape.split("x"))
        dense = torch_ways(rows, cols)
        dense |= {f"dense {kind}, ours": packed_way(found, rows, cols, Dense(), Values(kind), 0.0) for kind in KINDS[1:]}
        own = {"float32": "torch float32", "bfloat16": "dense bfloat16, ours", "int8": "dense int8, ours"}
        room = torch.zeros(int(COLD), dtype=torch.uint8)
        reading = Way([lambda _x, room=room: found.read(room)], room.nbytes)  # type: ignore[misc]
        for kind in KINDS:
            ways = {(kind, level): skipping_way(found, rows, cols, kind, level) for level in LEVELS}
            plain = dense if kind == "int8" else {name: dense[name] for name in {"torch float32", own[kind]}}
            for way in (*plain.values(), reading):
                way.seconds.clear()
            named = {f"{kind}, {level:.0%} skipped": way for (_, level), way in ways.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                measure({**plain, **named, "read": reading}, torch.randn(1, cols))
            bandwidth = room.nbytes / median(reading.seconds)
            for name, way in {**plain, **named}.items():
                seconds = median(way.seconds)
                Rows(FILE).add(
                    benchmark="layer", way=name, beside=kind, rows=rows, cols=cols, threads=threads, kernels=found.name,
                    ms=round(1e3 * seconds, 4), ms_min=round(1e3 * min(way.seconds), 4),
                    ms_max=round(1e3 * max(way.seconds), 4),
                    over_torch_float32=round(median(plain["torch float32"].seconds) / seconds, 2),
                    over_dense=round(median(plain[own[kind]].seconds) / seconds, 2), dense=own[kind],
                    read_mb=round(way.nbytes / 1e6, 2), bandwidth_gb_s=round(bandwidth / 1e9, 1),
                    of_floor=round(way.nbytes / bandwidth / seconds, 3),
                )  # fmt: skip
            del ways, named


def found_thresholds(place: Path) -> dict[tuple[float, str], Path]:
    """The files of thresholds, made if they are not there yet."""
    place.mkdir(exist_ok=True)
    files = {}
    for sparsity in SPARSITIES:
        for allocation in ALLOCATIONS:
            file = place / f"{allocation}-{sparsity:g}.json"
            if not file.exists():
                prunus.threshold(MODEL, file, sparsity=sparsity, allocation=allocation, samples=SAMPLES, seqlen=SEQLEN,
                                 eval_windows=0)  # fmt: skip
            files[sparsity, allocation] = file
    return files


def cut(source: CheckpointSource, file: Path, dense_tokens: int) -> CutModel:
    """A source that computes with the thresholds in a file, so many tokens of every window left as they are."""
    thresholds = replace(read_thresholds(file), dense_tokens=dense_tokens)
    return CutModel({source.prefix(index): block for index, block in enumerate(source.blocks)}, thresholds, str(file))


def judge(files: dict[tuple[float, str], Path]) -> None:
    """Perplexity, divergence and bytes on both texts."""
    recipe = Recipe.of({"seqlen": SEQLEN})
    trials = [(sparsity, allocation, 1) for sparsity, allocation in files]
    trials += [(0.5, allocation, SEQLEN // 2) for allocation in ALLOCATIONS]  # as the paper judges
    for name, text in TEXTS.items():
        dense = open_model(MODEL, recipe)
        windows = evaluation_windows(dense, load_tokenizer(dense.checkpoint.folder), text, SEQLEN, WINDOWS)
        sources = [open_model(MODEL, recipe) for _ in trials]
        cuts = [cut(source, files[trial[:2]], trial[2]) for source, trial in zip(sources, trials, strict=True)]
        plain, found = divergences(dense, sources, windows, recipe.batch_tokens, Silent(), [""] * (1 + len(trials)))
        for (sparsity, allocation, _), cut_one, (perplexity, far) in zip(trials, cuts, found, strict=True):
            use = cut_one.use()
            shares = [one.sparsity for one in use.inputs]
            Rows(FILE).add(
                benchmark="quality", model=MODEL, text=name, sparsity=sparsity, allocation=allocation,
                tokens=perplexity.tokens, seqlen=SEQLEN, dense_tokens=use.dense_tokens,
                dense_perplexity=round(plain.value, 4), perplexity=round(perplexity.value, 4), kl=round(far.kl, 4),
                agreement=round(far.agreement, 4), measured_sparsity=round(use.sparsity, 4),
                least_sparsity=round(min(shares), 4), most_sparsity=round(max(shares), 4),
                block_weight_mb=round(use.weight_bytes / 1e6, 1), not_read_mb=round(use.bytes_not_read / 1e6, 1),
                calibrated={"samples": SAMPLES, "seqlen": SEQLEN},
            )  # fmt: skip


def race(files: dict[tuple[float, str], Path], threads: int) -> None:
    """Tokens a second, in turns."""
    torch.set_num_threads(threads)
    folder = locate(MODEL)
    found = kernels()
    assert found is not None
    ids = load_tokenizer(folder)(read_text("factbook-heldout")[:2000], return_tensors="pt")["input_ids"][:, :PROMPT]  # type: ignore[operator]
    models: dict[str, Any] = {"dense": load_ready(folder, RunsOn("packed"), Silent())[0].model}
    for (sparsity, allocation), file in files.items():
        how = RunsOn("fastest", activations=file)
        models[f"{allocation} {sparsity:.0%}"] = load_ready(folder, how, Silent())[0].model
    runs: dict[str, list[Decoded]] = {name: [] for name in models}
    room, reading = torch.zeros(int(COLD), dtype=torch.uint8), list[float]()
    for turn in range(REPEATS + 1):
        order = list(models)
        random.shuffle(order)
        for name in order:
            decoded = decode(models[name], ids, NEW)
            runs[name] += [decoded] if turn else []
        start = perf_counter()
        found.read(room)
        reading.append(perf_counter() - start)
    bandwidth = room.nbytes / median(reading)
    steps = {name: [median(one.step_seconds) for one in found_runs] for name, found_runs in runs.items()}
    for name, model in models.items():
        seconds, nbytes = median(steps[name]), bytes_a_token(model)
        Rows(FILE).add(
            benchmark="decoding", model=MODEL, way=name, threads=threads, kernels=found.name, prompt_tokens=PROMPT,
            new_tokens=NEW, repeats=REPEATS, tokens_per_second=round(1 / seconds, 2), least=round(1 / max(steps[name]), 2),
            most=round(1 / min(steps[name]), 2), over_dense=round(median(steps["dense"]) / seconds, 3),
            layers_skipping=sum(isinstance(module, SkippingLinear) for module in model.modules()),
            read_mb=round(nbytes / 1e6, 1), bandwidth_gb_s=round(bandwidth / 1e9, 1),
            of_floor=round(nbytes / bandwidth / seconds, 3),
        )  # fmt: skip


def main() -> None:
    """What the command line says."""
    words = sys.argv[1:]
    if words[:1] == ["layers"]:
        layers(int(words[1]) if len(words) > 1 else 1)
    elif words[:1] == ["quality"] and len(words) == 2:
        judge(found_thresholds(Path(words[1])))
    elif words[:1] == ["decoding"] and len(words) > 1:
        files = found_thresholds(Path(words[1]))
        for threads in map(int, words[2:] or ("1", "2")):
            race(files, threads)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
