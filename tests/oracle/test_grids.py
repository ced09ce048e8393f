"""Survivors on a quantisation grid: GPTQ against a plain loop, joint against one after the other, codes against weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_solvers import loss, make
from torch import Tensor
from transformers import AutoModelForCausalLM

import prunus
from prunus.core import registry
from prunus.core.errors import RecipeError
from prunus.core.packing import packed_bytes
from prunus.core.roles import Levels
from prunus.core.stats import Stats
from prunus.criteria.obs import Obs
from prunus.criteria.wanda import Wanda
from prunus.patterns.block import Block
from prunus.patterns.lines import Column, Row
from prunus.patterns.nm import NM
from prunus.patterns.unstructured import Unstructured
from prunus.quant.integer import Integer
from prunus.solve.admm import Admm
from prunus.solve.keep import Keep
from prunus.solve.lstsq import LeastSquares
from prunus.solve.sparsegpt import SparseGPT
from prunus.stream.sources import MemorySource
from tiny import model_of

GRIDS = [Integer(4, 16), Integer(4, 0), Integer(8, 16), Integer(3, 8, symmetric=False), Integer(4, 32, symmetric=False)]
SOLVERS = [(Keep(), Wanda()), (LeastSquares(), Wanda()), (SparseGPT(), Obs()), (Admm(), Wanda())]


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 300.0]))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("grid", GRIDS)
def test_zero_is_on_every_grid_and_rounding_is_to_the_nearest(grid: Integer, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(2, 3, 16, generator=generator)
    weight[0, 0, :9] = 0.0
    weight[1, 1] = 0.0
    weight[1, 2] = weight[1, 2].abs() + scale  # all on one side of zero
    levels = grid.fit(weight, torch.ones(2, 1, 16), torch.float32)
    snapped = grid.snap(weight, levels)
    assert torch.equal(snapped[weight == 0], torch.zeros(int((weight == 0).sum())))
    codes = grid.codes(weight, levels)
    assert codes.min() >= grid.lowest
    assert codes.max() <= grid.highest
    every = Levels(levels.scale.unsqueeze(-1), levels.zero.unsqueeze(-1)).values(
        torch.arange(grid.lowest, grid.highest + 1).float()
    )
    closest = (every - weight.unsqueeze(-1)).abs().amin(-1)
    torch.testing.assert_close((snapped - weight).abs(), closest, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("grid", GRIDS)
def test_searching_a_scale_never_does_worse_than_reaching_the_largest_weight(grid: Integer) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, importance = torch.randn(1, 50, 32, generator=generator) ** 3, torch.rand(1, 1, 32, generator=generator) + 0.1

    def error(one: Integer) -> Tensor:
        return ((one.snap(weight, one.fit(weight, importance, torch.float32)) - weight).square() * importance).sum(-1)

    assert (error(grid) <= error(replace(grid, search=1)) * (1 + 1e-6)).all()
    if grid.bits <= 4:  # with many, the largest weight does not cost the others much
        assert error(grid).mean() < 0.99 * error(replace(grid, search=1)).mean()


def gptq(weight: Tensor, gram: Tensor, grid: Integer, damp: float) -> Tensor:
    """GPTQ as its paper writes it, a column at a time, scales fitted where a group begins."""
    rows, cols = weight.shape
    damped = gram.double() + damp * gram.double().diagonal().mean() * torch.eye(cols)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    work, width = weight.double().clone(), grid.group or cols
    for j in range(cols):
        if j % width == 0:
            importance = upper.diagonal()[j : j + width].pow(-2).float()
            levels = grid.fit(work[:, j : j + width].float().unsqueeze(0), importance.view(1, 1, -1), torch.float32)
        value = grid.snap(work[:, j].float().view(1, rows, 1), levels).view(rows).double()
        error = (work[:, j] - value) / upper[j, j]
        work[:, j] = value
        work[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    return work.float()


@pytest.mark.parametrize("grid", [*GRIDS, Integer(4, 40), Integer(4, 5)])
def test_where_nothing_is_pruned_sparsegpt_is_gptq(grid: Integer) -> None:
    problem, _ = make(24, 160, sparsity=0.0, grid=grid)
    (solution,) = SparseGPT(blocksize=64).solve([problem])
    gram = problem.stats.gram()[0]
    expected = gptq(problem.weight[0], gram, grid, 0.01)
    same = torch.isclose(solution.weight[0], expected, rtol=1e-4, atol=1e-5).float()
    assert same[:, :40].mean() > 0.97  # one tie broken otherwise changes all that follows in its row
    assert same.mean() > 0.7
    ours, theirs = (loss(problem.weight[0], w, gram) for w in (solution.weight[0], expected))
    assert ours == pytest.approx(theirs, rel=0.03)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), NM(2, 8)])
@pytest.mark.parametrize(("solver", "criterion"), SOLVERS)
def test_what_is_carried_is_the_weights(solver, criterion, pattern, grid: Integer) -> None:
    """Codes, scales and zeros give back every weight exactly; what is dropped is zero; the pattern holds."""
    problem, _ = make(24, 64, criterion=criterion, pattern=pattern, sparsity=pattern.own_sparsity or 0.5, grid=grid)
    other = replace(problem, grid=None, weight=problem.weight.flip(1))
    solution, plain = solver.solve([problem, other])
    assert not plain.extra
    codes, scales, zeros = (solution.extra[name] for name in ("codes", "scales", "zeros"))
    assert codes.dtype == grid.code_dtype
    width = grid.width(64)
    assert scales.shape == zeros.shape == (1, 24, 64 // width)
    values = (codes.float() - zeros.repeat_interleave(width, -1)) * scales.repeat_interleave(width, -1)
    assert torch.equal(values + 0.0, solution.weight)
    assert torch.equal(scales, scales.half().float())
    assert not solution.weight[~solution.mask.keep].any()
    assert pattern.violation(solution.mask.keep) is None
    assert int((~solution.mask.keep).sum()) == int((~plain.mask.keep).sum())


@pytest.mark.parametrize(("pattern", "group", "blocksize"), [(NM(2, 8), 20, 128), (NM(2, 4), 24, 128), (NM(2, 4), 10, 40)])
def test_windows_and_groups_that_do_not_nest_are_chosen_from_what_is_up_to_date(
    pattern, group, blocksize, monkeypatch
) -> None:
    """Cut into strips or eliminated a block at a time, SparseGPT is the same."""
    problem, _ = make(16, 240, criterion=Obs(), pattern=pattern, sparsity=pattern.own_sparsity, grid=Integer(8, group))
    (cut,) = SparseGPT(blocksize=blocksize).solve([problem])
    monkeypatch.setattr("prunus.solve.sparsegpt._STRIP", 240)
    (whole,) = SparseGPT(blocksize=blocksize).solve([problem])
    assert torch.equal(cut.mask.keep, whole.mask.keep)
    torch.testing.assert_close(cut.weight, whole.weight, rtol=1e-3, atol=1e-4)
    assert pattern.violation(cut.mask.keep) is None


def test_a_grid_is_fitted_to_what_will_be_left(monkeypatch) -> None:
    """Of a group that reaches past the window in which masks are chosen, too: nothing in it is still whole."""
    fitted = []
    fit = Integer.fit
    monkeypatch.setattr(Integer, "fit", lambda self, weight, *rest: fitted.append(weight) or fit(self, weight, *rest))
    problem, _ = make(16, 384, criterion=Obs(), pattern=Unstructured(), sparsity=0.5, grid=Integer(8, 96))
    SparseGPT(blocksize=128).solve([problem])
    assert [0.4 < float((weight == 0).float().mean()) < 0.6 for weight in fitted] == [True] * 4


@pytest.mark.parametrize(("solver", "criterion"), SOLVERS[1:])
@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4)])
def test_jointly_is_better_than_one_after_the_other(solver, criterion, pattern) -> None:
    """Inputs of a few directions, as activations are, so that survivors can make up for each other's rounding."""
    jointly, after = 0.0, 0.0
    for seed in range(4):
        problem, _ = make(32, 64, seed, criterion=criterion, pattern=pattern)
        inputs = torch.randn(400, 16) @ torch.randn(16, 64) + 0.5 * torch.randn(400, 64)
        problem = replace(problem, stats=Stats(problem.stats.tokens, {"gram": (inputs.T @ inputs).unsqueeze(0)}))
        joint = solver.solve([replace(problem, grid=Integer(3, 16))])[0]
        pruned = solver.solve([problem])[0]
        rounded = Keep().solve([replace(problem, weight=pruned.weight, fixed_mask=pruned.mask, grid=Integer(3, 16))])[0]
        jointly += joint.lost
        after += loss(problem.weight[0], rounded.weight[0], problem.stats.gram()[0])
    assert jointly < 0.9 * after


def test_admm_on_a_grid_is_better_than_sparsegpt_on_it() -> None:
    for seed in range(4):
        problem, _ = make(48, 96, seed, grid=Integer(4, 32))
        (theirs,) = SparseGPT().solve([problem])
        (ours,) = Admm().solve([replace(problem, criterion=Wanda())])
        assert ours.lost < theirs.lost


def test_every_grid_is_registered_with_its_options() -> None:
    made = registry.grid.make("int", {"bits": "3", "group": "0", "symmetric": "false"})
    assert made == Integer(3, 0, symmetric=False)
    with pytest.raises(ValueError, match="bits 9 must be 2 to 8"):
        registry.grid.make("int", {"bits": "9"})


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize(
    "choices",
    [
        {"method": "sparsegpt", "sparsity": 0.0},
        {"method": "sparsegpt", "sparsity": "2:4"},
        {"method": "wanda", "sparsity": 0.5, "solver": "admm"},
        {"method": "wanda", "sparsity": 0.5, "stage": ["match:batch_tokens=128"]},
    ],
)
def test_a_model_on_a_grid_is_written_as_it_is_in_memory(family, choices, checkpoint, tokenizer, quick, tmp_path) -> None:
    """Every group of every row takes at most sixteen values, zero among them; streamed is in-memory."""
    settings = {**quick, **choices, "grid": "int:bits=4,group=16"}
    result = prunus.prune(checkpoint(family), tmp_path / "out", **settings)
    model = model_of(family)
    prunus.prune(model, tokenizer=tokenizer, **settings)
    streamed = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, streamed[name]), name
    source = MemorySource(model, torch.device("cpu"))
    for site in (site for found in source.found for site in found.sites):
        groups = source.matrix(site).reshape(-1, 16)
        least = groups.abs().masked_fill(groups == 0, torch.inf).amin(-1, keepdim=True)  # a small multiple of the scale
        steps = groups.unsqueeze(0) / least * torch.arange(1, 8).view(-1, 1, 1)
        whole = ((steps - steps.round()).abs() < 1e-3).all(-1) & (steps.abs().amax(-1) < 8.5)
        assert (whole.any(0) | ~groups.any(-1)).all()
    kinds = {site["error_of"] for site in result.sites}
    assert kinds == ({"block"} if "stage" in choices else {"output"})
    assert all(0 < site["rel_error"] < 1 for site in result.sites)


def test_groups_that_do_not_divide_the_columns_are_refused(checkpoint, quick, tmp_path) -> None:
    with pytest.raises(RecipeError, match="32 columns do not divide into the grid's groups of 24 .group=0"):
        prunus.prune(checkpoint("llama"), tmp_path / "out", grid="int:group=24", **quick)


def test_packed_bytes_are_the_arithmetic() -> None:
    """24 x 64 in fp32: bitmask or indices, survivors, and a 16-bit scale (and a zero) a group."""

    def solved(pattern, sparsity: float, grid: Integer | None) -> int:
        problem, _ = make(24, 64, criterion=Wanda(), pattern=pattern, sparsity=sparsity, grid=grid)
        return packed_bytes(Keep().solve([problem])[0], grid)

    weights = 24 * 64
    assert solved(Unstructured(), 0.5, None) == weights // 8 + weights // 2 * 4
    assert solved(Unstructured(), 0.0, None) == weights * 4
    assert solved(Unstructured(), 0.0, Integer(4, 16)) == weights // 2 + 24 * 4 * 2
    assert solved(Unstructured(), 0.5, Integer(4, 16, symmetric=False)) == weights // 8 + weights // 4 + 24 * 4 * 20 // 8
    assert solved(NM(2, 4), 0.5, Integer(8, 0)) == weights // 8 + weights // 2 + 24 * 2
    assert solved(NM(1, 8), 7 / 8, None) == weights // 8 * 3 // 8 + weights // 8 * 4
    assert solved(Block(4, 8), 0.5, None) == weights // 32 // 8 + weights // 2 * 4
    assert solved(Row(), 0.5, None) == 3 + weights // 2 * 4
    assert solved(Column(), 0.5, None) == 8 + weights // 2 * 4
