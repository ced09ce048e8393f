"""A Sparsifier in company: others load weights, subclass optimizers, compile steps, give up, and begin anew."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

import prunus
from prunus.core.errors import RecipeError

SCHEDULES = ["rigl:every=1", "srste", "movement:begin=0,every=1", "gradual:every=1"]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4))


def backward(model: nn.Module, step: int) -> Tensor:
    loss = model(torch.randn(8, 16, generator=torch.Generator().manual_seed(step))).square().mean()
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: Any, sparsity: prunus.Sparsifier, steps: range,
          step_of: Callable[[], object] | None = None) -> None:  # fmt: skip
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        (step_of or optimizer.step)()
        sparsity.step()


def made(schedule: str, model: nn.Module | None = None, kind: type = SGD, steps: int = 6,
         **settings: Any) -> tuple[nn.Module, Any, prunus.Sparsifier]:  # fmt: skip
    model = model or net()
    optimizer = kind(model.parameters(), lr=0.05)
    return model, optimizer, prunus.Sparsifier(model, optimizer, schedule, **{"sparsity": 0.5, "steps": steps} | settings)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class Mine(SGD):
    """Made of SGD, whose step torch hooks as well as its own."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_optimizer_made_of_another_makes_one_step_at_a_time(schedule: str) -> None:
    plain, inherited = made(schedule), made(schedule, kind=Mine)
    for one in (plain, inherited):
        train(*one, range(6))
        one[2].finish()
    assert same(plain[0], inherited[0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_that_failed_is_no_part_of_the_next(schedule: str) -> None:
    plain, other = made(schedule), made(schedule)
    train(*plain, range(4))
    train(*other, range(2))

    def fails() -> Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        other[1].step(fails)
    train(*other, range(2, 4))
    assert same(plain[0], other[0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_compiled_step_is_the_same_step(schedule: str) -> None:
    plain, other = made(schedule), made(schedule)
    torch._dynamo.reset()
    train(*plain, range(4))
    train(*other, range(4), torch.compile(other[1].step, backend="eager"))
    for one, two in zip(plain[0].parameters(), other[0].parameters(), strict=True):
        torch.testing.assert_close(one, two)
        assert torch.equal(one == 0, two == 0)


@pytest.mark.parametrize("schedule", ["movement:begin=0.2,every=1", "srste:begin=0.4", "gradual:begin=0.2,every=1"])
def test_weights_that_are_loaded_while_nothing_is_dropped_are_trained(schedule: str) -> None:
    after = made(schedule, net(1))
    train(*after, range(6))
    before = made(schedule)
    before[0].load_state_dict(net(1).state_dict())
    train(*before, range(6))
    assert before[2].finish().sparsity == 0.5
    assert same(before[0], after[0])


@pytest.mark.parametrize("schedule", ["movement:begin=0,every=1", "srste"])
def test_live_weights_that_are_written_to_stay_written(schedule: str) -> None:
    model, optimizer, sparsity = made(schedule)
    train(model, optimizer, sparsity, range(3))
    with torch.no_grad():
        model[0].weight.clamp_(-0.05, 0.05)
    kept = sparsity.masks["0.weight"]
    optimizer.param_groups[0]["lr"] = 0.0
    train(model, optimizer, sparsity, range(3, 6))
    assert model[0].weight.detach().abs()[kept & sparsity.masks["0.weight"]].max() <= 0.05


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_without_the_zeros_are_told_at_the_end(schedule: str) -> None:
    model, optimizer, sparsity = made(schedule)
    train(model, optimizer, sparsity, range(6))
    held = copy.deepcopy(model.state_dict())
    model.load_state_dict(net(1).state_dict())
    with pytest.raises(RecipeError, match=r"0 has got other weights .* \d+ that its mask drops are not zero"):
        sparsity.finish()
    model.load_state_dict(held)
    assert sparsity.finish().sparsity == 0.5


def test_the_past_of_another_optimizer_moves_no_zero() -> None:
    dense = net()
    other = AdamW(dense.parameters(), lr=0.05)
    for step in range(3):
        backward(dense, step)
        other.step()
    model, optimizer, sparsity = made("fixed", kind=AdamW)
    optimizer.load_state_dict(other.state_dict())
    train(model, optimizer, sparsity, range(3))
    assert sparsity.finish().sparsity == 0.5
    for name, mask in sparsity.masks.items():
        assert not optimizer.state[model.get_parameter(name)]["exp_avg_sq"][~mask].any()


def test_an_optimizer_that_makes_no_steps_of_its_own_is_told() -> None:
    """As sharpness-aware ones are used: by the steps of another that they hold."""

    class Holding(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1})
            self.inner = SGD(self.param_groups, lr=0.1)

        def second_step(self) -> None:
            self.inner.step()

    model = net()
    optimizer = Holding(model.parameters())
    sparsity = prunus.Sparsifier(model, optimizer, "rigl:every=1", sparsity=0.5, steps=4)
    train(model, optimizer, sparsity, range(4), optimizer.second_step)
    with pytest.raises(RecipeError, match="made no step"):
        sparsity.finish()


@pytest.mark.parametrize("schedule", ["gradual:every=1,end=1", "movement:begin=0,every=1,end=1"])
def test_an_end_that_came_too_soon_can_be_mended(schedule: str) -> None:
    plain, other = made(schedule), made(schedule)
    train(*plain, range(6))
    train(*other, range(4))
    with pytest.raises(RecipeError, match="call step"):
        other[2].finish()
    train(*other, range(4, 6))
    assert other[2].finish().sparsity == plain[2].finish().sparsity == 0.5
    assert same(plain[0], other[0])


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_takes_nothing_from_the_target(fused: bool) -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.05, fused=fused)
    sparsity = prunus.Sparsifier(model, optimizer, "gradual:every=1,end=1", sparsity=0.8, steps=6)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=99)
    for step in range(6):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 16)).square().mean()
        scaler.scale(loss * (torch.inf if step == 0 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        sparsity.step()
    assert (sparsity.done, sparsity.skipped) == (5, 1)
    assert sparsity.finish().sparsity == pytest.approx(0.8, abs=0.001)
    assert prunus.Masks.of(model).sparsity == pytest.approx(0.8, abs=0.001)


def test_a_model_whose_optimizer_is_gone_is_free() -> None:
    model, optimizer, sparsity = made("fixed")
    backward(model, 0)
    assert not model[0].weight.grad.all()
    del optimizer, sparsity
    gc.collect()
    model.load_state_dict(net().state_dict())
    model.zero_grad()
    backward(model, 0)
    assert model[0].weight.grad.all()


def test_an_optimizer_keeps_what_nobody_else_does() -> None:
    model, optimizer, sparsity = made("fixed")
    masks = sparsity.masks
    del sparsity
    gc.collect()
    for step in range(3):
        backward(model, step)
        optimizer.step()
    assert all(not model.get_parameter(name).detach()[~mask].any() for name, mask in masks.items())


def test_the_next_takes_the_place_of_the_last() -> None:
    model, optimizer, sparsity = made("fixed")
    again = prunus.Sparsifier(model, optimizer, "rigl:every=1", sparsity=0.75, steps=4)
    train(model, optimizer, again, range(4))
    assert again.finish().sparsity == pytest.approx(0.75, abs=0.01)
    for call in (sparsity.step, sparsity.finish):
        with pytest.raises(RecipeError, match="another Sparsifier has been made for the same layers"):
            call()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_frozen_layers_are_left(schedule: str) -> None:
    model = net()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    model, optimizer, sparsity = made(schedule, model)
    train(model, optimizer, sparsity, range(6))
    assert sparsity.finish().left["0"] == "the optimizer does not train it"
    assert torch.equal(model[0].weight, before)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model, optimizer, sparsity = made("rigl:every=1")
    train(model, optimizer, sparsity, range(2))
    state, masks = sparsity.state_dict(), dict(sparsity.masks)
    train(model, optimizer, sparsity, range(2, 4))
    later = {name: mask.clone() for name, mask in sparsity.masks.items()}
    with pytest.raises(RecipeError, match="load the model's own state first"):
        sparsity.load_state_dict(state)
    assert all(torch.equal(later[name], mask) for name, mask in sparsity.masks.items())
    assert any(not torch.equal(later[name], mask) for name, mask in masks.items())
    with pytest.raises(RecipeError, match=r"of training in 6 steps, this is one in 9"):
        made("rigl:every=1", copy.deepcopy(model), steps=9, state=sparsity.state_dict())


@pytest.mark.parametrize("schedule", ["movement:begin=0,every=1", "srste"])
def test_a_state_behind_the_end_is_told(schedule: str) -> None:
    model, optimizer, sparsity = made(schedule)
    train(model, optimizer, sparsity, range(6))
    sparsity.finish()
    with pytest.raises(RecipeError, match=r"the state was taken behind finish\(\)"):
        prunus.Sparsifier(model, optimizer, schedule, sparsity=0.5, steps=6, state=sparsity.state_dict())


@pytest.mark.parametrize("schedule", [one for one in SCHEDULES if one != "rigl:every=1"])  # whose gradients are gone
def test_a_state_between_the_two_steps_loses_none(schedule: str) -> None:
    whole = made(schedule)
    train(*whole, range(6))
    model, optimizer, sparsity = made(schedule)
    train(model, optimizer, sparsity, range(2))
    optimizer.zero_grad()
    backward(model, 2)
    optimizer.step()
    state = copy.deepcopy(sparsity.state_dict())
    again = copy.deepcopy(model)
    other = SGD(again.parameters(), lr=0.05)
    rest = prunus.Sparsifier(again, other, schedule, sparsity=0.5, steps=6, state=state)
    rest.step()
    train(again, other, rest, range(3, 6))
    assert same(whole[0], again)


def test_what_would_be_ignored_is_told() -> None:
    half = {name: torch.rand(value.shape) > 0.5 for name, value in net().named_parameters() if value.dim() == 2}
    with pytest.raises(RecipeError, match=r"the masks are .* sparse, and stay so with this schedule; sparsity=0\.9"):
        made("rigl:every=1", sparsity=0.9, masks=half)
    soft = {name: 0.5 * mask for name, mask in half.items()}
    model, _, _ = made("fixed", sparsity=None, masks=soft)
    assert torch.equal(model[0].weight[half["0.weight"]], net()[0].weight[half["0.weight"]])
    with pytest.raises(RecipeError, match="'movement' compares weights by scores of its own"):
        made("movement", criterion="random")
    with pytest.warns(UserWarning, match="masks never change in 6 steps"):
        made("rigl")
    begun = net()
    with torch.no_grad():
        begun[0].weight.zero_()
        begun[2].weight[0].zero_()
    with pytest.warns(UserWarning, match="0 holds nothing but zeros"):
        model, optimizer, _held = made("fixed", begun, sparsity=None)
    backward(model, 0)
    optimizer.step()
    assert model[0].weight.any()
    assert not model[2].weight[0].any()
    dull = net()
    with torch.no_grad():
        dull[2].weight.mul_(1e-3)
    with pytest.warns(UserWarning, match="2 has lost all of its weights"):
        made("fixed", dull)
