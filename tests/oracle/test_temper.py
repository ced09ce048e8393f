"""Tempered Grams: the matrix power itself, and errors that are still measured on what was really seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from measured import inputs_of, measured

import prunus
from prunus.core import registry
from prunus.core.errors import RecipeError
from prunus.core.problem import Problem
from prunus.core.site import Site
from prunus.core.stats import Stats
from prunus.recipe import Recipe
from prunus.solve.temper import tempered
from prunus.stream.sources import MemorySource
from prunus.verbs.prepare import calibration_windows
from tiny import model_of


def problem_of(inputs: torch.Tensor, rows: int = 12, batch: int = 1) -> Problem:
    """A layer on ``inputs [tokens cols]``, each entry of its batch on those times its number."""
    cols = inputs.shape[1]
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(batch, rows, cols, generator=generator)
    gram = torch.stack([(k + 1) * inputs.T @ inputs for k in range(batch)])
    site = Site("layer", "layer.weight", (batch, rows, cols), torch.float32)
    make = registry.pattern.make("unstructured"), registry.criterion.make("wanda")
    return Problem(site, weight, Stats(torch.full((batch,), len(inputs)), {"gram": gram}), 0.5, *make)


def drawn(problems: list[Problem], power: float) -> list[Problem]:
    """The Problems with their shared Stats tempered."""
    stats = tempered(problems[0].stats, power, "layer")
    return [replace(problem, stats=stats) for problem in problems]


def correlated(seed: int = 0, tokens: int = 200, cols: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, cols, generator=generator) @ torch.randn(cols, cols, generator=generator)


@pytest.mark.parametrize("power", [0.5, 0.25])
def test_a_power_taken_as_often_as_it_goes_into_one_is_the_gram(power: float) -> None:
    """(Hᵖ)^(1/p) = H by plain products, up to the scale that keeps the trace; a batch entry at a time."""
    (found,) = drawn([problem_of(correlated(), batch=2)], power)
    for entry, gram in enumerate(found.stats.measured()):
        raised = found.stats.gram()[entry].double()  # found in fp32, so that small eigenvalues are known less well
        assert raised.trace() == pytest.approx(float(gram.trace()), rel=1e-5)
        whole = torch.linalg.matrix_power(raised, round(1 / power))
        torch.testing.assert_close(whole * gram.trace() / whole.trace(), gram.double(), rtol=1e-3, atol=1e-2)


def test_inputs_that_were_always_zero_stay_so() -> None:
    inputs = correlated()
    inputs[:, [2, 9]] = 0.0
    (found,) = drawn([problem_of(inputs)], 0.75)
    gram = found.stats.gram()[0]
    assert (gram[[2, 9]] == 0).all()
    assert (gram[:, [2, 9]] == 0).all()
    assert (found.stats.norm_sq()[0] > 0).sum() == 14


def test_one_token_and_none_are_no_hindrance() -> None:
    (one,) = drawn([problem_of(correlated(tokens=1))], 0.75)
    torch.testing.assert_close(one.stats.gram(), one.stats.measured(), rtol=1e-4, atol=1e-4)  # of rank one
    (none,) = drawn([problem_of(torch.zeros(4, 16))], 0.75)
    assert (none.stats.gram() == 0).all()


@pytest.mark.parametrize("solver", ["admm", "lstsq", "sparsegpt"])
def test_errors_are_measured_on_the_gram_that_was_seen(solver: str) -> None:
    plain = problem_of(correlated())
    (problem,) = drawn([plain], 0.6)
    (solution,) = registry.solver.make(solver).solve([problem])
    difference = (plain.weight - solution.weight)[0].double()
    lost = float((difference @ correlated().double().T).square().sum())
    assert solution.lost == pytest.approx(lost, rel=1e-4)
    (untempered,) = registry.solver.make(solver).solve([plain])
    assert not torch.equal(solution.weight, untempered.weight)


def test_a_lower_power_does_more_for_directions_that_were_hardly_seen() -> None:
    """Errors on inputs of equal energy in every direction fall with the power, those on the calibration's rise."""
    plain = problem_of(correlated(3), rows=64)
    solver = registry.solver.make("lstsq", {"method": "exact", "damp": 0})
    seen, everywhere = [], []
    for power in (1.0, 0.75, 0.5):
        (solution,) = solver.solve(drawn([plain], power))
        seen.append(solution.rel_error)
        everywhere.append(float((plain.weight - solution.weight).square().sum()))
    assert seen == sorted(seen)
    assert everywhere == sorted(everywhere, reverse=True)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_whole_run_tells_the_errors_that_its_layers_have(family: str, tokenizer, quick) -> None:
    settings = {**quick, "method": "sparsegpt", "solver": "admm", "sparsity": 0.5, "temper": 0.75, "eval_windows": 0}
    dense, pruned, plain = (model_of(family) for _ in range(3))
    result = prunus.prune(pruned, tokenizer=tokenizer, **settings)
    prunus.prune(plain, tokenizer=tokenizer, **{**settings, "temper": 1.0})
    source = MemorySource(dense, torch.device("cpu"))
    windows = calibration_windows(source, tokenizer, Recipe.of(quick))
    inputs = inputs_of(dense, dense.model.layers[0], windows)
    told = {record["name"]: record["rel_error"] for record in result.sites}
    first = source.found[0].sites[0]
    assert told[first.name] == pytest.approx(measured(first, dense, pruned, inputs), rel=1e-3)
    assert not torch.equal(pruned.get_parameter(first.parameter), plain.get_parameter(first.parameter))


def test_recipes_name_what_is_wrong_with_it() -> None:
    for wrong in (0, -1, 1.5, "much", True):
        with pytest.raises(RecipeError, match="temper"):
            Recipe.of({"temper": wrong})
        with pytest.raises(RecipeError, match="must be above 0"):
            Recipe.of({"method": "wanda", "temper": wrong})
    with pytest.raises(RecipeError, match=r"temper 0.5: method 'wanda' as composed needs no Gram"):
        Recipe.of({"method": "wanda", "temper": 0.5})
    assert Recipe.of({"method": "sparsegpt"}).build_method().temper == 1
    assert Recipe.of({"method": "sparsegpt", "temper": 0.5}).build_method().temper == 0.5
