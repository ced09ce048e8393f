"""Importances of units against what they stand for: closed forms, and the error of leaving units out."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from prunus.core import registry
from prunus.core.stats import Needs, Stats
from prunus.core.units import Reader, Units, Writer
from prunus.observe.tally import Tally
from prunus.solve.eliminate import Elimination

ROWS, COLS, TOKENS = 5, 8, 200


def inputs_of(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(COLS) + 0.5 * torch.randn(COLS, COLS, generator=generator)
    return torch.randn(4, TOKENS // 4, COLS, generator=generator) @ mix + torch.randn(COLS, generator=generator)


def units_of(seed: int, each: int = 1, groups: int = 1) -> tuple[Units, Tensor, Tensor]:
    inputs = inputs_of(seed)
    needs = Needs.GRAM | Needs.NORM | Needs.SUM | Needs.WINDOWS
    tally = Tally(1, COLS, needs, torch.device("cpu"), [])
    for half in inputs.split(2):
        tally.add(0, half)
    generator = torch.Generator().manual_seed(seed + 100)
    weight = torch.randn(ROWS, COLS, generator=generator)
    columns = torch.arange(COLS).view(-1, each)
    own = {"grad": torch.randn(ROWS, COLS, generator=generator)}
    writer = Writer(torch.randn(COLS // each, 6, generator=generator), {"grad": torch.randn(COLS // each, 6)})
    reader = Reader(weight, columns, tally.stats(), "reader", own)
    return Units(COLS // each, (reader,), (writer,), groups), inputs.reshape(-1, COLS), weight


def error_without(dropped: Tensor, inputs: Tensor, weight: Tensor, damp: float = 0.0) -> float:
    """Least squares on what stays, in fp64: ‖(W − Ŵ)X‖² with the ridge that the damping is."""
    gram = inputs.double().T @ inputs.double()
    gram += damp * gram.diagonal().mean() * torch.eye(COLS, dtype=torch.float64)
    stays = torch.tensor([k for k in range(COLS) if k not in dropped.tolist()])
    best = torch.zeros(ROWS, COLS, dtype=torch.float64)
    best[:, stays] = torch.linalg.solve(gram[stays][:, stays], gram[stays] @ weight.double().T).T
    lost = weight.double() - best
    return float((lost @ gram * lost).sum())


@pytest.mark.parametrize("each", [1, 2])
def test_obs_is_the_error_of_leaving_a_unit_out(each) -> None:
    units, inputs, weight = units_of(3, each)
    scores = registry.importance.make("obs", {"damp": 0.01}).score(units)
    for unit in range(units.count):
        wanted = error_without(units.readers[0].columns[unit], inputs, weight, 0.01)
        assert float(scores[unit]) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("each", [1, 2])
def test_obs_chooses_what_greedy_least_squares_would(each) -> None:
    for seed in range(5):
        units, inputs, weight = units_of(seed, each)
        kept = units.count // 2
        gone: list[int] = []
        while len(gone) < units.count - kept:
            errors = {
                unit: error_without(units.readers[0].columns[[*gone, unit]].flatten(), inputs, weight, 0.01)
                for unit in range(units.count)
                if unit not in gone
            }
            gone.append(min(errors, key=errors.__getitem__))
        found = registry.importance.make("obs").choose(units, kept)
        assert sorted(set(range(units.count)) - set(found.tolist())) == sorted(gone)


@pytest.mark.parametrize("each", [1, 3])
def test_elimination_stays_exact_over_hundreds_of_units(each) -> None:
    """Against least squares on what stays, solved anew; more columns go than are held before the matrices follow."""
    generator = torch.Generator().manual_seed(0)
    cols = 150
    mix = torch.eye(cols) + 0.3 * torch.randn(cols, cols, generator=generator)
    inputs = torch.randn(800, cols, generator=generator) @ mix
    weight = torch.randn(20, cols, generator=generator)
    gram = (inputs.T @ inputs).double() + 5 * torch.eye(cols, dtype=torch.float64)
    columns = torch.arange(cols).view(-1, each)
    fit = Elimination(weight, gram.inverse().float(), columns)
    error, gone = 0.0, torch.zeros(cols, dtype=torch.bool)
    for unit in torch.randperm(len(columns), generator=generator)[: 105 // each].tolist():
        error += float(fit.costs()[unit])
        fit.drop(unit)
        gone[columns[unit]] = True
    best = torch.zeros(20, cols, dtype=torch.float64)
    best[:, ~gone] = torch.linalg.solve(gram[~gone][:, ~gone], gram[~gone] @ weight.double().T).T
    lost = weight.double() - best
    assert error == pytest.approx(float((lost @ gram * lost).sum()), rel=1e-4)
    blocks = torch.linalg.inv(gram[~gone][:, ~gone])
    whole = torch.zeros(cols, cols, dtype=torch.float64)
    whole[~gone.unsqueeze(1) & ~gone.unsqueeze(0)] = blocks.flatten()
    for unit, at in enumerate(columns):
        if not gone[at[0]]:
            wanted = (best[:, at] @ torch.linalg.inv(whole[at][:, at]) * best[:, at]).sum()
            assert float(fit.costs()[unit]) == pytest.approx(float(wanted), rel=1e-3)


@pytest.mark.parametrize("name", list(registry.importance.entries()))
def test_what_goes_last_in_the_order_is_what_stays(name) -> None:
    units, _, _ = units_of(6)
    method = registry.importance.make(name)
    order = method.order(units)
    assert sorted(order.tolist()) == list(range(units.count))
    for kept in (1, 3, 6):
        assert torch.equal(units.last(order, kept), method.choose(units, kept).cpu())


def test_obs_is_near_the_best_choice_there_is() -> None:
    ratios = []
    for seed in range(8):
        units, inputs, weight = units_of(seed)
        best = min(error_without(torch.tensor(gone), inputs, weight) for gone in combinations(range(COLS), 3))
        kept = registry.importance.make("obs").choose(units, COLS - 3)
        gone = torch.tensor([k for k in range(COLS) if k not in kept.tolist()])
        ratios.append(error_without(gone, inputs, weight) / best)
        plain = registry.importance.make("weight").choose(units, COLS - 3)
        others = torch.tensor([k for k in range(COLS) if k not in plain.tolist()])
        assert ratios[-1] <= error_without(others, inputs, weight) / best + 1e-6
    assert sum(ratios) / len(ratios) < 1.2


def test_activation_is_the_papers_formula() -> None:
    units, _, _ = units_of(1, each=2)
    windows = inputs_of(1)
    channel = windows.abs().mean(1).square().sum(0)
    torch.testing.assert_close(registry.importance.make("activation").score(units), channel.view(-1, 2).sum(1).sqrt())


def test_fluctuation_is_the_papers_formula() -> None:
    units, inputs, weight = units_of(1, each=2)
    channel = inputs.var(0, correction=0) * weight.square().sum(0)
    found = registry.importance.make("fluctuation").score(units)
    torch.testing.assert_close(found, channel.view(-1, 2).sum(1), rtol=1e-4, atol=1e-4)


def test_taylor_is_the_change_of_a_linear_loss() -> None:
    """With a loss that is linear in the weights the estimate is exact."""
    units, _, weight = units_of(2, each=2)
    reader, writer = units.readers[0], units.writers[0]
    scores = registry.importance.make("taylor").score(units)
    for unit in range(units.count):
        left = weight.clone()
        left[:, reader.columns[unit]] = 0
        change = ((weight - left) * reader.own["grad"]).sum() + (writer.weight[unit] * writer.own["grad"][unit]).sum()
        assert float(scores[unit]) == pytest.approx(abs(float(change)), rel=1e-4)


def test_weight_counts_readers_and_writers() -> None:
    units, _, weight = units_of(2)
    wanted = weight.square().sum(0) + units.writers[0].weight.square().sum(1)
    torch.testing.assert_close(registry.importance.make("weight").score(units), wanted)


@pytest.mark.parametrize("name", list(registry.importance.entries()))
@pytest.mark.parametrize(("each", "groups", "kept"), [(1, 1, 5), (2, 1, 3), (1, 4, 4), (1, 2, 6), (2, 2, 2), (1, 1, 8)])
def test_as_many_stay_as_were_asked_for_of_every_group(name, each, groups, kept) -> None:
    units, _, _ = units_of(4, each, groups)
    found = registry.importance.make(name).choose(units, kept)
    assert found.tolist() == sorted(set(found.tolist()))
    assert torch.bincount(found // (units.count // groups), minlength=groups).tolist() == [kept // groups] * groups


def test_a_dead_input_goes_first() -> None:
    inputs = inputs_of(5)
    inputs[..., 3] = 0
    stats = Stats.of(TOKENS, gram=(inputs.reshape(-1, COLS).T @ inputs.reshape(-1, COLS)).unsqueeze(0))
    reader = Reader(torch.randn(ROWS, COLS), torch.arange(COLS).view(-1, 1), stats, "reader")
    kept = registry.importance.make("obs").choose(Units(COLS, (reader,)), COLS - 1)
    assert 3 not in kept.tolist()
