"""Channels cut out of modules in memory: the repair against least squares, and modules saved and built anew."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import prunus
from nets import NETS, Stubborn, net_of
from prunus.cli.app import app
from prunus.core.errors import CalibrationError, CheckpointError, RecipeError, UnsupportedModelError
from prunus.core.stats import Needs
from prunus.observe.unfold import Unfolding
from prunus.structure.module_stats import observe_layers, reader_layers


def logits(output) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def images_like(images: Tensor, batches: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(images.shape, generator=generator) for _ in range(batches)]


@pytest.mark.parametrize("name", NETS)
def test_cut_saved_and_built_anew_gives_the_same(name, tmp_path) -> None:
    model, images = net_of(name)
    before = logits(model(images)).detach()
    cut = prunus.shrink_module(model, images, 0.5, importance="activation", data=images_like(images, 3))
    assert cut.parameters[1] < 0.8 * cut.parameters[0]
    found = logits(model(images)).detach()
    assert found.shape == before.shape
    assert not torch.allclose(found, before)
    cut.save(model, tmp_path / "cut")
    fresh, _ = net_of(name)
    torch.manual_seed(9)
    for parameter in fresh.parameters():
        nn.init.normal_(parameter)
    prunus.load_module(fresh, tmp_path / "cut")
    torch.testing.assert_close(logits(fresh(images)), found, rtol=0, atol=0)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"model.safetensors", "shapes.json"}


@pytest.mark.parametrize("name", NETS)
def test_what_inspection_lists_is_what_is_cut(name) -> None:
    model, images = net_of(name)
    model.train()
    told = prunus.inspect_module(model, images).to_json()
    assert model.training
    cut = prunus.shrink_module(model, images, 0.5)
    assert [next(iter(one["members"])) for one in told["couplings"]] == list(cut.units)
    assert told["left"] == dict(cut.left)


@pytest.mark.parametrize("name", ["vit", "hf_resnet", "convnext"])
def test_an_image_checkpoint_is_inspected_without_its_weights(name, tmp_path) -> None:
    model, images = net_of(name)
    model.save_pretrained(tmp_path / "model")
    told = prunus.inspect(tmp_path / "model").to_json()
    assert told["couplings"] == prunus.inspect_module(model, images).to_json()["couplings"]
    short, whole = (
        CliRunner().invoke(app, ["inspect", str(tmp_path / "model"), *flags], env={"COLUMNS": "300"}).stdout
        for flags in ([], ["--couplings"])
    )
    assert "prunus.shrink_module" in short
    assert len(short) < len(whole)
    assert all(next(iter(one["members"])) in whole for one in told["couplings"])


def test_when_norms_cannot_be_calibrated_the_module_is_as_it_was() -> None:
    """One value a channel has no variance; frozen norms stay frozen, gradients stay."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))
    model.train()
    model[1].eval()
    image = torch.randn(1, 3, 5, 5)
    model(torch.randn(2, 3, 9, 9)).sum().backward()
    single = nn.Sequential(*model[:3], nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 3))
    before, gradient = copy.deepcopy(single.state_dict()), model[0].weight.grad
    with pytest.raises(CalibrationError, match="more than 1 value per channel"):
        prunus.shrink_module(single, image, 0.5, importance="activation", data=[image])
    assert all(torch.equal(value, before[name]) for name, value in single.state_dict().items())
    assert single[0].weight.grad is gradient
    assert [module.training for module in single] == [True, False, True, True, True, True, True]
    assert single[0].out_channels == 16


@pytest.mark.parametrize("importance", ["weight", "activation", "fluctuation", "obs", "random", "taylor"])
@pytest.mark.parametrize("name", ["resnet18", "vgg"])
def test_every_importance(importance, name) -> None:
    model, images = net_of(name)
    data = images_like(images, 2)
    labels = torch.tensor([1, 2])[: len(images)]
    cut = prunus.shrink_module(
        model, images, {"*": 0.75, "classifier.*": 1.0}, importance=importance, data=data,
        loss=lambda net, batch: nn.functional.cross_entropy(net(batch), labels), solver="keep",
    )  # fmt: skip
    assert cut.units
    assert torch.isfinite(logits(model(images))).all()


def small_net() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2, padding=1, dilation=1),
                          nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))  # fmt: skip
    return model.eval(), torch.randn(4, 3, 8, 8)


def test_the_repair_is_least_squares_with_a_free_bias() -> None:
    """In fp64, on the patches that the second convolution reads, with a column of ones for the bias."""
    model, example = small_net()
    dense = copy.deepcopy(model)
    data = images_like(example, 6)
    cut = prunus.shrink_module(model, example, {"0.*": 0.5}, importance="fluctuation", data=data, multiple=1,
                               solver="lstsq:damp=0")  # fmt: skip
    kept = torch.tensor(cut.units["0.weight dim 0"])
    layer = reader_layers(dense)["2.weight"]
    with torch.no_grad():
        reads = Unfolding.of((3, 3), 2, 1, 1, 1)
        rows = torch.cat([reads.rows(dense[:2](batch))[0] for batch in data]).flatten(0, 1).double()
        targets = rows @ layer.matrix.double().T + dense[2].bias.double()
    columns = layer.columns(kept.unsqueeze(1)).flatten()
    design = torch.cat([rows[:, columns], torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    best = torch.linalg.lstsq(design, targets).solution
    fitted = layer.as_matrix(model[2].weight.detach())
    fitted = fitted.unflatten(1, (9, -1)).transpose(1, 2).flatten(1)  # of each channel that stays its places, as above
    torch.testing.assert_close(fitted.double(), best[:-1].T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model[2].bias.detach().double(), best[-1], rtol=1e-3, atol=1e-4)
    lost = design @ best - targets
    whole = targets - targets.mean(0)
    assert cut.errors["2"] == pytest.approx(float(lost.square().sum() / whole.square().sum()), rel=1e-2)


def test_kept_weights_leave_the_mean_to_the_bias() -> None:
    model, example = small_net()
    dense = copy.deepcopy(model)
    data = images_like(example, 4)
    cut = prunus.shrink_module(model, example, {"0.*": 0.5}, importance="fluctuation", data=data, solver="keep:bias=true")
    kept = torch.tensor(cut.units["0.weight dim 0"])
    assert torch.equal(model[2].weight, dense[2].weight[:, kept])
    with torch.no_grad():
        one = torch.cat([dense[:3](batch) for batch in data]).mean((0, 2, 3))
        two = torch.cat([model[:3](batch) for batch in data]).mean((0, 2, 3))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)


def test_repaired_is_nearer_than_kept_and_obs_than_chance() -> None:
    found = {}
    for importance, solver in (("random", "keep"), ("random", "lstsq"), ("obs", "lstsq")):
        model, images = net_of("vgg")
        before = logits(model(images)).detach()
        prunus.shrink_module(
            model, images, {"features.*": 0.75}, importance=importance, data=images_like(images, 16), solver=solver
        )
        found[importance, solver] = float((logits(model(images)).detach() - before).norm())
    assert found["random", "lstsq"] < found["random", "keep"]
    assert found["obs", "lstsq"] < found["random", "lstsq"]


def test_batch_norms_take_their_statistics_anew() -> None:
    model, images = net_of("resnet18")
    data = images_like(images, 3)
    prunus.shrink_module(model, images, 0.5, importance="activation", data=data)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        for batch in data:
            model(batch)
    hook.remove()
    torch.testing.assert_close(
        norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0), rtol=1e-4, atol=1e-5
    )
    assert norm.momentum == 0.1
    assert not norm.training


def test_what_is_excluded_or_has_no_share_stays_and_is_said() -> None:
    model, example = small_net()
    cut = prunus.shrink_module(model, example, {"2.*": 0.5}, exclude=["0.*"])
    assert model[0].out_channels == 16
    assert cut.left["0.weight dim 0"] == "excluded"
    assert cut.left["5.weight dim 0"] == "the model's output"
    with pytest.raises(RecipeError, match=r"share of '9\.\*': no parameter"):
        prunus.shrink_module(model, example, {"9.*": 0.5})
    with pytest.raises(RecipeError, match="no unit would go"):
        prunus.shrink_module(model, example, 1)
    with pytest.raises(RecipeError, match="neither a number nor a mapping"):
        prunus.shrink_module(model, example, "half")


def test_a_failure_leaves_everything_as_it_was() -> None:
    model, x = Stubborn(), torch.randn(4, 6)
    before = copy.deepcopy(model.state_dict())
    model.train()
    with pytest.raises(UnsupportedModelError, match="left as it was"):
        prunus.shrink_module(model, x, 0.5, importance="obs", data=[x, x + 1])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training


def test_settings_that_do_not_fit_are_refused() -> None:
    model, example = small_net()
    wrong = {"give some batches": {"importance": "obs"}, "unknown importance": {"importance": "best"},
             "give loss": {"importance": "taylor", "data": [example]}, "at most 1": {"share": 1.5}}  # fmt: skip
    for message, settings in wrong.items():
        with pytest.raises(RecipeError, match=message):
            prunus.shrink_module(model, example, **settings)


def test_shapes_of_another_module_are_refused(tmp_path) -> None:
    model, example = small_net()
    prunus.shrink_module(model, example, 0.5).save(model, tmp_path / "cut")
    with pytest.raises(CheckpointError, match="which this VGG has not"):
        prunus.load_module(net_of("vgg")[0], tmp_path / "cut")
    with pytest.raises(CheckpointError, match=r"no shapes\.json"):
        prunus.load_module(model, tmp_path)


def test_weights_that_a_function_applies_are_looked_at_and_others_are_not() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.idle = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.first(x).relu(), self.second.weight, self.second.bias)

    model, x = Bare(), torch.randn(4, 6)
    seen = observe_layers(model, reader_layers(model), Needs.NORM, [lambda: model(x)])
    assert set(seen) == {"first.weight", "second.weight"}
    torch.testing.assert_close(seen["second.weight"].norm_sq()[0], model.first(x).relu().square().sum(0))
    cut = prunus.shrink_module(model, x, 0.5, importance="obs", data=[x])
    assert cut.units
