"""Columns that are skipped: every kernel of every instruction set against dense, and a model that decodes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_kernels import levels
from torch import Tensor

import prunus
from prunus.checkpoint.thresholds_file import read_thresholds
from prunus.core.progress import Silent
from prunus.models.thresholding import CutInputs
from prunus.runtime.arranged import Arranged, arrange, by_column, dense_by_column
from prunus.runtime.decode import decode
from prunus.runtime.library import kernels
from prunus.runtime.linear import PackedLinear
from prunus.runtime.peak import Run
from prunus.runtime.ready import RunsOn, load_ready
from prunus.runtime.skipping import Phase, SkippingLinear
from prunus.runtime.ways import bytes_a_token, float32
from prunus.storage.dense import Dense
from prunus.storage.packed import PackedWeight
from prunus.storage.values import Values
from tiny import model_of

SHAPES = ((1, 1), (3, 64), (37, 100), (64, 576), (129, 1028), (4200, 9), (700, 17))
KINDS = ("float32", "bfloat16", "int8")


def stored(rows: int, cols: int, kind: str, dtype: torch.dtype = torch.float32) -> tuple[Arranged, Tensor]:
    """A random matrix by column, and as it is in fp32."""
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(rows + cols)).to(dtype)
    if kind == "float32":
        return by_column(weight), weight
    arranged = arrange(packed := PackedWeight.of(weight, Dense(), Values(kind)))
    assert arranged is not None
    turned = dense_by_column(arranged)
    assert turned is not None
    return turned, packed.unpack().float() if kind == "bfloat16" else packed.codes.view(rows, cols) * packed.scales.float()


def skipping(
    arranged: Arranged, level, threshold: float, prompt: bool = False, bias: Tensor | None = None
) -> SkippingLinear:
    phase = Phase(torch.nn.Identity())
    phase.prompt = prompt
    return SkippingLinear(arranged, bias, level, threshold, phase)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.3, 100.0])
def test_skipping_equals_dense_on_cut_inputs(kind: str, threshold: float) -> None:
    for rows, cols in SHAPES:
        arranged, dense = stored(rows, cols, kind)
        assert torch.equal(skipping(arranged, kernels(), threshold).weight_dense(), dense)
        for tokens in (1, 2, 3, 4, 7, 8, 9, 20):
            x = torch.randn(tokens, cols, generator=torch.Generator().manual_seed(tokens))
            x[:, ::3] = 0.5  # some entries at a threshold: they count as zero
            cut = torch.where(x.abs() > threshold, x, torch.zeros(()))
            wanted = cut.double() @ dense.double().T
            most = cut.double().abs().sum(1, keepdim=True) * dense.double().abs().amax(1)
            for level in levels():
                layer = skipping(arranged, level, threshold)
                off = ((layer(x) - wanted).abs() / most.clamp_min(1e-30)).max()
                assert off < 1e-6, (level.name, rows, cols, tokens)
                read = int((cut != 0).any(0).sum())
                assert (layer.columns_read, layer.calls) == ((read, 1) if tokens <= 8 else (0, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_computed_dense(kind: str) -> None:
    arranged, dense = stored(37, 1100, kind)
    bias = torch.randn(37)
    for tokens in (0, 1, 5, 40):
        x = torch.randn(2, tokens, 1100)
        layer = skipping(arranged, kernels(), 0.7, prompt=True, bias=bias)
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, dense, bias), rtol=1e-4, atol=1e-3)
        assert layer.calls == 0
    with pytest.raises(ValueError, match="a layer of 1100 inputs"):
        layer(x[..., :99])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_skipped(bad: float) -> None:
    for kind in KINDS:
        arranged, dense = stored(100, 64, kind)
        x = torch.full((1, 64), 0.1)
        x[0, 5] = bad
        for level in levels():
            layer = skipping(arranged, level, 0.5)
            assert not torch.isfinite(layer(x))[0, dense[:, 5] != 0].any()
            assert layer.columns_read == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_codes_keep_the_scales_of_the_checkpoint(dtype: torch.dtype) -> None:
    arranged, dense = stored(70, 130, "int8", dtype)
    x = torch.randn(1, 130)
    for level in levels():
        torch.testing.assert_close(skipping(arranged, level, -1.0)(x), x @ dense.T, rtol=1e-4, atol=1e-4)


def test_threads_do_not_change_a_bit() -> None:
    arranged, _ = stored(4200, 300, "float32")
    x, before = torch.randn(1, 300), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(skipping(arranged, kernels(), 0.3)(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_stays_as_it_is_packed() -> None:
    weight = torch.randn(8, 128)
    for values in (Values("int4", 64), Values("int8", 64)):
        arranged = arrange(PackedWeight.of(weight, Dense(), values))
        assert arranged is not None
        assert dense_by_column(arranged) is None


@pytest.fixture(scope="module", params=["llama", "gpt2", "opt"])
def thresholds(request, checkpoint, quick, tmp_path_factory) -> tuple[Path, Path]:
    """A model's folder and its thresholds."""
    folder, file = checkpoint(request.param), tmp_path_factory.mktemp("thresholds") / "thresholds.json"
    prunus.threshold(folder, file, sparsity=0.5, **{**quick, "eval_windows": 0})
    return folder, file


def test_decoding_equals_a_window_whose_inputs_are_cut_behind_the_prompt(thresholds) -> None:
    folder, file = thresholds
    loaded, choices = load_ready(folder, RunsOn("packed", activations=file), Silent())
    assert not choices
    assert all(how == "by column float32" for path, how in loaded.layers.items() if ".0." in path)
    ids = torch.randint(2, 500, (2, 7), generator=torch.Generator().manual_seed(1))
    found = decode(loaded.model, ids, 6).ids
    whole = torch.cat((ids, found), dim=1)
    model = model_of(folder.name)
    inputs = read_thresholds(file).inputs
    layers = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    prefix = next(name for name, module in model.named_modules() if module is layers[0])
    blocks = {f"{prefix}.{k}": block for k, block in enumerate(layers[0])}
    with CutInputs(blocks, [(tuple(one.layers), one.threshold) for one in inputs], dense_tokens=7), torch.no_grad():
        logits = model(input_ids=whole, use_cache=False).logits
    assert torch.equal(logits[:, 6:-1].argmax(-1), found)


def test_a_prompt_of_one_token_is_a_prompt(thresholds) -> None:
    folder, file = thresholds
    loaded, _ = load_ready(folder, RunsOn("packed", activations=file), Silent())
    with torch.no_grad():
        found = loaded.model(torch.tensor([[5]]), use_cache=True).logits
        wanted = model_of(folder.name)(torch.tensor([[5]])).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_bytes_of_a_token_are_those_of_the_columns_that_were_read(thresholds) -> None:
    folder, file = thresholds
    loaded, _ = load_ready(folder, RunsOn("packed", activations=file), Silent())
    layers = [module for module in loaded.model.modules() if isinstance(module, SkippingLinear)]
    inside = sum(4 * layer.in_features * layer.out_features for layer in layers)
    before = bytes_a_token(loaded.model)
    decode(loaded.model, torch.tensor([[5, 9, 8, 7, 3]]), 8)
    after = bytes_a_token(loaded.model)
    assert 0.3 * inside < before - after < 0.7 * inside
    assert bytes_a_token(float32(loaded.model)) == before
    assert not any(isinstance(module, SkippingLinear) for module in float32(loaded.model).modules())


def test_layers_are_skipped_or_dense_as_measured(thresholds) -> None:
    folder, file = thresholds
    loaded, choices = load_ready(folder, RunsOn("fastest", activations=file), Silent())
    assert choices
    kept = sum(choice.layers for choice in choices if choice.keeps_packed)
    assert kept == sum(isinstance(module, SkippingLinear) for module in loaded.model.modules())
    assert sum(choice.layers for choice in choices) == sum(len(one.layers) for one in read_thresholds(file).inputs)
    assert all("50% skipped" in choice.layout for choice in choices)


def test_a_checkpoint_in_bf16_is_kept_in_bf16(checkpoint, quick, tmp_path) -> None:
    folder, file = checkpoint("llama", torch.bfloat16), tmp_path / "thresholds.json"
    prunus.threshold(folder, file, **{**quick, "eval_windows": 0})
    loaded, _ = load_ready(folder, RunsOn("packed", activations=file), Silent())
    layer = next(module for module in loaded.model.modules() if isinstance(module, SkippingLinear))
    assert layer.arranged.layout == "by column bfloat16"
    assert torch.equal(
        layer.weight_dense(), model_of("llama", torch.bfloat16).model.layers[0].self_attn.q_proj.weight.float()
    )


@pytest.mark.parametrize("storage", ["dense", "bitmask"])
def test_packed_models(storage: str, checkpoint, quick, tmp_path) -> None:
    """Dense codes skip columns; a model whose weights are sparse already is refused."""
    folder, file = tmp_path / "packed", tmp_path / "thresholds.json"
    prunus.prune(checkpoint("llama"), tmp_path / "pruned", method="magnitude", **{**quick, "eval_windows": 0})
    prunus.pack(tmp_path / "pruned", folder, storage=storage, values="int8")
    prunus.threshold(folder, file, **{**quick, "eval_windows": 0})
    if storage == "bitmask":
        with pytest.raises(prunus.PrunusError, match=r"bitmask int8; 21 such layers.*prunus unpack"):
            load_ready(folder, RunsOn("packed", activations=file), Silent())
        return
    loaded, _ = load_ready(folder, RunsOn("packed", activations=file), Silent())
    other, _ = load_ready(folder, RunsOn("packed"), Silent())
    path = "model.layers.1.mlp.down_proj"
    one, packed = loaded.model.get_submodule(path), other.model.get_submodule(path)
    assert isinstance(packed, PackedLinear)
    assert one.arranged.layout == "by column int8"
    assert torch.equal(one.weight_dense(), packed.weight_dense())


def test_what_is_refused(checkpoint, quick, tmp_path, monkeypatch) -> None:
    folder, file = checkpoint("llama"), tmp_path / "thresholds.json"
    prunus.threshold(folder, file, **{**quick, "eval_windows": 0})
    with pytest.raises(prunus.PrunusError, match="at most 8 prompts at once, and 9"):
        prunus.generate(folder, ["a"] * 9, activations=file)
    with pytest.raises(prunus.PrunusError, match="batch is 9"):
        prunus.bench(folder, batch=9, activations=file)
    with pytest.raises(prunus.PrunusError, match="on the CPU alone"):
        load_ready(folder, RunsOn(device=torch.device("meta"), activations=file), Silent())
    monkeypatch.setattr("prunus.runtime.skip.kernels", lambda: None)
    with pytest.raises(prunus.PrunusError, match="there are none here"):
        prunus.generate(folder, ["a"], activations=file)


def test_generating_and_benching_with_thresholds(checkpoint, quick, tmp_path, monkeypatch) -> None:
    folder, file = checkpoint("llama"), tmp_path / "thresholds.json"
    prunus.threshold(folder, file, **{**quick, "eval_windows": 0})
    said = prunus.generate(folder, ["The economy", "A river of"], new_tokens=4, activations=file, keep="packed")
    assert said.packed_layers == 21
    runs: list[Run] = []
    monkeypatch.setattr("prunus.verbs.bench.memory_of", runs.append)  # it starts a process for each
    found = prunus.bench(
        folder, ways=["float32"], prompt_tokens=5, new_tokens=4, repeats=1, activations=file, keep="packed", threads=1
    )
    skipped, dense = found.ways
    assert (skipped.name, dense.name) == ("skipping", "float32")
    assert 0 < skipped.weight_bytes < dense.weight_bytes
    assert {run.activations for run in runs} == {str(file)}
    assert isinstance(prunus.load(folder, activations=file, keep="packed").model.layers[0].mlp.up_proj, SkippingLinear)
