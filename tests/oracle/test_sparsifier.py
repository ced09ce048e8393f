"""Training with sparsity: exact zeros behind every step, schedules against plain loops, resuming, and odd optimizers."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import prunus
from prunus.allocate.erk import ErdosRenyiKernel
from prunus.core import registry
from prunus.core.errors import NumericalError, RecipeError, UnsupportedModelError
from prunus.models.modules import module_sites

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "asgd": torch.optim.ASGD,
    "rprop": torch.optim.Rprop,
    "adafactor": torch.optim.Adafactor,
}
SCHEDULES = {
    "fixed": {"sparsity": 0.75}, "gradual:every=3": {"sparsity": 0.75}, "set:every=3": {"sparsity": 0.75},
    "rigl:every=3": {"sparsity": 0.75}, "movement:every=3": {"sparsity": 0.75},
    "srste": {"sparsity": "2:4", "exclude": ["0"]},
}  # fmt: skip
STEPS = 16


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 4),
    )  # fmt: skip


def batch(step: int) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 6, 6, generator=chance), torch.randint(0, 4, (8,), generator=chance)


def loss_of(model: nn.Module, step: int) -> Tensor:
    inputs, labels = batch(step)
    return functional.cross_entropy(model(inputs), labels)


def train(model: nn.Module, optimizer: Any, sparsity: prunus.Sparsifier, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        check_zeros(model, optimizer, sparsity)
        sparsity.step()
        check_zeros(model, optimizer, sparsity)


def check_zeros(model: nn.Module, optimizer: Any, sparsity: prunus.Sparsifier) -> None:
    """Whatever the masks drop is zero in the model, and where nothing trains it, in what the optimizer keeps."""
    for name, mask in sparsity.masks.items():
        parameter = model.get_parameter(name)
        assert not parameter.detach()[~mask].any(), name
        if not sparsity.schedule.keeps_dense and not isinstance(optimizer, (torch.optim.Adagrad, torch.optim.Rprop)):
            for key, value in optimizer.state[parameter].items():
                same = isinstance(value, Tensor) and value.shape == parameter.shape
                if same and key not in ("ax", "exp_inf"):  # an average of weights; a maximum of gradients and eps
                    assert not value[~mask].any(), (name, key)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_are_exact_behind_every_step(name, schedule) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsity = prunus.Sparsifier(model, optimizer, schedule, steps=STEPS, **SCHEDULES[schedule])
    train(model, optimizer, sparsity, range(STEPS))
    found = sparsity.finish()
    assert found.sparsity == pytest.approx(0.5 if schedule == "srste" else 0.75, abs=0.01)
    assert found.steps == STEPS
    assert set(dict(net().named_parameters())) == set(dict(model.named_parameters()))
    loss_of(model, 0).backward()
    optimizer.step()  # nothing is held any more


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resumed_training_is_uninterrupted_training(schedule, tmp_path) -> None:
    def begun() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = net()
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    model, optimizer = begun()
    whole = prunus.Sparsifier(model, optimizer, schedule, steps=STEPS, **SCHEDULES[schedule])
    train(model, optimizer, whole, range(STEPS))

    stopped, first = begun()
    half = prunus.Sparsifier(stopped, first, schedule, steps=STEPS, **SCHEDULES[schedule])
    train(stopped, first, half, range(7))
    torch.save(
        {"model": stopped.state_dict(), "optimizer": first.state_dict(), "sparsity": half.state_dict()}, tmp_path / "x"
    )
    kept = torch.load(tmp_path / "x", weights_only=True)

    again, second = begun()
    again.load_state_dict(kept["model"])
    second.load_state_dict(kept["optimizer"])
    rest = prunus.Sparsifier(again, second, schedule, steps=STEPS, state=kept["sparsity"], **SCHEDULES[schedule])
    train(again, second, rest, range(7, STEPS))
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    other, third = begun()
    with pytest.raises(RecipeError, match="load the model's own state first"):
        prunus.Sparsifier(other, third, schedule, steps=STEPS, state=kept["sparsity"], **SCHEDULES[schedule])


def linear(rows: int = 4, cols: int = 8) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(cols, rows, bias=False)


def gradient(weight: Tensor, step: int) -> Tensor:
    """Of a loss that a plain loop can follow: half the square of the outputs on a step's inputs, less a target's."""
    chance = torch.Generator().manual_seed(100 + step)
    inputs, target = torch.randn(5, weight.shape[1], generator=chance), torch.randn(5, weight.shape[0], generator=chance)
    return (inputs @ weight.T - target).T @ inputs


def follow(layer: nn.Linear, schedule: str, steps: int, **settings: Any) -> list[Tensor]:
    """The layer's weights behind every step, trained by plain gradient descent."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    sparsity = prunus.Sparsifier(layer, optimizer, schedule, steps=steps, **settings)
    found = []
    for step in range(steps):
        layer.weight.grad = gradient(layer.weight.detach(), step)
        optimizer.step()
        sparsity.step()
        found.append(layer.weight.detach().clone())
    return found


def smallest(weight: Tensor, count: int) -> Tensor:
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    keep[weight.abs().flatten().argsort(stable=True)[:count]] = False
    return keep.view_as(weight)


def test_gradual_pruning_is_the_papers_cubic() -> None:
    layer, steps = linear(), 10
    weight = layer.weight.detach().clone()
    found = follow(layer, "gradual:every=2,end=0.8", steps, sparsity=0.75)
    mask = torch.ones_like(weight)
    for step in range(1, steps + 1):
        weight = (weight - 0.01 * gradient(weight, step - 1) * mask) * mask
        if step <= 8 and step % 2 == 0:
            share = 0.75 - 0.75 * (1 - step / 8) ** 3
            mask = smallest(weight, math.floor(32 * share + 1e-9)).float()
            weight = weight * mask
        torch.testing.assert_close(found[step - 1], weight)


def test_rigl_drops_the_smallest_and_grows_by_gradient() -> None:
    layer, steps = linear(), 8
    sparse = copy.deepcopy(layer)
    prunus.Sparsifier(sparse, torch.optim.SGD(sparse.parameters(), lr=0.1), "rigl:every=3", steps=steps, sparsity=0.5)
    weight, mask = sparse.weight.detach().clone(), (sparse.weight.detach() != 0).float()
    found = follow(layer, "rigl:every=3,alpha=0.4,end=1.0", steps, sparsity=0.5)
    for step in range(1, steps + 1):
        dense = gradient(weight, step - 1)
        weight = weight - 0.01 * dense * mask
        if step % 3 == 0:
            count = int(0.4 / 2 * (1 + math.cos(math.pi * step / steps)) * int(mask.sum()))
            live = mask.bool()
            order = weight.abs().masked_fill(~live, math.inf).flatten().argsort()
            survivors = mask.flatten().clone()
            survivors[order[:count]] = 0
            grows = dense.abs().flatten().masked_fill(survivors.bool(), -1).argsort(descending=True)[:count]
            survivors[grows] = 1
            weight = weight * survivors.view_as(mask) * mask  # what was dead begins at zero
            mask = survivors.view_as(mask)
        torch.testing.assert_close(found[step - 1], weight)


def test_set_grows_anywhere_and_keeps_the_number() -> None:
    layer = linear(16, 32)
    found = follow(layer, "set:every=2,share=0.5,end=1.0", 6, sparsity=0.75, allocation="uniform")
    before = found[0] != 0
    assert int(before.sum()) == 128
    dead = before & (found[1] == 0)
    assert 32 <= int(dead.sum()) <= 64
    kept = found[0][before & (found[1] != 0)].abs().min()
    assert found[0][dead].abs().max() < kept + 0.2


def test_movement_follows_the_papers_scores() -> None:
    layer, steps = linear(), 9
    dense, score, mask = layer.weight.detach().clone(), torch.zeros(4, 8), torch.ones(4, 8)
    found = follow(layer, "movement:begin=0.2,end=0.8,every=2", steps, sparsity=0.5)
    begin, end = round(0.2 * steps), round(0.8 * steps)
    for step in range(1, steps + 1):
        straight = gradient(dense * mask, step - 1)
        score -= dense * straight
        dense = dense - 0.01 * straight * mask
        due = (begin <= step <= end and ((step - begin) % 2 == 0 or step == end)) or (step > end and (step - end) % 2 == 0)
        if due:
            left = 1 - max(0.0, step - 0.2 * steps) / (end - 0.2 * steps)
            share = 0.5 if step >= end else 0.5 - 0.5 * left**3
            mask = torch.ones(32)
            mask[score.flatten().argsort(stable=True)[: math.floor(32 * share + 1e-9)]] = 0
            mask = mask.view(4, 8)
        torch.testing.assert_close(found[step - 1], dense * mask)


def test_srste_is_straight_through_with_a_decay() -> None:
    layer = linear()
    dense = layer.weight.detach().clone()

    def two_of_four(weight: Tensor) -> Tensor:
        groups = weight.abs().view(4, 2, 4)
        return torch.zeros_like(groups).scatter_(-1, groups.topk(2).indices, 1).view(4, 8)

    mask = two_of_four(dense)
    found = follow(layer, "srste:weight=0.05", 6, sparsity="2:4")
    for step in range(6):
        dense = dense - 0.01 * (gradient(dense * mask, step) + 0.05 * (1 - mask) * dense)
        mask = two_of_four(dense)
        torch.testing.assert_close(found[step], dense * mask)


def test_erdos_renyi_kernel_meets_the_budget() -> None:
    """Against the papers' rule, layers above 1 fixed one after another."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 32, 1), nn.Linear(64, 8))
    sites = module_sites(model).sites
    for target in (0.5, 0.8, 0.95):
        shares = ErdosRenyiKernel().split(sites, target, None)
        raw = {site.name: sum(w.shape) / w.numel() for site in sites for w in [model.get_parameter(site.parameter)]}
        whole: set[str] = set()
        while True:
            budget = (1 - target) * sum(s.numel for s in sites) - sum(s.numel for s in sites if s.name in whole)
            eps = budget / sum(raw[s.name] * s.numel for s in sites if s.name not in whole)
            above = {s.name for s in sites if s.name not in whole and eps * raw[s.name] > 1}
            if not above:
                break
            whole |= above
        for site in sites:
            density = 1.0 if site.name in whole else eps * raw[site.name]
            assert shares[site.name] == pytest.approx(1 - density, abs=1e-6)


def test_a_gradient_scaler_that_skips_a_step_moves_nothing() -> None:
    layer = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    sparsity = prunus.Sparsifier(layer, optimizer, "gradual:every=1", steps=4, sparsity=0.5)
    for step in range(5):
        optimizer.zero_grad()
        scaler.scale(layer(torch.full((2, 8), torch.inf if step == 1 else 1.0)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        sparsity.step()
        assert sparsity.done == step + (step < 1)
        assert torch.isfinite(layer.weight).all()
    assert sparsity.finish().sparsity == 0.5


def test_a_closure_is_followed() -> None:
    """As Lightning calls optimizers: the closure computes the gradients inside the step."""
    models = [net(), net()]
    for number, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsity = prunus.Sparsifier(model, optimizer, "rigl:every=2", steps=6, sparsity=0.7)
        for step in range(6):

            def closure(model: nn.Module = model, optimizer: Any = optimizer, step: int = step) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, step)
                loss.backward()
                return loss

            if number:
                closure()
                optimizer.step()
            else:
                optimizer.step(closure)
            check_zeros(model, optimizer, sparsity)
            sparsity.step()
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_accumulated_gradients_are_one_step() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, "rigl:every=2", steps=4, sparsity=0.7)
    for step in range(8):
        loss_of(model, step).backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
            sparsity.step()
    assert sparsity.finish().steps == 4


def test_masks_given_are_held_and_frozen_layers_stay() -> None:
    model = net()
    model[6].requires_grad_(False)
    cut = prunus.prune(model, method="magnitude", sparsity=0.5)
    before = model[6].weight.clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, masks=cut.masks)
    train(model, optimizer, sparsity, range(3))
    assert torch.equal(model[6].weight, before)
    assert all(torch.equal(sparsity.masks[name], mask) for name, mask in cut.masks.items())


def test_shared_weights_have_one_mask_and_stay_shared() -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, "fixed", sparsity=0.5)
    model(torch.randn(3, 8)).sum().backward()
    optimizer.step()
    sparsity.step()
    assert list(sparsity.masks) == ["0.weight"]
    assert sparsity.finish().sparsity == 0.5


def compiled_or_not(model: nn.Module) -> list[nn.Module]:
    return [model, torch.nn.DataParallel(model)]


def test_wrapped_models_are_seen_through() -> None:
    for wrapped in compiled_or_not(net()):
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        sparsity = prunus.Sparsifier(wrapped, optimizer, "fixed", sparsity=0.5)
        assert "6.weight" in sparsity.masks


@pytest.mark.slow
def test_a_compiled_model_is_held() -> None:
    model = net()
    compiled = torch.compile(model)
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.05)
    sparsity = prunus.Sparsifier(compiled, optimizer, "rigl:every=2", steps=6, sparsity=0.75)
    plain = net()
    other = torch.optim.SGD(plain.parameters(), lr=0.05)
    beside = prunus.Sparsifier(plain, other, "rigl:every=2", steps=6, sparsity=0.75)
    for step in range(6):
        for one, by, held in ((compiled, optimizer, sparsity), (plain, other, beside)):
            by.zero_grad()
            loss_of(one, step).backward()
            by.step()
            held.step()
        check_zeros(model, optimizer, sparsity)
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4))


def parametrised() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


@pytest.mark.parametrize(("make", "told"), [(lazy, "Run the model once"), (parametrised, "remove the parametrization"),
                                            (pruned, r"Masks.from_torch\(model\)")])  # fmt: skip
def test_what_cannot_be_trained_so_is_refused(make, told) -> None:
    model = make()
    parameters = [nn.Parameter(torch.ones(1))] if make is lazy else model.parameters()
    with pytest.raises(UnsupportedModelError, match=told):
        prunus.Sparsifier(model, torch.optim.SGD(parameters, lr=0.1), "fixed", sparsity=0.5)


@pytest.mark.parametrize(("schedule", "settings", "told"), [
    ("fixed", {}, "nothing is zero that could be held"), ("rigle", {"sparsity": 0.5}, "did you mean 'rigl'"),
    ("rigl", {"sparsity": 0.5}, "steps None"), ("gradual", {"steps": 9}, "sparsity is missing"),
    ("fixed", {"sparsity": 0.5, "criterion": "wanda"}, "prune it first by prunus.prune"),
    ("fixed", {"sparsity": 0.5, "allocation": "owl"}, "prune it first by prunus.prune"),
    ("fixed", {"sparsity": "2:4"}, "0: 27 columns"), ("fixed", {"sparsity": 0.5, "sparse": 1}, "unknown setting 'sparse'"),
    ("set", {"sparsity": 0.5, "steps": 9, "pattern": "row"}, "change places one by one"),
    ("fixed", {"masks": {"6.weight": torch.ones(2, 2, dtype=torch.bool)}}, "no such layer of that shape"),
    ("gradual:begin=0.9,end=0.5", {"sparsity": 0.5, "steps": 9}, "shares of training"),
])  # fmt: skip
def test_wrong_settings_are_told(schedule, settings, told) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RecipeError, match=told):
        prunus.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule, **settings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrong_optimizers_and_weights_are_told() -> None:
    model = net()
    with pytest.raises(UnsupportedModelError, match="LBFGS"):
        prunus.Sparsifier(model, torch.optim.LBFGS(model.parameters()), "fixed", sparsity=0.5)
    with pytest.raises(UnsupportedModelError, match="the optimizer has none of the model's layers"):
        prunus.Sparsifier(model, torch.optim.SGD(net().parameters(), lr=0.1), "fixed", sparsity=0.5)
    with torch.no_grad():
        model[6].weight[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="6: its weights hold NaN"):
        prunus.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), "fixed", sparsity=0.5)


def test_a_schedule_that_did_not_get_there_is_told() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, "gradual:every=1", steps=10, sparsity=0.8)
    train(model, optimizer, sparsity, range(3))
    with pytest.raises(RecipeError, match="sparse behind 3 steps, 80.0% were wanted behind 10"):
        sparsity.finish()


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
@pytest.mark.filterwarnings("ignore:.*has lost all of its weights")
def test_no_zeros_and_nothing_but_zeros(sparsity) -> None:
    model = net()
    held = prunus.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), "fixed", sparsity=sparsity)
    assert held.finish().sparsity == sparsity


def test_masks_to_torch_and_back(tmp_path) -> None:
    model = net()
    cut = prunus.prune(model, method="magnitude", allocation="global", sparsity=0.6)
    cut.masks.save(tmp_path / "masks.safetensors")
    masks = prunus.Masks.load(tmp_path / "masks.safetensors")
    assert all(torch.equal(masks[name], mask) for name, mask in cut.masks.items())
    assert masks.sparsity == pytest.approx(cut.sparsity)
    weights = copy.deepcopy(model.state_dict())
    masks.to_torch(model)
    assert prune.is_pruned(model)
    prune.l1_unstructured(model[6], "weight", 0.5)  # one mask more on top of ours
    taken = prunus.Masks.from_torch(model)
    assert not prune.is_pruned(model)
    assert set(dict(model.named_parameters())) == set(dict(net().named_parameters()))
    assert taken["6.weight"].sum() < masks["6.weight"].sum()
    for name in ("0.weight", "3.weight", "8.weight"):
        assert torch.equal(taken[name], masks[name])
        assert torch.equal(model.state_dict()[name], weights[name])
    found = prunus.Masks.of(model)
    assert torch.equal(found["6.weight"], taken["6.weight"])


def test_masks_are_put_on_other_weights() -> None:
    cut = prunus.prune(net(), method="magnitude", sparsity=0.6)
    other = net(1)
    cut.masks.apply(other)
    assert not other[6].weight.detach()[~cut.masks["6.weight"]].any()
    with pytest.raises(RecipeError, match="has no such parameter"):
        cut.masks.apply(nn.Linear(2, 2))
    with pytest.raises(RecipeError, match="has no masks"):
        prunus.Masks.from_torch(net())


def test_a_file_that_holds_no_masks_is_told(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"nothing of the kind")
    with pytest.raises(prunus.PrunusError, match="no readable masks"):
        prunus.Masks.load(tmp_path / "x")


@pytest.mark.parametrize("name", registry.schedule.entries())
def test_every_schedule_says_what_it_does(name) -> None:
    entry = registry.schedule.entries()[name]
    assert all(entry.explained.values())
    assert registry.schedule.make(name).due(1, 100) in (True, False)
