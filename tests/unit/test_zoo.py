"""Architectures: their papers' parameter counts and shapes, options, and those of the user's own."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from prunus.core.errors import MissingLibraryError, RecipeError
from prunus.zoo.build import ZOO, build, check_model

COLOUR, GREY = (2, 3, 32, 32), (2, 1, 28, 28)
PUBLISHED = {
    "lenet-300-100": (266_610, GREY),
    "lenet-5": (431_080, GREY),
    "resnet20": (269_722, COLOUR),
    "resnet20:shortcut=projection": (272_474, COLOUR),
    "resnet18": (11_173_962, COLOUR),
    "resnet18:channels=1": (11_172_810, GREY),
    "vgg16": (138_357_544, (2, 3, 224, 224)),
    "alexnet": (60_965_224, (2, 3, 227, 227)),
    "alexnet:size=224": (60_965_224, (2, 3, 224, 224)),
    "decoder": (5_868_800, (2, 16)),
}


@pytest.mark.parametrize("spec", PUBLISHED)
def test_parameters_and_outputs(spec: str) -> None:
    count, shape = PUBLISHED[spec]
    with torch.device("cpu" if spec == "decoder" else "meta"):
        model = build(spec, 0, {}).eval()
        given = torch.zeros(shape, dtype=torch.int64 if len(shape) == 2 else torch.float32)
        out = model(given)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    if spec == "decoder":
        assert out.logits.shape == (2, 16, 4096)
    else:
        assert out.shape == (2, 1000 if spec.startswith(("vgg", "alex")) else 10)
    head = ZOO[spec.partition(":")[0]]
    assert f"{count:,}" in (head.__doc__ or ""), "the docstring counts otherwise"


def test_the_seed_alone_decides_the_weights_and_chance_goes_on_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (build("lenet-300-100", seed, {}) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


@pytest.mark.parametrize("draw", ["torch.randn(3)", "torch.tensor(numpy.random.randn(3))", "torch.tensor(random.random())"])
def test_chance_is_the_seed_s_wherever_a_network_draws_from(draw: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"""
import random, numpy, torch
def net():
    made = torch.nn.Linear(1, 1)
    made.drawn = torch.nn.Parameter({draw})
    return made
""")
    one, two, other = (build(f"{file}:net", seed, {}).drawn for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_what_the_data_say_is_taken_where_nothing_else_is_told() -> None:
    given = {"channels": 3, "size": 16, "classes": 4}
    model = build("lenet-5:classes=7", 0, given)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 7)
    assert build("decoder:layers=1,width=32,heads=2", 0, {"vocabulary": 300, "positions": 8}).config.vocab_size == 300


def test_residual_shortcuts_carry_what_the_convolutions_leave_out() -> None:
    """With convolutions of nothing a stage gives its input, every other place of it and zeros around its channels."""
    model = build("resnet20", 0, {}).eval()
    for module in model.stages.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    x = torch.rand(1, 16, 8, 8)
    out = model.stages(x)
    assert torch.equal(out[:, 24:40], x[:, :, ::4, ::4])
    assert not out[:, :24].any()
    assert not out[:, 40:].any()


def test_a_function_in_a_file_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\n"
        "def net(classes, width: int = 4, deep=False):\n    return torch.nn.Sequential(torch.nn.Flatten(), "
        "torch.nn.Linear(9, width), torch.nn.Linear(width, classes)) if deep else torch.nn.Linear(9, classes)\n"
        "def number():\n    return 3\n"
    )
    model = build(f"{path}:net:width=6,deep=true", 0, {"classes": 5, "size": 3, "channels": 1})
    assert model(torch.zeros(2, 1, 3, 3)).shape == (2, 5)
    assert model[1].out_features == 6
    for wrong, says in (
        (f"{path}:nett", "has no function 'nett' .did you mean 'net'"),
        (f"{path}:net:wide=6", "no option 'wide' .did you mean 'width'"),
        (f"{path}:number", "gives a int, not a torch.nn.Module"),
        (f"{path}:net:width=lots", "'lots' is no int"),
        (f"{path}:net", "missing 1 required"),
        (f"{path}", "say which function"),
        (f"{tmp_path}/none.py:net", "no such file"),
    ):
        with pytest.raises(RecipeError, match=says):
            build(wrong, 0, {})
    path.write_text("1 / 0")
    with pytest.raises(RecipeError, match=r"cannot be run \(ZeroDivisionError"):
        build(f"{path}:net", 0, {})


def test_what_cannot_be_built_says_why() -> None:
    for wrong, says in (
        ("resnet81", "unknown model 'resnet81' .did you mean 'resnet18'"),
        ("resnet20:shortcut=none", "'none' is none of zeros, projection"),
        ("resnet20:depth=3", "has no option 'depth'"),
        ("resnet20:deep", "'deep' is not option=value"),
        ("lenet-5:size=12", "at least 16×16"),
        ("alexnet:size=32", "227 or 224 pixels, not 32"),
        ("vgg16:size=28", "at least 32×32"),
        ("decoder:width=30,heads=4", "width 30 is no multiple of twice its 4 heads"),
    ):
        with pytest.raises(RecipeError, match=says):
            build(wrong, 0, {})
    with pytest.raises(RecipeError, match="unknown model"):
        check_model("resnet81")


def test_torchvision_is_asked_for_its_networks_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.zoo.build.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match="pip install torchvision"):
        build("torchvision:tiny", 0, {})

    def get_model(name: str, weights: None, num_classes: int, width: int = 2) -> nn.Module:
        return nn.Linear(width, num_classes)

    models = types.SimpleNamespace(list_models=lambda: ["tiny"], get_model=get_model)
    monkeypatch.setattr("prunus.zoo.build.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    assert build("torchvision:tiny:width=3", 0, {"classes": 4, "size": 8}).weight.shape == (4, 3)
    with pytest.raises(RecipeError, match="torchvision has no model 'tinny' .did you mean 'tiny'"):
        build("torchvision:tinny", 0, {})
