"""A Sparsifier among things that go their own way: scalers, wrappers, clipping, frozen layers, several processes."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

import prunus
from prunus.core.errors import CheckpointError, NumericalError, RecipeError, UnsupportedModelError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4))


def inputs(step: int = 0) -> Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(step))


def one_step(model: nn.Module, optimizer: Any, sparsity: prunus.Sparsifier | None, step: int = 0) -> None:
    optimizer.zero_grad()
    model(inputs(step)).square().mean().backward()
    optimizer.step()
    if sparsity is not None:
        sparsity.step()


def dropped_are_zero(model: nn.Module, sparsity: prunus.Sparsifier) -> bool:
    return all(not model.get_parameter(name).detach()[~mask].any() for name, mask in sparsity.masks.items())


@pytest.mark.parametrize("schedule", ["movement:begin=0,every=1", "srste:weight=0.1", "rigl:every=1"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_optimizers_that_skip_and_unscale_by_themselves(kind, schedule) -> None:
    """They are called with scaled gradients, also for a step that they will not make."""
    found = []
    for scale in (None, 64.0):
        model = net()
        optimizer = kind(model.parameters(), lr=0.01, fused=True)
        sparsity = prunus.Sparsifier(model, optimizer, schedule, sparsity=0.5, steps=5)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None, growth_interval=99)
        for step in range(5):
            optimizer.zero_grad()
            loss = model(inputs(step)).square().mean()
            if scale is not None and step == 2:
                before = copy.deepcopy([*model.state_dict().values()])
                scaler.scale(loss * torch.inf).backward()
                scaler.step(optimizer)
                sparsity.step()
                assert sparsity.done == 2
                assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
                optimizer.zero_grad()
                loss = model(inputs(step)).square().mean()
                scaler.update()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            sparsity.step()
            assert dropped_are_zero(model, sparsity)
        assert sparsity.finish().steps == 5
        found.append(model)
    for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_step_that_was_not_told_of_is() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, "rigl:every=2", sparsity=0.5, steps=9)
    one_step(model, optimizer, None)
    with pytest.raises(RecipeError, match=r"step\(\) was not called behind the last step"):
        one_step(model, optimizer, None)
    sparsity.step()
    one_step(model, optimizer, sparsity)
    assert sparsity.done == 2


def test_what_the_optimizer_does_not_train_is_left() -> None:
    model = net()
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model[2:].parameters(), lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, "gradual:every=1,end=1", sparsity=0.5, steps=4)
    for step in range(4):
        one_step(model, optimizer, sparsity, step)
    found = sparsity.finish()
    assert torch.equal(model[0].weight, before)
    assert found.left["0"] == "the optimizer does not train it"
    assert set(found.masks) == {"2.weight", "4.weight"}
    assert found.sparsity == 0.5


def test_each_of_two_optimizers_has_its_own() -> None:
    model = net()
    parts = [model[:2], model[2:]]
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]
    held = []
    for optimizer, share in zip(optimizers, (0.5, 0.75), strict=True):
        held.append(prunus.Sparsifier(model, optimizer, "fixed", sparsity=share))
    for _ in range(2):
        for optimizer, sparsity in zip(optimizers, held, strict=True):
            one_step(model, optimizer, sparsity)
    assert [round(one.finish().sparsity, 2) for one in held] == [0.5, 0.75]


def test_sparsities_of_single_layers_rise_too() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    settings = {"sparsity": 0.5, "set": ["4=dense", "0=0.75"], "allocation": "uniform"}
    sparsity = prunus.Sparsifier(model, optimizer, "gradual:every=1,end=1", steps=8, **settings)
    told = []
    for step in range(8):
        one_step(model, optimizer, sparsity, step)
        told.append([1 - layer.live / layer.mask.numel() for layer in sparsity.layers])
    for step, shares in enumerate(told, start=1):
        risen = 1 - (1 - step / 8) ** 3
        assert shares == pytest.approx([0.75 * risen, 0.5 * risen, 0.0], abs=0.01)
    assert sparsity.finish().layers == {"0": 0.75, "2": 0.5, "4": 0.0}


def test_training_may_end_early() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sparsity = prunus.Sparsifier(model, optimizer, "gradual:every=1,end=1", sparsity=0.8, steps=8)
    one_step(model, optimizer, sparsity)
    assert 0 < sparsity.finish(early=True).sparsity < 0.8


def test_n_to_m_comes_at_once_where_others_rise() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sparsity = prunus.Sparsifier(model, optimizer, "movement:begin=0.4,end=0.9,every=2", sparsity="2:4", steps=10)
    shares = []
    for step in range(10):
        one_step(model, optimizer, sparsity, step)
        shares.append(sparsity.sparsity)
    assert set(shares) == {0.0, 0.5}
    assert shares == sorted(shares)
    for layer in sparsity.layers:
        assert bool((layer.mask.view(-1, 4).sum(1) == 2).all())


def test_chance_takes_nothing_back() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    settings = {"sparsity": 0.9, "criterion": "random", "steps": 8}
    sparsity = prunus.Sparsifier(model, optimizer, "gradual:every=1,end=1", **settings)
    before = sparsity.masks
    for step in range(8):
        one_step(model, optimizer, sparsity, step)
        assert not any((sparsity.masks[name] & ~before[name]).any() for name in before)
        before = sparsity.masks
    began = net()[0].weight.detach()[before["0.weight"]]  # 40 of any size and sign
    assert 0.3 < float((began.abs() < 0.125).float().mean()) < 0.7
    assert 0.3 < float((began < 0).float().mean()) < 0.7
    assert sparsity.finish().sparsity == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(("kind", "state", "first"), [
    (torch.optim.Rprop, "step_size", 0.02), (torch.optim.Adagrad, "sum", 0.3), (torch.optim.Adam, "exp_avg", 0.0),
])  # fmt: skip
def test_what_grows_begins_as_if_it_were_new(kind, state, first) -> None:
    more = {"initial_accumulator_value": 0.3} if kind is torch.optim.Adagrad else {}
    model = net()
    optimizer = kind(model.parameters(), lr=0.02, **more)
    sparsity = prunus.Sparsifier(model, optimizer, "set:every=2,share=0.6", sparsity=0.5, steps=10, allocation="uniform")
    for step in range(2):
        before = sparsity.masks
        one_step(model, optimizer, sparsity, step)
    for layer in sparsity.layers:
        grown = (layer.mask != 0) & ~before[layer.site.parameter]
        assert grown.any()
        kept = optimizer.state[layer.parameter][state]
        assert bool((kept[grown | (layer.mask == 0)] == torch.tensor(first)).all())
        assert not layer.parameter.detach()[grown].any()


def test_codes_that_cannot_be_cleared_are_told() -> None:
    """As optimizers have them that keep their states in 8 bits."""

    class InCodes(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for one in group["params"]:
                    self.state[one].setdefault("codes", torch.zeros(one.shape, dtype=torch.uint8))
            return super().step(closure)

    model = nn.Linear(8, 8, bias=False)
    sparsity = prunus.Sparsifier(
        model, optimizer := InCodes(model.parameters(), lr=0.1), "set:every=1", sparsity=0.5, steps=9
    )
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match=r"InCodes keeps 'codes' as torch.uint8"):
        sparsity.step()
    assert int(sparsity.masks["weight"].sum()) == 32


@pytest.mark.parametrize("schedule", ["fixed", "srste"])
def test_zeros_have_no_sign_in_the_end(schedule) -> None:
    """A zero with a sign would be stored as a weight."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsity = prunus.Sparsifier(model, optimizer, schedule, sparsity="2:4", steps=2)
    for step in range(2):
        one_step(model, optimizer, sparsity, step)
    sparsity.finish()
    assert not any((p == 0).logical_and(p.signbit()).any() for p in model.parameters())


def test_nan_is_told_where_masks_change_and_in_the_end() -> None:
    for schedule in ("fixed", "gradual:every=2"):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=float("inf"))
        sparsity = prunus.Sparsifier(model, optimizer, schedule, sparsity=0.5, steps=8)
        one_step(model, optimizer, sparsity)
        with pytest.raises(NumericalError, match="NaN or Inf behind [12] steps. Try a lower learning rate"):
            one_step(model, optimizer, sparsity) if schedule != "fixed" else sparsity.finish()


def test_other_weights_are_noticed() -> None:
    model = net()
    dense = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prunus.Sparsifier(model, optimizer, "fixed", sparsity=0.5)
    model.load_state_dict(dense)
    with pytest.raises(RecipeError, match="0 has got other weights since the Sparsifier was made"):
        one_step(model, optimizer, None)


def test_clipping_does_not_see_dropped_weights() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, "rigl:every=2", sparsity=0.75, steps=8)
    for step in range(4):
        optimizer.zero_grad()
        for _ in range(2):  # added up
            model(inputs(step)).square().mean().backward()
        seen = any(layer.parameter.grad[layer.mask == 0].any() for layer in sparsity.layers)
        assert seen == (step % 2 == 1)  # those before an exchange are looked at
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        for layer in sparsity.layers:
            layer.parameter.grad += 1e-3  # noise that comes late
        optimizer.step()
        assert dropped_are_zero(model, sparsity)
        sparsity.step()


def test_accelerates_optimizer_is_seen_through() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(net(), torch.optim.SGD(net().parameters(), lr=0.1))
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    sparsity = prunus.Sparsifier(model, optimizer, "fixed", sparsity=0.5)
    one_step(model, optimizer, sparsity)
    assert dropped_are_zero(model, sparsity)
    assert sparsity.done == 1
    with pytest.raises(UnsupportedModelError, match="object is no optimizer of torch's"):
        prunus.Sparsifier(net(), object(), "fixed", sparsity=0.5)  # type: ignore[arg-type]


def test_a_model_that_moves_before_it_is_trained_is_followed() -> None:
    for schedule in ("fixed", "movement:begin=0,every=1"):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsity = prunus.Sparsifier(model, optimizer, schedule, sparsity=0.5, steps=2)
        model.bfloat16()
        for step in range(2):
            optimizer.zero_grad()
            model(inputs(step).bfloat16()).square().mean().backward()
            optimizer.step()
            sparsity.step()
        assert {layer.mask.dtype for layer in sparsity.layers} == {torch.bfloat16}
        assert all(layer.score is None or layer.score.dtype == torch.float32 for layer in sparsity.layers)
        assert sparsity.finish().sparsity == pytest.approx(0.5, abs=0.01)
        assert dropped_are_zero(model, sparsity)


def test_models_are_copied_and_saved_meanwhile() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, "movement:begin=0,every=1", sparsity=0.5, steps=4)
    one_step(model, optimizer, sparsity)
    twin = copy.deepcopy(model)
    torch.save(model, io.BytesIO())
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    one_step(twin, torch.optim.SGD(twin.parameters(), lr=0.1), None)
    assert bool(twin[0].weight.all())  # the copy is free
    one_step(model, optimizer, sparsity)
    assert dropped_are_zero(model, sparsity)


def test_zeros_of_layers_that_are_left_out_are_no_matter() -> None:
    model = net()
    prunus.prune(model, method="magnitude", sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity = prunus.Sparsifier(model, optimizer, "fixed", exclude=["0"])
    one_step(model, optimizer, sparsity)
    assert set(sparsity.masks) == {"2.weight", "4.weight"}
    assert bool(model[0].weight.all())


@pytest.mark.parametrize(("schedule", "settings", "told"), [
    ("rigl", {"sparsity": "2:4"}, "pattern 'nm:n=2,m=4': weights change places one by one"),
    ("set", {"sparsity": 0.5, "pattern": "unstructured:scope=row"}, "weights change places one by one"),
    ("gradual", {"sparsity": 0.5, "set": ["0=threshold:0.1"]}, "a threshold cannot rise as 'gradual' has it"),
    ("gradual", {"sparsity": 0.5, "set": ["nine=0.3"]}, "--set 'nine' matches none"),
    ("movement", {"sparsity": "3:5"}, "0 and 1 more: 16 columns"), ("srste:every=0", {"sparsity": "2:4"}, "every 0"),
])  # fmt: skip
def test_what_does_not_fit_is_told_at_once(schedule, settings, told) -> None:
    model = net()
    with pytest.raises(RecipeError, match=told):
        prunus.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule, steps=9, **settings)


def test_a_state_of_another_schedule_is_told() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = prunus.Sparsifier(model, optimizer, "set:every=2", sparsity=0.5, steps=9).state_dict()
    with pytest.raises(RecipeError, match="the state is of the schedule Set, this one is RigL"):
        prunus.Sparsifier(model, optimizer, "rigl", sparsity=0.5, steps=9, state=state)


def test_srste_may_choose_now_and_then() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sparsity = prunus.Sparsifier(model, optimizer, "srste:every=3", sparsity="2:4", steps=9)
    changed = []
    for step in range(9):
        before = sparsity.masks
        one_step(model, optimizer, sparsity, step)
        changed.append(any(not torch.equal(mask, before[name]) for name, mask in sparsity.masks.items()))
    assert [step for step, one in enumerate(changed, start=1) if one] == [3, 6, 9]


def test_masks_that_were_changed_in_their_file_are_told(tmp_path) -> None:
    masks = prunus.prune(net(), method="magnitude", sparsity=0.5).masks
    masks.save(tmp_path / "m")
    assert masks.counts == prunus.Masks.load(tmp_path / "m").counts
    with safe_open(tmp_path / "m", framework="pt") as file:
        tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert tensors["0.weight"].numel() == 16 * 24 // 8
    about = json.loads(told["prunus.masks"])
    about["shapes"] |= {"0.weight": [24, 8]}
    for bits, more in (
        ({**tensors, "0.weight": tensors["0.weight"] ^ 1}, told),
        (tensors, {"prunus.masks": json.dumps(about)}),
    ):
        save_file(bits, tmp_path / "m", metadata=more)
        with pytest.raises(CheckpointError, match="not those that were written"):
            prunus.Masks.load(tmp_path / "m")
    save_file(tensors, tmp_path / "m")
    with pytest.raises(CheckpointError, match="no masks of prunus"):
        prunus.Masks.load(tmp_path / "m")


@pytest.mark.parametrize("how", ["structured", "global", "iterated"])
def test_masks_of_torch_are_taken_over(how) -> None:
    model = net()
    if how == "structured":
        prune.ln_structured(model[0], "weight", 0.25, n=2, dim=0)
    elif how == "global":
        prune.global_unstructured([(model[0], "weight"), (model[2], "weight")], prune.L1Unstructured, amount=0.6)
    else:
        prune.l1_unstructured(model[0], "weight", 0.3)
        prune.random_unstructured(model[0], "weight", 0.3)
        prune.l1_unstructured(model[0], "bias", 0.5)
    parameter = model[0].weight_orig
    wanted = {f"{path}.{name.removesuffix('_mask')}": buffer.bool().clone() for path, module in model.named_children()
              for name, buffer in module.named_buffers()}  # fmt: skip
    computed = model(inputs())
    masks = prunus.Masks.from_torch(model)
    assert model[0].weight is parameter  # an optimizer still has it
    assert {name: mask.tolist() for name, mask in masks.items()} == {name: mask.tolist() for name, mask in wanted.items()}
    assert torch.equal(model(inputs()), computed)
    masks.to_torch(model)
    assert torch.equal(model(inputs()), computed)


def test_torch_cannot_mask_what_is_shared() -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.Linear(8, 8))
    model[1].weight = layer.weight
    masks = prunus.prune(model, method="magnitude", sparsity=0.5).masks
    with pytest.raises(RecipeError, match="several layers share it"):
        masks.to_torch(model)


@pytest.mark.slow
def test_two_processes_have_one_mask_and_the_weights_of_one(tmp_path) -> None:
    program = Path(__file__).parents[1] / "parallel_main.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29547"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for start, name in (([sys.executable], "one"), (launch, "two")):
        words = [*start, str(program), str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
    for schedule in ("fixed", "gradual", "set", "rigl", "movement", "srste"):
        alone = torch.load(tmp_path / f"one-{schedule}-0.pt", weights_only=True)
        first, second = (torch.load(tmp_path / f"two-{schedule}-{rank}.pt", weights_only=True) for rank in (0, 1))
        for name, value in alone.items():
            assert torch.equal(first[name], second[name]), (schedule, name)
            assert torch.equal(first[name] != 0, value != 0), (schedule, name)
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)
