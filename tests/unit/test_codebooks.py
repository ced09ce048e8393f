"""Codebooks are trained by the sums of their members' gradients, zeros stay, and few values are left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunus
from prunus.core.errors import NumericalError, RecipeError, UnsupportedModelError
from prunus.storage.gaps import Gaps
from prunus.storage.packed import PackedWeight
from prunus.storage.values import Values
from prunus.train.shared import codebook_of


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 16), nn.ReLU(), nn.Linear(16, 5))
    with torch.no_grad():
        for layer in made:
            if hasattr(layer, "weight"):
                layer.weight.mul_(torch.rand_like(layer.weight) > 0.6)
    return made.to(dtype)


def loss_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 3, 6, 6, generator=generator).to(dtype)
    return nn.functional.cross_entropy(model(images).float(), torch.randint(0, 5, (16,), generator=generator))


def test_a_value_s_gradient_is_the_sum_of_its_members_and_zeros_have_none() -> None:
    """The formula of the paper, weight by weight, with gradients of a model whose weights are its own."""
    model = network()
    shared = prunus.share_weights(model, bits=3)
    plain = network()
    plain.load_state_dict({
        **{name: value for name, value in model.state_dict().items() if name.endswith("bias")},
        **{f"{path}.weight": layer.weight.detach() for path, layer in shared.layers.items()},
    })  # fmt: skip
    loss_of(model).backward()
    loss_of(plain).backward()
    for path, layer in shared.layers.items():
        codes, gradient = layer.parametrizations.weight[0].codes, plain.get_parameter(f"{path}.weight").grad
        wanted = torch.zeros(8)
        for code, part in zip(codes.flatten().tolist(), gradient.flatten(), strict=True):
            wanted[code] += part
        count = len(codebook_of(layer))
        torch.testing.assert_close(codebook_of(layer).grad, wanted[:count], rtol=1e-4, atol=1e-6)
        assert torch.equal(codes == count, plain.get_parameter(f"{path}.weight") == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_lowers_the_loss_keeps_zeros_and_pack_keeps_the_values_to_the_bit(dtype: torch.dtype) -> None:
    model = network(dtype)
    zeros = {name: parameter == 0 for name, parameter in model.named_parameters() if name.endswith("weight")}
    shared = prunus.share_weights(model, bits=4)
    before = loss_of(model, dtype).item()
    optimiser = torch.optim.Adam(shared.codebooks(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        loss_of(model, dtype).backward()
        optimiser.step()
    trained = loss_of(model, dtype).item()
    assert trained < 0.8 * before
    shared.finish()
    assert loss_of(model, dtype).item() == trained
    assert set(dict(model.named_parameters())) == set(dict(network().named_parameters()))
    for name, mask in zeros.items():
        weight = model.get_parameter(name).detach()
        assert (weight[mask] == 0).all()
        assert len(weight[weight != 0].unique()) <= 15
        packed = PackedWeight.of(weight.flatten(1), Gaps(2), Values("shared4"))
        assert torch.equal(packed.unpack(), weight.flatten(1))


def test_what_has_few_values_already_is_not_changed_by_a_bit() -> None:
    model = network()
    prunus.share_weights(model, bits=5).finish()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shared = prunus.share_weights(model, bits=5)
    assert all(torch.equal(layer.weight, before[f"{path}.weight"]) for path, layer in shared.layers.items())
    shared.finish()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_left_alone_is_told_and_what_is_wrong_refused() -> None:
    model = network()
    model.append(nn.Linear(5, 16, bias=False)).append(nn.Linear(5, 16, bias=False))
    model[-1].weight = model[-2].weight
    model[0].weight.data.zero_()
    shared = prunus.share_weights(model, layers=["0", "3", "6", "7"])
    assert list(shared.layers) == ["3"]
    assert shared.left == {"0": "it holds nothing but zeros", "6": "its weight is another layer's as well",
                           "7": "its weight is another layer's as well"}  # fmt: skip
    assert "computed from something else" in prunus.share_weights(model).left["3"]
    with pytest.raises(RecipeError, match="codes of 9 bits"):
        prunus.share_weights(model, bits=9)
    with pytest.raises(RecipeError, match="'1' is no linear layer"):
        prunus.share_weights(model, layers=["1"])
    with pytest.raises(UnsupportedModelError, match="no linear layer or convolution"):
        prunus.share_weights(nn.ReLU())
    broken = nn.Linear(3, 3)
    broken.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericalError, match="NaN or Inf"):
        prunus.share_weights(broken)
