"""Cut equals masked in networks of any kind: masks are laid over activations here, whatever the code under test does."""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import Tensor, nn

from nets import NETS, Stubborn, net_of
from prunus.core.errors import UnsupportedModelError
from prunus.structure.coupling import Coupling, Place
from prunus.structure.cut import Cut, Kept
from prunus.structure.surgery import cut_module
from prunus.structure.trace import trace


def logits(output) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def sizes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in [*model.named_parameters(), *model.named_buffers()]}


def halves(couplings: tuple[Coupling, ...], seed: int = 1, share: float = 0.5) -> list[Kept]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Kept(one, torch.randperm(one.units, generator=generator)[: max(1, round(one.units * share))].sort().values)
        for one in couplings
    ]


@contextmanager
def activations_masked(model: nn.Module, cut: Cut):
    """Outputs of what produces the units are multiplied by 0 where they go; layer norms look at what stays alone."""
    saved = {}
    with ExitStack() as stack:
        for path, module in model.named_modules():
            place = Place(f"{path}.weight", 0)
            if place not in cut.positions:
                for name, parameter in module.named_parameters(path, recurse=False):  # class tokens and the like
                    for other in (Place(name, dim) for dim in range(parameter.dim())):
                        if other in cut.positions and not name.endswith((".weight", ".bias")):
                            saved[parameter] = parameter.data
                            stays = torch.zeros(parameter.shape[other.dim])
                            stays[cut.positions[other]] = 1
                            shape = [1] * parameter.dim()
                            shape[other.dim] = -1
                            parameter.data = parameter.data * stays.view(shape)
                continue
            kept = cut.positions[place]
            first = isinstance(module, (nn.modules.conv._ConvNd, nn.BatchNorm2d, nn.PReLU))
            first |= getattr(module, "data_format", "") == "channels_first"

            def hook(module, args, output, kept=kept, first=first):
                dim = 1 if first else output.dim() - 1
                stays = torch.zeros(output.shape[dim])
                stays[kept] = 1
                if isinstance(module, nn.LayerNorm):
                    x = args[0].index_select(dim, kept).movedim(dim, -1)
                    gain = module.weight[kept] * (len(module.weight) / len(kept)) ** 0.5
                    normed = nn.functional.layer_norm(x, (len(kept),), gain, module.bias[kept], module.eps).movedim(-1, dim)
                    return torch.zeros_like(output).index_copy(dim, kept, normed)
                shape = [1] * output.dim()
                shape[dim] = -1
                return output * stays.view(shape)

            stack.callback(module.register_forward_hook(hook).remove)
        try:
            yield
        finally:
            for parameter, data in saved.items():
                parameter.data = data


@pytest.mark.parametrize("share", [0.5, 0.75])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_cut_equals_masked(name, share) -> None:
    model, images = net_of(name)
    traced = trace(model, lambda: model(images))
    cut = Cut(halves(traced.couplings, share=share), sizes_of(model))
    before = sum(parameter.numel() for parameter in model.parameters())
    with activations_masked(model, cut):
        wanted = logits(model(images))
    dense = logits(model(images))
    cut_module(model, cut, lambda: model(images))
    found = logits(model(images))
    torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max().clamp_min(1)), rtol=0)
    assert (found - dense).norm() > 0.01 * dense.norm(), "the mask must matter"
    assert sum(parameter.numel() for parameter in model.parameters()) < (share + 0.25) * before


def test_every_layer_can_be_cut_but_the_image_and_the_classes() -> None:
    """Nothing is left out in silence: what has to stay is said of every dimension."""
    for name in NETS:
        model, images = net_of(name)
        traced = trace(model, lambda model=model, images=images: model(images))
        told = {place for coupling in traced.couplings for place in coupling.members} | set(traced.fixed)
        for key, parameter in model.named_parameters():
            for dim, size in enumerate(parameter.shape):
                assert size == 1 or Place(key, dim) in told, (name, key, dim)
        stays = {place for place in traced.fixed if place.dim < 2 and "kernel" not in traced.fixed[place]}
        assert len([place for place in stays if place.tensor.endswith("weight")]) <= 3, (name, stays)


def test_a_shape_written_into_the_code_is_refused_and_the_model_left_as_it_was() -> None:
    model, x = Stubborn(), torch.randn(2, 6)
    (coupling,) = trace(model, lambda: model(x)).couplings
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModelError, match="left as it was"):
        cut_module(model, Cut([Kept(coupling, torch.arange(4))], sizes_of(model)), lambda: model(x))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.first.out_features == 8


def test_what_cannot_be_followed_stays() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.fft.rfft(self.first(x)).abs()[:, [0, 1, 2, 3, 4, 1, 2, 3]])

    model, x = Sorted(), torch.randn(2, 6)
    traced = trace(model, lambda: model(x))
    assert not traced.couplings
    assert "prunus cannot follow" in traced.fixed[Place("first.weight", 0)]


def test_an_optimizer_goes_on() -> None:
    model, images = net_of("vgg")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    labels = torch.tensor([1, 2])

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()
    traced = trace(model, lambda: model(images))
    cut = Cut(halves(traced.couplings), sizes_of(model))
    momentum = optimizer.state[model.features[3].weight]["exp_avg"].clone()
    cut_module(model, cut, lambda: model(images), optimizer)
    assert torch.equal(optimizer.state[model.features[3].weight]["exp_avg"], cut.narrowed("features.3.weight", momentum))
    weight = model.features[3].weight.detach().clone()
    step()
    assert not torch.equal(model.features[3].weight, weight)


def test_a_model_that_does_not_run_is_refused_in_words() -> None:
    model, images = net_of("vgg")
    with pytest.raises(UnsupportedModelError, match="VGG: it cannot be traced on this example"):
        trace(model, lambda: model(images[:, :2]))


def test_a_mean_without_a_gain_stays_and_the_reason_is_told() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.norm(self.first(x)))

    model, x = Centred(), torch.randn(2, 6)
    traced = trace(model, lambda: model(x))
    assert not traced.couplings
    assert traced.fixed[Place("first.weight", 0)] == "norm takes the mean over it, and has no gain to make up for fewer"
