"""What every registered method owes, whatever it is: found through the registry, checked on random problems."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core import registry
from prunus.core.problem import Problem
from prunus.core.site import Site
from prunus.core.sparsity import zeros
from prunus.core.stats import Needs, Stats

CRITERIA = list(registry.criterion.entries())
PATTERNS = {
    "unstructured:row": registry.pattern.make("unstructured", {"scope": "row"}),
    "unstructured:layer": registry.pattern.make("unstructured", {"scope": "layer"}),
    "unstructured:input": registry.pattern.make("unstructured", {"scope": "input"}),
    "unstructured:output": registry.pattern.make("unstructured", {"scope": "output"}),
    "nm:2:4": registry.pattern.make("nm"),
    "nm:1:4": registry.pattern.make("nm", {"n": 1}),
    "nm:4:8": registry.pattern.make("nm", {"n": 4, "m": 8}),
    "nm:3:5": registry.pattern.make("nm", {"n": 3, "m": 5}),
    "block": registry.pattern.make("block", {"height": 2, "width": 4}),
    "row": registry.pattern.make("row"),
    "column": registry.pattern.make("column"),
}
SOLVERS = list(registry.solver.entries())
ROWS, COLS = 12, 40


def stats_of(inputs: torch.Tensor) -> Stats:
    """All moments of ``inputs [batch tokens cols]``."""
    gram = inputs.transpose(1, 2) @ inputs
    return Stats(
        torch.full((len(inputs),), inputs.shape[1]),
        {
            "gram": gram,
            "norm_sq": inputs.square().sum(1),
            "abs_sum": inputs.abs().sum(1),
            "inverse_diagonal": torch.linalg.inv(gram + 0.1 * torch.eye(gram.shape[-1])).diagonal(dim1=-2, dim2=-1),
        },
    )


def problem_of(seed: int, criterion: str, pattern: str, sparsity: float, batch: int = 1) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(batch, ROWS, COLS, generator=generator)
    mix = torch.eye(COLS) + 0.3 * torch.randn(COLS, COLS, generator=generator)
    inputs = torch.randn(batch, 200, COLS, generator=generator) @ mix
    chosen = PATTERNS[pattern]
    wanted = sparsity if chosen.own_sparsity is None else chosen.own_sparsity
    site = Site("site", "site.weight", (batch, ROWS, COLS), torch.float32)
    own = {"grad": torch.randn(weight.shape, generator=generator), "grad_sq": torch.rand(weight.shape, generator=generator)}
    return Problem(site, weight, stats_of(inputs), wanted, chosen, registry.criterion.make(criterion), own=own)


def wanted_zeros(pattern: str, sparsity: float) -> int:
    """Zeros in one ROWS × COLS matrix by the definition of each pattern."""
    counts = {
        "unstructured:row": ROWS * zeros(COLS, sparsity),
        "unstructured:output": ROWS * zeros(COLS, sparsity),
        "unstructured:input": COLS * zeros(ROWS, sparsity),
        "unstructured:layer": zeros(ROWS * COLS, sparsity),
        "block": 8 * zeros(ROWS * COLS // 8, sparsity),
        "row": COLS * zeros(ROWS, sparsity),
        "column": ROWS * zeros(COLS, sparsity),
    }
    own = PATTERNS[pattern].own_sparsity
    return counts[pattern] if own is None else round(ROWS * COLS * own)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_of_a_mask_may_move_where_the_pattern_says_so(pattern: str) -> None:
    chosen, generator = PATTERNS[pattern], torch.Generator().manual_seed(0)
    sparsity = 0.5 if chosen.own_sparsity is None else chosen.own_sparsity
    keep = chosen.select(torch.rand(1, ROWS, COLS, generator=generator), sparsity)
    moved = keep[:, torch.randperm(ROWS, generator=generator)]
    assert (chosen.violation(moved) is None) == chosen.rows_may_move


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("solver", SOLVERS)
@given(seed=st.integers(0, 10_000), sparsity=st.sampled_from([0.0, 0.1, 0.37, 0.5, 0.75, 1.0]))
@settings(max_examples=4, deadline=None)
def test_every_combination_keeps_its_word(criterion: str, pattern: str, solver: str, seed: int, sparsity: float) -> None:
    problem = problem_of(seed, criterion, pattern, sparsity)
    (solution,) = registry.solver.make(solver).solve([problem])
    keep = solution.mask.keep
    assert solution.weight.shape == problem.weight.shape
    assert torch.isfinite(solution.weight).all()
    assert not solution.weight[~keep].any()
    assert problem.pattern.violation(keep) is None
    assert int((~keep).sum()) == wanted_zeros(pattern, problem.sparsity)
    assert 0 <= solution.rel_error <= 1.5
    (again,) = registry.solver.make(solver).solve([problem])
    assert torch.equal(again.weight, solution.weight)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_nothing_pruned_changes_nothing_and_all_pruned_leaves_nothing(solver: str, pattern: str) -> None:
    if PATTERNS[pattern].own_sparsity is not None:
        with pytest.raises(ValueError, match="has sparsity"):
            PATTERNS[pattern].select(torch.ones(1, ROWS, COLS), 0.0)
        return
    for sparsity in (0.0, 1.0):
        problem = problem_of(1, "magnitude", pattern, sparsity)
        (solution,) = registry.solver.make(solver).solve([problem])
        assert torch.equal(solution.weight, problem.weight * (1 - sparsity))
        assert solution.rel_error == pytest.approx(sparsity, abs=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_are_never_negative_and_a_range_of_columns_scores_the_same(criterion: str) -> None:
    problem = problem_of(3, criterion, "unstructured:row", 0.5)
    scores = problem.scores()
    assert (scores >= 0).all()
    assert scores.shape == problem.weight.shape
    if criterion != "random":
        by_row = PATTERNS["unstructured:row"]
        part = problem.select(problem.weight[:, :, 8:24], problem.stats.columns(8, 24), 8, 24)
        assert torch.equal(part, by_row.select(scores[:, :, 8:24], 0.5))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_batch_of_matrices_is_solved_as_each_alone(solver: str, pattern: str) -> None:
    both = problem_of(5, "wanda", pattern, 0.5, batch=2)
    (joint,) = registry.solver.make(solver).solve([both])
    for k in (0, 1):
        stats = Stats(both.stats.tokens[k : k + 1], {n: m[k : k + 1] for n, m in both.stats.moments.items()})
        site = Site("one", "one.weight", (1, ROWS, COLS), torch.float32)
        alone = replace(both, site=site, weight=both.weight[k : k + 1], stats=stats)
        (solution,) = registry.solver.make(solver).solve([alone])
        assert torch.equal(solution.mask.keep[0], joint.mask.keep[k])
        torch.testing.assert_close(solution.weight[0], joint.weight[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_problems_that_share_inputs_are_solved_as_each_alone(solver: str) -> None:
    """A stack of Sites with sparsities and patterns of their own gives what each gives by itself."""
    one = problem_of(8, "obs", "unstructured:layer", 0.5)
    two = Problem(one.site, one.weight.flip(1), one.stats, 0.5, PATTERNS["nm:2:4"], one.criterion)
    three = Problem(one.site, -one.weight.roll(3, 1), one.stats, 0.8, PATTERNS["unstructured:row"], one.criterion)
    method = registry.solver.make(solver)
    for problem, together in zip((one, two, three), method.solve([one, two, three]), strict=True):
        (alone,) = method.solve([problem])
        assert torch.equal(alone.mask.keep, together.mask.keep)
        torch.testing.assert_close(alone.weight, together.weight, rtol=1e-4, atol=1e-5)
        assert together.rel_error == pytest.approx(alone.rel_error, rel=1e-3)


@pytest.mark.parametrize("axis", registry.AXES)
def test_every_method_is_documented_and_described_exactly(axis) -> None:
    for name, entry in axis.entries().items():
        assert entry.summary.endswith((".", ".)"))
        assert entry.paper.startswith(("arXiv:", "https://")) or axis.axis in ("storage", "coder")
        assert entry.cost
        assert all(entry.explained.values()), f"{name} has an option that nothing explains"
        made = axis.make(name)
        described = axis.describe(made)
        assert described.pop("name") == name
        if name != "manual":
            assert axis.make(name, described) == made


def test_what_a_method_needs_is_what_it_reads() -> None:
    """A criterion given exactly the moments it declares can score."""
    full = problem_of(2, "wanda", "unstructured:row", 0.5)
    moments = {Needs.NORM: "norm_sq", Needs.ABS: "abs_sum", Needs.GRAM: "inverse_diagonal"}
    for name in CRITERIA:
        criterion = registry.criterion.make(name)
        have = {moments[need]: full.stats.moments[moments[need]] for need in moments if need in criterion.needs}
        replace(full, criterion=criterion, stats=Stats(full.stats.tokens, have)).scores()
