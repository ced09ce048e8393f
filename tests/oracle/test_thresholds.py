"""Activation thresholds against plain quantiles, enumeration and a plain model with its inputs cut by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

import prunus
from prunus.activations.greedy import MOST, greedy_levels
from prunus.activations.quantiles import Histogram, Quantiles
from prunus.checkpoint.thresholds_file import read_thresholds
from prunus.core.errors import NumericalError
from prunus.core.progress import Silent
from prunus.core.sparsity import zeros
from prunus.measure.quality import Perplexity
from prunus.models.tokens import load_tokenizer
from prunus.observe.text import read_text
from prunus.observe.windows import consecutive_windows, random_windows
from prunus.stream.evaluate import open_source
from prunus.stream.sources import MemorySource
from prunus.stream.thresholds import Wanted, cut_sites, find_thresholds
from prunus.stream.trunk import Limits
from tiny import model_of

LEVELS = (0.0, 0.001, 0.1, 0.25, 0.4999, 0.5, 0.75, 0.99, 1.0)
LIMITS = Limits(256, 1 << 30)


def plain_quantile(values: Tensor, level: float) -> float:
    rank = zeros(values.numel(), level)
    return float(values.float().abs().flatten().sort().values[rank - 1]) if rank else 0.0


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "subnormal", "bfloat16", "one"])
def test_quantiles_equal_those_of_the_sorted_values(kind: str) -> None:
    values = torch.randn(7, 31, 5) * 3
    if kind == "ties":
        values = (values * 2).round() / 2
    if kind == "zeros":
        values = values.relu() * -1.0
    if kind == "subnormal":
        values = values * 1e-40
    if kind == "bfloat16":
        values = values.bfloat16()
    if kind == "one":
        values = values[:1, :1, :1]
    histogram = Histogram()
    for part in values:
        histogram.add(part)
    found = Quantiles(histogram, LEVELS)
    for part in values:
        found.add(part)
    assert found.thresholds() == [plain_quantile(values, level) for level in LEVELS]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_has_no_quantile(bad: float) -> None:
    with pytest.raises(NumericalError, match="NaN or Inf"):
        Histogram().add(torch.tensor([1.0, bad]))


def test_greedy_levels_are_the_best_where_costs_are_convex_and_apart() -> None:
    """Among all ways to share the same number of equal raises, found by trying them all."""
    sizes, costs = {"a": 6, "b": 3, "c": 1}, {"a": 2.0, "b": 0.7, "c": 5.0}
    raises = {name: 0.05 * 10 / size for name, size in sizes.items()}

    def error(levels: dict[str, float]) -> float:
        return sum(costs[name] * sizes[name] * level**3 for name, level in levels.items())

    found = greedy_levels(sizes, 0.4, 0.05, error)
    shared = [dict(zip(sizes, counts, strict=True)) for counts in itertools.product(range(9), repeat=3) if sum(counts) == 8]
    trials = [{name: count * raises[name] for name, count in counts.items()} for counts in shared]
    best = min((trial for trial in trials if max(trial.values()) <= MOST), key=error)
    assert found == pytest.approx(best)


@pytest.mark.parametrize("sparsity", [0.1, 0.33, 0.9, MOST])
def test_greedy_levels_meet_the_share_of_bytes_exactly(sparsity: float) -> None:
    sizes = {"a": 1000, "b": 10, "c": 333}
    found = greedy_levels(sizes, sparsity, 0.07, lambda levels: sum(level**2 for level in levels.values()))
    assert sum(sizes[name] * level for name, level in found.items()) == pytest.approx(sparsity * 1343)
    assert max(found.values()) <= MOST + 1e-9


def by_hand(model, thresholds: dict[str, float], dense_tokens: int, seen: dict[str, list[Tensor]]) -> list:
    """Hooks on a plain model: inputs are kept, and cut where there is a threshold."""

    def hook(name: str):
        def cut(module, args):
            x = args[0] if args[0].dim() > 2 else args[0].unflatten(0, (WINDOWS, -1))
            seen[name].append(x[..., dense_tokens:, :].detach().clone())
            limit = thresholds.get(name, -1.0)
            keep = (x.abs() > limit) | (torch.arange(x.shape[-2]) < dense_tokens)[:, None]
            return ((x * keep).view(args[0].shape),)

        return cut

    inside = [(name, module) for name, module in model.named_modules() if ".0." in name or ".1." in name or ".2." in name]
    kinds = (torch.nn.Linear, Conv1D)
    return [module.register_forward_pre_hook(hook(name)) for name, module in inside if isinstance(module, kinds)]


WINDOWS = 3


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon", "deepseek_v3"])
def test_thresholds_are_the_quantiles_of_what_cut_blocks_before_leave(family: str) -> None:
    model = model_of(family)
    ids = torch.randint(2, 500, (WINDOWS, 24), generator=torch.Generator().manual_seed(3))
    source = MemorySource(model, torch.device("cpu"))
    sites, left = cut_sites(source, ids)
    assert bool(left) == (family == "deepseek_v3")  # its experts
    found = find_thresholds(source, sites, ids, Wanted(0.4, None, 2), LIMITS, Silent())
    assert {layer for one in found for layer in one.layers} == {site.name for site in sites}
    known: dict[str, float] = {}
    for index in range(3):
        seen: dict[str, list[Tensor]] = defaultdict(list)
        handles = by_hand(model, known, 2, seen)
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
        for handle in handles:
            handle.remove()
        for one in found:
            if f".{index}." in one.name:
                assert one.threshold == pytest.approx(plain_quantile(torch.cat(seen[one.name]), 0.4), rel=1e-4), one.name
                assert all(torch.equal(seen[one.name][0], seen[layer][0]) for layer in one.layers)
                known |= dict.fromkeys(one.layers, one.threshold)
                assert one.level == 0.4


def test_greedy_thresholds_do_less_harm_for_the_same_bytes() -> None:
    model = model_of("llama")
    ids = torch.randint(2, 500, (6, 32), generator=torch.Generator().manual_seed(3))
    source = MemorySource(model, torch.device("cpu"))
    sites, _ = cut_sites(source, ids)
    with torch.no_grad():
        dense = model.model.layers[0](model.model.embed_tokens(ids), position_embeddings=_rotary(model, ids))
    error = []
    for step in (None, 0.05):
        found = find_thresholds(source, sites, ids, Wanted(0.5, step, 1), LIMITS, Silent())
        first = [one for one in found if ".0." in one.name]
        assert sum(one.level * one.nbytes for one in first) == pytest.approx(0.5 * sum(one.nbytes for one in first))
        known = {layer: one.threshold for one in first for layer in one.layers}
        handles = by_hand(model, known, 1, defaultdict(list))
        with torch.no_grad():
            after = model.model.layers[0](model.model.embed_tokens(ids), position_embeddings=_rotary(model, ids))
        for handle in handles:
            handle.remove()
        error.append(float((after - dense).square().sum()))
    assert error[1] < 0.9 * error[0]


def _rotary(model, ids: Tensor):
    places = torch.arange(ids.shape[1])[None]
    return model.model.rotary_emb(model.model.embed_tokens(ids), places)


@pytest.fixture(scope="module")
def settings(quick) -> dict[str, object]:
    return {**quick, "sparsity": 0.5}


@pytest.mark.parametrize("family", ["llama", "opt", "mixtral"])
def test_streamed_quality_equals_that_of_a_plain_model_cut_by_hand(
    family, checkpoint, settings, text_file, tmp_path
) -> None:
    folder, file = checkpoint(family), tmp_path / "thresholds.json"
    result = prunus.threshold(folder, file, **settings)
    assert bool(result.left_dense) == (family == "mixtral")
    assert all("expert" in name or "gate" in name for name in result.left_dense)
    found = prunus.evaluate(folder, text_file, seqlen=64, windows=WINDOWS, activations=file)
    ids = load_tokenizer(folder)(read_text(str(text_file)), return_tensors="pt")["input_ids"][0]
    windows = consecutive_windows(ids, 64, "", WINDOWS)
    model = model_of(family)
    thresholds = read_thresholds(file)
    known = {layer: one.threshold for one in thresholds.inputs for layer in one.layers}
    seen: dict[str, list[Tensor]] = defaultdict(list)
    by_hand(model, known, 1, seen)
    plain = Perplexity()
    with torch.no_grad():
        plain.add(model(input_ids=windows, use_cache=False).logits, windows)
    assert found.perplexity == pytest.approx(plain.value, rel=1e-4)
    assert found.activations is not None
    unread = 0.0
    for one, used in zip(thresholds.inputs, found.activations.inputs, strict=True):
        share = float((torch.cat(seen[one.name]).abs() <= one.threshold).float().mean())
        assert used.sparsity == pytest.approx(share, abs=1e-3)
        unread += share * one.nbytes
    assert found.activations.bytes_not_read == pytest.approx(unread, rel=1e-3)
    assert abs(found.activations.sparsity - 0.5) < 0.06
    assert found.perplexity != prunus.evaluate(folder, text_file, seqlen=64, windows=WINDOWS).perplexity


def test_the_file_says_what_it_is_and_how_it_was_found(checkpoint, settings, tmp_path) -> None:
    folder, file = checkpoint("llama"), tmp_path / "thresholds.json"
    result = prunus.threshold(folder, file, allocation="greedy", step=0.1, **settings)
    content = json.loads(file.read_text())
    assert content["what"] == "prunus activation thresholds"
    assert content["recipe"]["allocation"] == "greedy"
    assert content["calibration"]["tokens"] == 8 * 64
    held = content["held_out"]
    assert result.held_out is not None
    assert held["perplexity"] == result.held_out.perplexity != held["dense_perplexity"]
    assert 0 < held["bytes_not_read"] < held["weight_bytes"] == sum(one["bytes"] for one in content["inputs"])
    shares = sum(one["held_out_sparsity"] * one["bytes"] for one in content["inputs"]) / held["weight_bytes"]
    assert shares == pytest.approx(held["sparsity"])
    compared = prunus.compare(
        folder, folder, text=settings["eval_text"], seqlen=64, windows=2, activations=file, quality_only=True
    )
    assert compared.pruned.perplexity.value == held["perplexity"]
    assert compared.pruned.kl.value == held["kl"]
    assert compared.dense.perplexity.value == held["dense_perplexity"]
    assert compared.activations is not None


def test_a_checkpoint_and_the_same_model_in_memory_have_the_same_thresholds(checkpoint, settings, tmp_path) -> None:
    folder, file = checkpoint("llama"), tmp_path / "thresholds.json"
    prunus.threshold(folder, file, **{**settings, "eval_windows": 0})
    source = open_source(folder, torch.float32, torch.device("cpu"))
    ids = load_tokenizer(folder)(read_text(str(settings["calibration"])), return_tensors="pt")["input_ids"][0]
    windows = random_windows(ids, 8, 64, 0, "")
    memory = MemorySource(model_of("llama"), torch.device("cpu"))
    sites, _ = cut_sites(memory, windows)
    found = find_thresholds(memory, sites, windows, Wanted(0.5, None, 1), Limits(4096, 1 << 30), Silent())
    stored = read_thresholds(file)
    assert stored.fingerprint == source.checkpoint.fingerprint
    assert tuple(found) == stored.inputs


def changed(file: Path, **values: object) -> Path:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return file


def test_what_thresholds_are_refused_for(checkpoint, settings, quick, tmp_path) -> None:
    folder, file = checkpoint("llama"), tmp_path / "thresholds.json"
    settings = {**settings, "eval_windows": 0}
    prunus.threshold(folder, file, **settings)
    whole = file.read_text()
    with pytest.raises(prunus.PrunusError, match="exists already"):
        prunus.threshold(folder, file, **settings)
    for name in ("model.safetensors", "config.json"):
        before = (folder / name).read_bytes()
        with pytest.raises(prunus.PrunusError, match="holds no thresholds, so it is not replaced"):
            prunus.threshold(folder, folder / name, **settings, overwrite=True)
        assert (folder / name).read_bytes() == before
    told = json.loads(whole)["inputs"]
    for inputs in ([{**told[0], "bytes": 0}], [told[0], told[0]]):
        with pytest.raises(prunus.PrunusError, match="damaged activation thresholds"):
            prunus.evaluate(folder, seqlen=64, activations=changed(file, inputs=inputs))
    file.write_text(whole)
    with pytest.raises(prunus.PrunusError, match="no such layer"):
        prunus.evaluate(checkpoint("gpt2"), seqlen=64, activations=file)
    with pytest.raises(prunus.PrunusError, match="other weights of the same shapes"):
        prunus.evaluate(folder, seqlen=64, activations=changed(file, fingerprint="0" * 64))
    cases = {
        "no file of activation thresholds": {"what": "a diary"},
        "this prunus reads 1": {"format": 99},
        "dense_tokens 0 is below 1": {"dense_tokens": 0},
        "'layers' is missing": {"inputs": [{}]},
        "threshold -1": {"inputs": [{"layers": {"a": [1, 1]}, "level": 0.5, "threshold": -1, "bytes": 4}]},
    }
    for words, values in cases.items():
        file.write_text(whole)
        with pytest.raises(prunus.PrunusError, match=words):
            prunus.evaluate(folder, seqlen=64, activations=changed(file, **values))
    with pytest.raises(prunus.PrunusError, match="cannot be read"):
        prunus.evaluate(folder, seqlen=64, activations=tmp_path / "nowhere.json")
    file.write_text(whole[:100])
    with pytest.raises(prunus.PrunusError, match="no file of activation thresholds"):
        prunus.compare(folder, folder, seqlen=64, activations=file)


def test_all_faults_of_a_recipe_are_told_at_once(tmp_path) -> None:
    with pytest.raises(prunus.PrunusError) as told:
        prunus.ThresholdRecipe.of({"sparsity": "2:4", "allocation": "owl", "step": 0, "dense_tokens": 0, "samples": 0})
    assert len(told.value.faults) == 5
    with pytest.raises(prunus.PrunusError, match="leaves nothing of windows of 64"):
        prunus.ThresholdRecipe.of({"seqlen": 64, "dense_tokens": 64})
    with pytest.raises(prunus.PrunusError, match="Make it, or choose another -o"):
        prunus.threshold("nothing", tmp_path / "nowhere" / "file.json")
