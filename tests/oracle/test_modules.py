"""Any torch module pruned on its data: what layers read, the Gram's error against the measured one, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import prunus
from nets import NETS, net_of
from prunus.core.errors import CalibrationError, NumericalError, RecipeError, UnsupportedModelError
from prunus.core.stats import Needs
from prunus.models.modules import module_sites
from prunus.observe.applied import Applied, AppliedObserver, applying
from prunus.observe.unfold import Unfolding

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "linear on sequences": (lambda: nn.Linear(6, 5, bias=False), (3, 7, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, padding="same", dilation=2), (3, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 4, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(4, 6, (1, 2, 3), padding=(0, 1, 0), bias=False), (2, 4, 3, 5, 6)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 8)),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2, dilation=2), (2, 6, 9, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, padding=1), (2, 6, 7, 8)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(3, 5, 4, padding=3), (2, 3, 7)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(6, 8, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2),
                                                 dilation=(2, 1), groups=2, bias=False), (2, 6, 4, 3)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2), (2, 2, 2, 3, 2)),
    "unbatched": (lambda: nn.Conv2d(4, 6, 3, bias=False), (4, 9, 8)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_times_the_matrix_are_what_the_layer_gives(kind) -> None:
    """The unfolding of inputs and the layout of weights, together, are the layer."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer, inputs = make(), torch.randn(shape)
    (site,) = module_sites(layer).sites
    seen: list[Tensor] = []
    with torch.no_grad(), applying({layer.weight: site}, lambda applied: seen.append(applied.rows())):
        wanted = layer(inputs)
        wanted = wanted - (layer.bias.view(-1, *[1] * (inputs.dim() - 2)) if site.layout.kernel and layer.bias is not None
                           else 0 if layer.bias is None else layer.bias)  # fmt: skip
        (rows,) = seen
        found = rows.flatten(1, 2) @ site.layout.to_matrix(layer.weight).mT  # [groups places rows]
    if site.layout.kernel:
        maps = wanted.unsqueeze(0) if wanted.dim() == len(site.layout.kernel) + 1 else wanted
        wanted = maps.flatten(2).unflatten(1, (site.layout.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    torch.testing.assert_close(found, wanted.reshape(found.shape), rtol=1e-4, atol=1e-5)
    assert torch.equal(site.layout.from_matrix(site.layout.to_matrix(layer.weight)), layer.weight)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_the_error_that_statistics_predict_is_the_one_that_is_measured(kind, method) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer, inputs = make(), [torch.randn(shape) for _ in range(3)]
    bias = layer.bias
    layer.bias = None
    dense = copy.deepcopy(layer)
    result = prunus.prune(layer, method=method, sparsity=0.5, data=inputs, solver=None if method == "wanda" else
                          "sparsegpt:damp=0.001")  # fmt: skip
    with torch.no_grad():
        lost = sum(float((layer(x) - dense(x)).square().sum()) for x in inputs)
        whole = sum(float(dense(x).square().sum()) for x in inputs)
    (record,) = result.sites
    assert record["rel_error"] == pytest.approx(lost / whole, rel=1e-3, abs=1e-6)
    assert result.sparsity == pytest.approx(0.5, abs=0.06)
    (mask,) = result.masks.values()
    assert mask.shape == layer.weight.shape
    assert not layer.weight.detach()[~mask].any()
    assert bias is None or layer.bias is None


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "balanced"])
@pytest.mark.parametrize("name", NETS)
def test_networks_are_pruned_whole(name, method) -> None:
    model, images = net_of(name)
    result = prunus.prune(model, method=method, sparsity=0.6, data=[images, images], skip_unsupported=True)
    assert result.sparsity == pytest.approx(0.6, abs=0.06)  # rows of few weights round down
    for parameter, mask in result.masks.items():
        assert not model.get_parameter(parameter).detach()[~mask].any()
    assert result.record["proof"]["sparsity"] == result.sparsity


class Attentive(nn.Module):
    """Attention as torch has it, whose matrices no module is called for."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x).mean(1))


def test_attention_is_looked_at_inside() -> None:
    torch.manual_seed(0)
    model, data = Attentive().eval(), [torch.randn(8, 5, 16) for _ in range(2)]
    result = prunus.prune(model, method="wanda", sparsity=0.5, data=data)
    assert {site["name"]: site["error_of"] for site in result.sites} == {
        "attention.self_attn.in_proj_weight": "sample", "attention.self_attn.out_proj": "sample",
        "attention.linear1": "sample", "attention.linear2": "sample", "head": "sample",
    }  # fmt: skip
    assert torch.backends.mha.get_fastpath_enabled()


def test_later_layers_are_solved_on_what_pruned_ones_give() -> None:
    """By hand: the second layer's least squares on the inputs that the pruned first one gives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4, bias=False))
    data = torch.randn(64, 8)
    dense = copy.deepcopy(model)
    prunus.prune(model, method="magnitude", sparsity=0.5, data=[data], solver="lstsq:damp=0")
    with torch.no_grad():
        inputs = model[:2](data)
    keep = model[2].weight != 0
    for row in range(4):
        columns = keep[row]
        best = torch.linalg.lstsq(inputs[:, columns], inputs @ dense[2].weight[row].detach()).solution
        torch.testing.assert_close(model[2].weight[row, columns].detach(), best, rtol=1e-3, atol=1e-4)


def test_aiming_at_the_dense_model_comes_nearer_to_it() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(24, 24), nn.Tanh())]
    dense, data = nn.Sequential(*layers), torch.randn(512, 24)
    found = {}
    for target in ("sparse", "dense"):
        model = copy.deepcopy(dense)
        prunus.prune(model, method="sparsegpt", sparsity=0.7, data=[data], target=target)
        found[target] = float((model(data) - dense(data)).detach().square().sum())
    assert found["dense"] < 0.95 * found["sparse"]


@pytest.mark.parametrize("settings", [
    {"allocation": "global"}, {"method": "wanda", "allocation": "owl"}, {"allocation": "alpha"},
    {"method": "wanda", "allocation": "sensitivity:tokens=64,spread=1"},
    {"method": "wanda", "allocation": "evolve:generations=2,tokens=96,spread=1"},
    {"criterion": "gradient", "allocation": "global"}, {"criterion": "ria"}, {"criterion": "random"},
    {"method": "wanda", "true_sequential": True}, {"solver": "admm"}, {"method": "sparsegpt", "grid": "int:group=0"},
    {"pattern": "block:height=2,width=2", "exclude": ["0"]}, {"sparsity": "2:4", "exclude": ["0"]}, {"set": ["0=dense"]},
], ids=str)  # fmt: skip
def test_every_axis(settings) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(),
                          nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 4))  # fmt: skip
    data = [(torch.randn(16, 3, 6, 6), torch.randint(0, 4, (16,))) for _ in range(3)]
    before = copy.deepcopy(model.state_dict())
    asked = {"method": "magnitude", "sparsity": 0.5, **settings}
    result = prunus.prune(
        model, data=data, loss=lambda net, batch: functional.cross_entropy(net(batch[0]), batch[1]), **asked
    )
    assert result.sparsity == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(model[5].weight, before["5.weight"])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_threshold_over_the_model_is_global_l1() -> None:
    """As the lab does it with torch.nn.utils.prune, groups of convolutions included."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(32, 5))
    theirs = copy.deepcopy(model)
    prunus.prune(model, method="magnitude", allocation="global", sparsity=0.7)
    layers = [(layer, "weight") for layer in theirs if hasattr(layer, "weight")]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.7)
    for one, other in zip(model, theirs, strict=True):
        if hasattr(one, "weight"):
            assert torch.equal(one.weight, other.weight)


def test_a_shared_layer_is_one_and_sees_all_its_inputs() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(6, 6, bias=False)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    data = torch.randn(32, 6)
    seen: list[Applied] = []
    (site,) = module_sites(model).sites
    observer = AppliedObserver({shared.weight: site}, Needs.NORM)
    observer.watch(lambda: model(data))
    ((_, stats),) = observer.result()
    inputs = torch.cat([data, torch.tanh(shared(data))]).detach()
    torch.testing.assert_close(stats.norm_sq()[0], inputs.square().sum(0))
    assert int(stats.tokens) == 64
    result = prunus.prune(model, method="wanda", sparsity=0.5, data=[data])
    assert len(result.sites) == 1
    assert not seen


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    result = prunus.prune(model, method="sparsegpt", sparsity=0.5, data=[torch.randn(32, 6)])
    assert model[2].weight is model[0].weight
    assert [site["name"] for site in result.sites] == ["0"]


def test_norms_take_their_statistics_anew_but_for_frozen_ones() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    data = [torch.randn(16, 3, 9, 9) + 1 for _ in range(4)]
    for batch in data:
        model(batch)
    model.train()
    model[4].eval()
    modes = [module.training for module in model.modules()]
    frozen = model[4].running_var.clone()
    prunus.prune(model, method="wanda", sparsity=0.6, data=data)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model[4].running_var, frozen)
    inputs = torch.cat([model[0](batch).detach() for batch in data])
    torch.testing.assert_close(model[1].running_mean, inputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    kept = model[1].running_mean.clone()
    prunus.prune(model, method="magnitude", sparsity=0.8, data=data, recalibrate=False)
    assert torch.equal(model[1].running_mean, kept)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4))


def parametrised() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


@pytest.mark.parametrize(("make", "told"), [
    (lazy, "0.weight: it has no shape yet. Run the model once"), (parametrised, "remove the parametrization first"),
    (pruned, r"prunus.Masks.from_torch\(model\)"), (lambda: nn.Linear(4, 4, device="meta"), "on the meta device"),
])  # fmt: skip
def test_what_cannot_be_pruned_is_refused(make, told) -> None:
    with pytest.raises(UnsupportedModelError, match=told):
        prunus.prune(make(), method="magnitude", sparsity=0.5)


def test_what_is_refused_may_be_left() -> None:
    result = prunus.prune(pruned(), method="magnitude", sparsity=0.5, skip_unsupported=True)
    assert [site["name"] for site in result.sites] == ["1"]
    assert "torch.nn.utils.prune" in result.record["plan"]["untouched"]["0.weight_orig"]


@pytest.mark.parametrize(("settings", "error", "told"), [
    ({"method": "wanda"}, RecipeError, "looks at inputs: give data="),
    ({"method": "magnitude", "criterion": "gradient", "data": [torch.ones(2, 4)]}, RecipeError, "give loss="),
    ({"method": "wanda", "data": []}, CalibrationError, "no batches"),
    ({"method": "wanda", "data": 3}, CalibrationError, "a int is no iterable"),
    ({"method": "wanda", "data": [torch.ones(2, 3)]}, CalibrationError, "does not run on the first batch"),
    ({"method": "wanda", "data": ["text"]}, CalibrationError, "a batch is a str without a tensor"),
    ({"method": "wanda", "data": [torch.full((2, 4), torch.nan)]}, NumericalError, "NaN or Inf"),
    ({"method": "wanda", "stage": ["match"], "data": [torch.ones(2, 4)]}, RecipeError, "stages work on the blocks"),
    ({"method": "wanda", "calibration": "factbook", "data": [torch.ones(2, 4)]}, RecipeError, "text for language models"),
    ({"method": "magnitude", "sparsity": "2:4", "include": ["1"]}, RecipeError, "1: "),
])  # fmt: skip
def test_wrong_settings_are_told(settings: dict[str, Any], error, told) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=told):
        prunus.prune(model, **{"sparsity": 0.5, **settings})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_failed_run_leaves_the_module_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    before = copy.deepcopy(model.state_dict())
    calls = 0

    def call(net: nn.Module, batch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return net(batch)

    with pytest.raises(KeyboardInterrupt):
        prunus.prune(model, method="wanda", sparsity=0.5, data=[torch.randn(8, 4)] * 2, call=call)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_places_of_large_maps_are_spread_over_rows_and_columns() -> None:
    chosen = Unfolding.of((1, 1), 1, 0, 1, 1).rows(torch.arange(64.0 * 64).view(1, 1, 64, 64))
    assert chosen.shape == (1, 1, 128, 1)
    assert len(chosen.unique()) == 128
    columns, rows = chosen.flatten() % 64, chosen.flatten() // 64
    assert len(columns.unique()) > 40
    assert len(rows.unique()) > 40


def test_batches_feed_models_as_loaders_give_them() -> None:
    class Keyworded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, *, pixels: Tensor) -> Tensor:
            return self.layer(pixels)

    images = torch.utils.data.TensorDataset(torch.randn(10, 4), torch.zeros(10))
    loader = torch.utils.data.DataLoader(images, batch_size=4)
    result = prunus.prune(nn.Linear(4, 2), method="wanda", sparsity=0.5, data=loader, samples=5)
    assert result.record["plan"]["settings"]["batches"] == 2
    assert prunus.prune(Keyworded(), method="wanda", sparsity=0.5, data=[{"pixels": torch.randn(3, 4)}]).sparsity == 0.5


def test_a_layer_that_loses_all_its_weights_is_told_of() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[1].weight.fill_(0.01)
    result = prunus.prune(model, method="magnitude", allocation="global", sparsity=0.5)
    told = {site["name"]: site["notes"] for site in result.sites}
    assert not told["0"]
    assert any("no weight is left, so that nothing passes" in note for note in told["1"])


class Looped(nn.Module):
    """Applies one layer once a place, then another: how often hangs on the batch."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.step, self.head = nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, sequences: Tensor) -> Tensor:
        state = torch.zeros(len(sequences), sequences.shape[2])
        for place in range(sequences.shape[1]):
            state = torch.tanh(self.step(state + sequences[:, place]))
        return self.head(state)


def test_all_of_every_batch_is_looked_at() -> None:
    model, data = Looped(), [torch.randn(4, length, 8) for length in (3, 9, 9, 2)]
    read: dict[str, list[Tensor]] = {"step": [], "head": []}
    for name, module in model.named_children():
        module.register_forward_pre_hook(lambda _m, args, name=name: read[name].append(args[0].detach()))
    for batch in data:
        model(batch)
    wanted = {name: torch.cat(inputs) for name, inputs in read.items()}
    observer = AppliedObserver(
        {model.get_parameter(site.parameter): site for site in module_sites(model).sites}, Needs.GRAM
    )
    for batch in data:
        observer.watch(lambda batch=batch: model(batch))
    assert len(wanted["step"]) == 4 * (3 + 9 + 9 + 2)
    for sites, stats in observer.result():
        inputs = wanted[sites[0].name]
        assert int(stats.tokens) == len(inputs)
        torch.testing.assert_close(stats.gram()[0], inputs.T @ inputs)


def test_a_pass_like_the_first_ends_with_the_last_layer_that_is_looked_at() -> None:
    model, calls = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Identity()), []
    model[2].register_forward_pre_hook(lambda _m, args: calls.append(len(args[0])))
    site = module_sites(model).sites[0]
    observer = AppliedObserver({model[0].weight: site}, Needs.NORM)
    for rows in (8, 8, 3):
        observer.watch(lambda rows=rows: model(torch.ones(rows, 4)))
    assert calls == [8, 3]
    assert int(observer.result()[0][1].tokens) == 19


def test_norms_are_recalibrated_by_inputs_not_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    data = [torch.randn(16, 8), torch.randn(4, 8) + 3, torch.randn(1, 8)]
    prunus.prune(model, data=data, method="magnitude", sparsity=0.5)
    wanted = model[0](torch.cat(data[:2])).mean(0)
    torch.testing.assert_close(model[1].running_mean, wanted)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CalibrationError, match="batch norms cannot be recalibrated"):
        prunus.prune(model, data=[torch.randn(1, 8)], method="magnitude", sparsity=0.7)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_labels_are_no_masks() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
            assert mask is None
            return self.layer(inputs)

    class Free(Masked):
        def forward(self, inputs: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
            return super().forward(inputs, mask)

    batch = (torch.randn(16, 8), torch.ones(16, dtype=torch.long))
    assert prunus.prune(Masked(), data=[batch], method="wanda", sparsity=0.5).sparsity == 0.5
    with pytest.raises(CalibrationError, match="Free may go without all of inputs, mask"):
        prunus.prune(Free(), data=[batch], method="wanda", sparsity=0.5)
    assert prunus.prune(Free(), data=[batch[:1]], method="wanda", sparsity=0.5).sparsity == 0.5


def test_complex_layers_are_left_and_told_of() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.complex64))
    assert "complex" in module_sites(model).untouched["1.weight"]
