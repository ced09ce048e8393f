"""Solvers against enumeration, closed forms and the plain implementation of the paper."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise, product

import plain
import pytest
import torch
from torch import Tensor

from prunus.core import registry
from prunus.core.errors import NumericalError, SingularGramError
from prunus.core.mask import Mask
from prunus.core.problem import Problem
from prunus.core.site import Layout, Part, Site
from prunus.core.stats import Stats
from prunus.criteria.magnitude import Magnitude
from prunus.criteria.obs import Obs
from prunus.criteria.ria import Ria
from prunus.criteria.wanda import Wanda
from prunus.patterns.block import Block
from prunus.patterns.lines import Column, Row
from prunus.patterns.nm import NM
from prunus.patterns.unstructured import Unstructured
from prunus.solve import swap
from prunus.solve.admm import Admm
from prunus.solve.conjugate import refit
from prunus.solve.factor import inverse_factor, inverse_of
from prunus.solve.keep import Keep
from prunus.solve.lstsq import LeastSquares
from prunus.solve.normal import Normal
from prunus.solve.sparsegpt import SparseGPT


def make(rows: int, cols: int, seed: int = 0, tokens: int = 400, **choices) -> tuple[Problem, Tensor]:
    """A problem with correlated inputs, and those inputs ``[tokens cols]``."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(cols) + 0.5 * torch.randn(cols, cols, generator=generator) / cols**0.5
    inputs = torch.randn(tokens, cols, generator=generator) @ mix
    weight = torch.randn(1, rows, cols, generator=generator)
    settings = {"sparsity": 0.5, "pattern": Unstructured("layer"), "criterion": Obs(), **choices}
    site = Site("layer", "layer.weight", (1, rows, cols), torch.float32)
    gram = (inputs.T @ inputs).unsqueeze(0)
    return Problem(site, weight, Stats(torch.tensor([tokens]), {"gram": gram}), **settings), inputs


def best_on(weight: Tensor, gram: Tensor, keep: Tensor) -> Tensor:
    """The closed form: each row's survivors solve G_ss ŵ_s = G_s: w."""
    best = torch.zeros_like(weight, dtype=torch.float64)
    for i, (row, kept) in enumerate(zip(weight.double(), keep, strict=True)):
        if kept.any():
            best[i, kept] = torch.linalg.solve(gram.double()[kept][:, kept], gram.double()[kept] @ row)
    return best


def loss(weight: Tensor, other: Tensor, gram: Tensor) -> float:
    diff = weight.double() - other.double()
    return float(((diff @ gram.double()) * diff).sum())


@pytest.mark.parametrize(("sparsity", "nm"), [(0.5, None), (0.7, None), (0.5, (2, 4)), (0.5, (4, 8)), (0.6, (2, 5))])
@pytest.mark.parametrize(("cols", "blocksize"), [(120, 128), (120, 32), (320, 128)])
def test_sparsegpt_is_the_papers(sparsity: float, nm: tuple[int, int] | None, cols: int, blocksize: int) -> None:
    if nm and nm[1] == 5:
        blocksize = blocksize // 5 * 5
    pattern = NM(*nm) if nm else Unstructured("layer")
    problem, _ = make(48, cols, sparsity=sparsity, pattern=pattern)
    (solution,) = SparseGPT(blocksize=blocksize).solve([problem])
    expected = plain.sparsegpt(problem.weight[0], problem.stats.gram()[0], sparsity, nm, blocksize)
    assert ((expected != 0) == solution.mask.keep[0]).float().mean() > 0.999
    ours, theirs = (loss(problem.weight[0], w, problem.stats.gram()[0]) for w in (solution.weight[0], expected))
    assert ours == pytest.approx(theirs, rel=5e-3)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
@pytest.mark.parametrize("nm", [None, (2, 4)])
def test_magnitude_and_wanda_are_the_papers(method: str, nm: tuple[int, int] | None) -> None:
    scope = "layer" if method == "magnitude" else "row"
    criterion = Magnitude() if method == "magnitude" else Wanda()
    problem, _ = make(48, 96, criterion=criterion, pattern=NM(*nm) if nm else Unstructured(scope))
    tied = problem.weight.mul(4).round().div(4)  # many equal magnitudes, as in a dequantised model
    problem = Problem(problem.site, tied, problem.stats, 0.5, problem.pattern, problem.criterion)
    (solution,) = Keep().solve([problem])
    expected = plain.PLAIN[method](tied[0], problem.stats.gram()[0], 0.5, nm)
    assert torch.equal(solution.weight[0], expected)


def test_the_inverse_factor_is_that_of_the_damped_gram() -> None:
    problem, _ = make(4, 60)
    factor = inverse_factor(problem.stats, 0.01, "layer")
    gram = problem.stats.gram()[0].double()
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(60)
    inverse = factor.upper[0].double().T @ factor.upper[0].double()
    torch.testing.assert_close(inverse @ damped, torch.eye(60, dtype=torch.float64), atol=2e-4, rtol=0)
    assert torch.equal(factor.upper[0].triu(), factor.upper[0])
    torch.testing.assert_close(factor.inverse_diagonal()[0].double(), damped.inverse().diagonal(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("pattern", [Unstructured("layer"), Unstructured("row"), NM(2, 4), Column()])
@pytest.mark.parametrize("seed", range(5))
def test_on_its_own_mask_sparsegpt_lies_between_the_closed_form_and_merely_keeping(pattern, seed: int) -> None:
    problem, _ = make(32, 64, seed, pattern=pattern)
    gram = problem.stats.gram()[0]
    (solution,) = SparseGPT(damp=1e-4).solve([problem])
    best = best_on(problem.weight[0], gram, solution.mask.keep[0])
    merely = problem.weight[0] * solution.mask.keep[0]
    found = loss(problem.weight[0], solution.weight[0], gram)
    assert loss(problem.weight[0], best, gram) <= found * (1 + 1e-6)
    assert found < loss(problem.weight[0], merely, gram)
    assert solution.rel_error == pytest.approx(found / loss(problem.weight[0], torch.zeros(32, 64), gram), rel=1e-3)


def test_dropping_only_the_last_columns_sparsegpt_is_the_closed_form() -> None:
    """Left to right, survivors can only be repaired to the right of what was dropped: drop the first, all is exact."""
    problem, _ = make(16, 24)
    keep = torch.ones(1, 16, 24, dtype=torch.bool)
    keep[:, :, :10] = False
    fixed = Problem(problem.site, problem.weight, problem.stats, 10 / 24, Column(), Obs(), None, Mask(keep, Column()))
    (solution,) = SparseGPT(damp=0.0).solve([fixed])
    best = best_on(problem.weight[0], problem.stats.gram()[0], keep[0])
    torch.testing.assert_close(solution.weight[0].double(), best, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("solver", registry.solver.entries())
def test_a_fixed_mask_is_kept_exactly_by_every_solver(solver: str) -> None:
    problem, _ = make(16, 32)
    mask = Mask(torch.rand(1, 16, 32) > 0.3, Unstructured())
    fixed = Problem(problem.site, problem.weight, problem.stats, 0.5, Unstructured(), Obs(), None, mask)
    (solution,) = registry.solver.make(solver).solve([fixed])
    assert torch.equal(solution.mask.keep, mask.keep)


@pytest.mark.parametrize("pattern", [Unstructured(), Unstructured("row"), NM(2, 4), NM(1, 8), Block(4, 8), Row(), Column()])
@pytest.mark.parametrize(
    "solver", [LeastSquares(0.0, "exact"), LeastSquares(0.0, "pcg", 200, 1e-7), Admm(damp=0.0, steps=8, polish=200)]
)
@pytest.mark.parametrize("seed", range(3))
def test_on_a_fixed_mask_the_undamped_closed_form_is_reached(solver, pattern, seed: int) -> None:
    problem, _ = make(32, 64, seed, criterion=Wanda())
    keep = pattern.select(problem.criterion.score(problem.weight, problem.stats), pattern.own_sparsity or 0.5)
    fixed = replace(problem, pattern=pattern, fixed_mask=Mask(keep, pattern))
    (solution,) = solver.solve([fixed])
    gram, weight = problem.stats.gram()[0], problem.weight[0]
    best = best_on(weight, gram, keep[0])
    assert loss(weight, solution.weight[0], gram) == pytest.approx(loss(weight, best, gram), rel=1e-4)
    torch.testing.assert_close(solution.weight[0].double(), best, atol=1e-3, rtol=1e-3)


def test_conjugate_gradients_lower_the_error_with_every_step() -> None:
    problem, _ = make(16, 64)
    keep = Unstructured("row").select(problem.weight.abs(), 0.6)[0]
    (layer,) = Normal.each(problem.stats, 0.0, "layer")
    dense = problem.weight[0] * layer.scale
    losses = [
        loss(dense, refit(dense @ layer.gram, layer.gram, keep, dense, steps), layer.gram) for steps in range(0, 40, 2)
    ]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]


def test_a_support_whose_gram_is_singular_is_solved_with_a_ridge_that_is_told() -> None:
    inputs = torch.randn(4, 32)
    stats = Stats(torch.tensor([4]), {"gram": (inputs.T @ inputs).unsqueeze(0)})
    problem = Problem(make(16, 32)[0].site, torch.randn(1, 16, 32), stats, 0.5, Unstructured("row"), Wanda())
    (solution,) = LeastSquares(0.0, "exact").solve([problem])
    assert "a Gram of survivors was singular" in solution.notes[0]
    assert solution.rel_error < 1e-3  # 16 survivors can say all that 4 tokens ask


@pytest.mark.parametrize(("sparsity", "pattern"), [(0.5, Unstructured()), (0.7, Unstructured("row")), (0.5, NM(2, 4))])
def test_admm_finds_better_masks_and_weights_than_sparsegpt(sparsity: float, pattern) -> None:
    ratios = []
    for seed in range(6):
        problem, _ = make(48, 96, seed, sparsity=sparsity, pattern=pattern)
        (theirs,) = SparseGPT().solve([problem])
        (ours,) = Admm().solve([replace(problem, criterion=Wanda())])
        (fitted,) = LeastSquares(0.0, "exact").solve([replace(problem, fixed_mask=theirs.mask)])
        assert fitted.lost <= theirs.lost * (1 + 1e-6)
        ratios.append(ours.lost / theirs.lost)
    assert max(ratios) < 0.95


@pytest.mark.parametrize("pattern", [Unstructured("layer"), Unstructured("row"), NM(2, 4)])
@pytest.mark.parametrize(("solver", "stages"), [
    (Admm(polish=0), [6, 4, 2]), (Admm(steps=4, rho=1, penalties=1, polish=0), [4]),
    (Admm(steps=9, rho=0.5, growth=3, penalties=2, relaxation=1, damp=0.1, polish=0), [6, 3]),
])  # fmt: skip
def test_admm_is_the_splitting_written_out(solver: Admm, stages: list[int], pattern) -> None:
    problem, _ = make(32, 96, 1, pattern=pattern, criterion=Wanda())
    gram, weight = problem.stats.gram()[0], problem.weight[0]

    def choose(found: Tensor) -> Tensor:
        return pattern.select(Wanda().score(found.float().unsqueeze(0), problem.stats), 0.5)[0]

    expected = plain.admm(weight, gram, choose, solver.damp, solver.rho, solver.growth, stages, solver.relaxation)
    (solution,) = solver.solve([problem])
    assert ((expected != 0) == solution.mask.keep[0]).float().mean() > 0.999
    same = (expected != 0) & solution.mask.keep[0]
    torch.testing.assert_close(solution.weight[0][same].double(), expected[same], atol=2e-3, rtol=2e-3)


def test_at_default_settings_lstsq_all_but_reaches_the_damped_closed_form() -> None:
    """On inputs of few directions, as activations are, at a usual width."""
    problem, _ = make(24, 256, criterion=Wanda(), pattern=Unstructured("row"))
    inputs = torch.randn(2000, 40) @ torch.randn(40, 256) + 0.3 * torch.randn(2000, 256)
    gram = (inputs.T @ inputs).unsqueeze(0)
    (solution,) = LeastSquares().solve([replace(problem, stats=Stats(problem.stats.tokens, {"gram": gram}))])
    damped = gram[0] + 0.01 * gram[0].diagonal().mean() * torch.eye(256)
    weight = problem.weight[0]
    best = loss(weight, best_on(weight, damped, solution.mask.keep[0]), damped)
    merely = loss(weight, weight * solution.mask.keep[0], damped)
    assert best <= loss(weight, solution.weight[0], damped) * (1 + 1e-6)
    assert loss(weight, solution.weight[0], damped) - best < 0.01 * (merely - best)


@pytest.mark.parametrize("seed", range(8))
def test_two_of_four_against_every_mask_there_is(seed: int) -> None:
    """Enumeration × least squares on a row of eight: nobody beats it, SparseGPT is mostly near it."""
    problem, _ = make(1, 8, seed, pattern=NM(2, 4))
    gram, weight = problem.stats.gram()[0], problem.weight[0]
    losses = []
    for kept in product(combinations(range(4), 2), combinations(range(4, 8), 2)):
        keep = torch.zeros(1, 8, dtype=torch.bool)
        keep[0, list(sum(kept, ()))] = True
        losses.append(loss(weight, best_on(weight, gram, keep), gram))
    optimum, worst = min(losses), max(losses)
    assert len(losses) == 36
    found = {}
    for name, solver, criterion in SOLVERS:
        (solution,) = solver.solve([replace(problem, criterion=criterion)])
        found[name] = loss(weight, solution.weight[0], gram)
        assert found[name] >= optimum * (1 - 1e-4), name
    assert found["sparsegpt"] < optimum + 0.5 * (worst - optimum)
    assert found["lstsq"] <= found["keep"] * (1 + 1e-6)
    assert found["admm"] < optimum + 0.15 * (worst - optimum)


SOLVERS = [
    ("keep", Keep(damp=0.0), Wanda()),
    ("lstsq", LeastSquares(0.0, steps=100), Wanda()),
    ("sparsegpt", SparseGPT(damp=0.0), Obs()),
    ("admm", Admm(damp=0.0), Wanda()),
]


@pytest.mark.parametrize(("solver", "criterion"), [(solver, criterion) for _, solver, criterion in SOLVERS[1:]])
def test_dead_inputs_are_dropped_and_do_no_harm(solver, criterion) -> None:
    problem, inputs = make(16, 32)
    inputs = inputs.clone()
    inputs[:, [3, 17]] = 0
    stats = Stats(problem.stats.tokens, {"gram": (inputs.T @ inputs).unsqueeze(0)})
    dead = Problem(problem.site, problem.weight, stats, 0.5, Unstructured(), criterion)
    (solution,) = replace(solver, damp=0.01).solve([dead])
    assert not solution.weight[0][:, [3, 17]].any()
    assert solution.rel_error < 0.3


@pytest.mark.parametrize(("solver", "criterion"), [*[(solver, Obs()) for _, solver, _ in SOLVERS], (Keep(), Wanda())])
def test_dead_inputs_go_first_however_little_the_others_carry(solver, criterion) -> None:
    """A dead input's H_jj is set to 1 to invert H, which is far above what these live ones have."""
    problem, inputs = make(16, 32)
    inputs = 0.01 * inputs
    inputs[:, [3, 17]] = 0
    stats = Stats.of(400, gram=(inputs.T @ inputs).unsqueeze(0))
    dead = replace(problem, stats=stats, sparsity=0.25, criterion=criterion)
    (solution,) = replace(solver, damp=0.01).solve([dead])
    assert not solution.mask.keep[0][:, [3, 17]].any()


@pytest.mark.parametrize("solver", [solver for _, solver, _ in SOLVERS])
def test_where_nothing_is_pruned_dead_inputs_keep_their_weights(solver) -> None:
    """Also beside a layer on the same inputs that is pruned."""
    problem, inputs = make(16, 32, criterion=Wanda())
    inputs = inputs.clone()
    inputs[:, [3, 17]] = 0
    stats = Stats.of(400, gram=(inputs.T @ inputs).unsqueeze(0))
    whole, pruned = (replace(problem, stats=stats, sparsity=sparsity) for sparsity in (0.0, 0.5))
    solutions = replace(solver, damp=0.01).solve([whole, pruned])
    assert torch.equal(solutions[0].weight, problem.weight)
    assert not solutions[1].mask.keep[0][:, [3, 17]].any()


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.7])
@pytest.mark.parametrize("criterion", [Obs(), Ria()])
def test_a_rows_windows_add_up_to_what_the_row_is_to_drop(criterion, sparsity: float) -> None:
    problem, _ = make(8, 300, criterion=criterion, pattern=Unstructured("row"), sparsity=sparsity)
    (solution,) = SparseGPT(blocksize=64).solve([problem])
    assert (~solution.mask.keep).sum(-1).unique().tolist() == [round(300 * sparsity)]


@pytest.mark.parametrize(("solver", "criterion"), [(solver, criterion) for _, solver, criterion in SOLVERS[1:]])
def test_one_token_and_constant_inputs_are_solved_with_damping(solver, criterion) -> None:
    mixed = torch.cat([torch.randn(50, 24), torch.ones(50, 8)], dim=1)
    for inputs in (torch.randn(1, 32), torch.ones(50, 32), mixed):
        stats = Stats(torch.tensor([len(inputs)]), {"gram": (inputs.T @ inputs).unsqueeze(0)})
        problem = Problem(make(16, 32)[0].site, torch.randn(1, 16, 32), stats, 0.5, Unstructured(), criterion)
        (solution,) = replace(solver, damp=0.01).solve([problem])
        assert solution.rel_error < (0.4 if inputs is mixed else 0.05)


def test_a_singular_gram_is_damped_and_says_so() -> None:
    inputs = torch.randn(4, 32)
    stats = Stats(torch.tensor([4]), {"gram": (inputs.T @ inputs).unsqueeze(0)})
    problem = Problem(make(16, 32)[0].site, torch.randn(1, 16, 32), stats, 0.5, Unstructured(), Obs())
    (solution,) = SparseGPT(damp=0.0).solve([problem])
    assert "damping raised from 0" in solution.notes[0]
    assert torch.isfinite(solution.weight).all()


def test_a_gram_that_no_damping_saves_is_an_error_with_numbers() -> None:
    gram = torch.eye(8).unsqueeze(0)
    gram[0, 0, 1] = gram[0, 1, 0] = 100.0
    with pytest.raises(SingularGramError, match=r"layer .5 tokens.: Gram 8x8 is singular .*Use at least 16 tokens"):
        inverse_factor(Stats(torch.tensor([5]), {"gram": gram}), 0.01, "layer")
    gram[0, 3, 3] = float("nan")
    with pytest.raises(NumericalError, match="NaN or Inf"):
        inverse_factor(Stats(torch.tensor([5]), {"gram": gram}), 0.01, "layer")


def test_whole_rows_are_chosen_on_all_their_columns() -> None:
    problem, _ = make(16, 300, pattern=Row(), sparsity=0.25)
    (solution,) = SparseGPT(blocksize=64).solve([problem])
    assert int(solution.mask.keep.any(-1).sum()) == 12


@pytest.mark.parametrize("solver", [Keep(), SparseGPT(), Admm()])
def test_relative_importance_is_the_papers_in_every_fused_projection(solver) -> None:
    """Scores of [k|v] fused along the rows are those of k and of v alone, whatever window a solver chooses in."""
    problem, inputs = make(24, 40, criterion=Ria(), pattern=NM(2, 4))
    site = replace(problem.site, layout=Layout(parts=(Part("k", 0, 16, 24), Part("v", 16, 8, 24))))
    fused = replace(problem, site=site)
    expected = []
    for weight in problem.weight[0].split([16, 8]):
        size = weight.abs()
        share = size / size.sum(0) + size / size.sum(1, keepdim=True)
        expected.append(share * inputs.square().sum(0).sqrt().sqrt())
    scores = torch.cat(expected)
    torch.testing.assert_close(fused.scores()[0], scores)
    (solution,) = solver.solve([fused])
    if isinstance(solver, Keep):
        assert torch.equal(solution.mask.keep[0], NM(2, 4).select(scores, 0.5))
    apart = [
        solver.solve([replace(problem, weight=w.unsqueeze(0), site=replace(problem.site, shape=(1, *w.shape)))])[0]
        for w in problem.weight[0].split([16, 8])
    ]
    assert torch.equal(solution.mask.keep, torch.cat([one.mask.keep for one in apart], dim=1))


def test_a_row_or_column_of_zeros_has_no_relative_importance() -> None:
    problem, _ = make(6, 8, criterion=Ria())
    weight = problem.weight.clone()
    weight[0, 2], weight[0, :, 3] = 0, 0
    scores = replace(problem, weight=weight).scores()[0]
    assert torch.isfinite(scores).all()
    assert not scores[2].any()
    assert not scores[:, 3].any()


@pytest.mark.parametrize("pattern", [Unstructured(), Unstructured("row"), NM(2, 4), NM(4, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_swaps_lower_the_error_until_no_swap_does(pattern, seed: int) -> None:
    """Against every swap there is, tried one by one, survivors kept as they are."""
    problem, _ = make(6, 16, seed, criterion=Wanda(), pattern=pattern)
    (plainly,), (few,), (many,) = (Keep(damp=0.0, swaps=swaps).solve([problem]) for swaps in (0, 1, 200))
    assert plainly.lost > few.lost >= many.lost
    assert pattern.violation(many.mask.keep) is None
    assert torch.equal(many.mask.keep.sum(-1), plainly.mask.keep.sum(-1))
    assert torch.equal(many.weight, problem.weight * many.mask.keep)
    gram, dense = problem.stats.gram()[0].double(), problem.weight[0].double()
    group = pattern.swap_group(16)
    for row, keep in zip(dense, many.mask.keep[0], strict=True):
        error = float((row * ~keep) @ gram @ (row * ~keep))
        for back, out in product(torch.nonzero(~keep).flatten().tolist(), torch.nonzero(keep).flatten().tolist()):
            if back // group == out // group:
                other = keep.clone()
                other[back], other[out] = True, False
                assert float((row * ~other) @ gram @ (row * ~other)) > error - 1e-5 * float(row @ gram @ row)


def test_among_many_columns_a_shortlist_finds_swaps_all_but_as_good_as_any() -> None:
    """At a width far beyond the shortlist's 16, against the best of all pairs, step by step."""
    problem, _ = make(4, 200, criterion=Wanda(), pattern=Unstructured("row"))
    inputs = torch.randn(600, 60) @ torch.randn(60, 200) + 0.3 * torch.randn(600, 200)
    problem = replace(problem, stats=Stats(problem.stats.tokens, {"gram": (inputs.T @ inputs).unsqueeze(0)}))
    gram, dense = problem.stats.gram()[0].double(), problem.weight[0].double()
    rounds = 30
    (plainly,), (found,) = (Keep(damp=0.0, swaps=swaps).solve([problem]) for swaps in (0, rounds))
    greedy = 0.0
    for row, keep in zip(dense, plainly.mask.keep[0].clone(), strict=True):
        for _ in range(rounds):
            error = row * ~keep
            slope = error @ gram
            back = row**2 * gram.diagonal() - 2 * row * slope
            out = row**2 * gram.diagonal() + 2 * row * slope
            change = back[:, None] + out[None, :] - 2 * row[:, None] * row[None, :] * gram
            change[keep, :], change[:, ~keep] = torch.inf, torch.inf
            u, q = divmod(int(change.argmin()), len(row))
            if change[u, q] >= 0:
                break
            keep[u], keep[q] = True, False
        greedy += float((row * ~keep) @ gram @ (row * ~keep))
    assert plainly.lost - found.lost > 0.9 * (plainly.lost - greedy) > 0


@pytest.mark.parametrize("solver", [Keep(), LeastSquares(), Admm()])
def test_swaps_help_every_solver_that_has_them(solver) -> None:
    plainly, refined = 0.0, 0.0
    for seed in range(4):
        problem, _ = make(48, 96, seed, criterion=Wanda(), pattern=NM(2, 4))
        plainly += solver.solve([problem])[0].lost
        refined += replace(solver, swaps=50).solve([problem])[0].lost
    assert refined < plainly


def test_swaps_are_the_same_however_many_rows_are_weighed_at_once(monkeypatch) -> None:
    problem, _ = make(50, 96, criterion=Wanda(), pattern=NM(2, 4))
    (together,) = Keep(swaps=20).solve([problem])
    monkeypatch.setattr(swap, "_PAIRS", 7 * 96 // 4 * 16)
    (apart,) = Keep(swaps=20).solve([problem])
    assert torch.equal(together.mask.keep, apart.mask.keep)


@pytest.mark.parametrize("pattern", [Unstructured("input"), Block(4, 8), Row(), Column()])
def test_where_nothing_may_change_places_swaps_do_nothing(pattern) -> None:
    problem, _ = make(16, 32, criterion=Wanda(), pattern=pattern)
    (one,), (two,) = Keep().solve([problem]), Keep(swaps=10).solve([problem])
    assert torch.equal(one.weight, two.weight)


@pytest.mark.parametrize("solver", [Keep(swaps=10), LeastSquares(swaps=10), Admm(swaps=10)])
def test_a_mask_that_is_given_is_not_refined(solver) -> None:
    problem, _ = make(16, 32, criterion=Wanda())
    keep = torch.rand(1, 16, 32, generator=torch.Generator().manual_seed(0)) < 0.5
    (solution,) = solver.solve([replace(problem, fixed_mask=Mask(keep, problem.pattern))])
    assert torch.equal(solution.mask.keep, keep)


@pytest.mark.parametrize("cols", [1, 40, 128, 300, 513, 800])
def test_inverses_in_panels_are_those_of_the_whole_matrix(cols: int) -> None:
    inputs = torch.randn(2 * cols, cols, generator=torch.Generator().manual_seed(cols), dtype=torch.float64)
    gram = inputs.T @ inputs / (2 * cols)
    gram /= gram.diagonal().sqrt() * gram.diagonal().sqrt().unsqueeze(1)
    expected = torch.linalg.inv(gram + 0.3 * torch.eye(cols, dtype=torch.float64))
    torch.testing.assert_close(inverse_of(gram.float(), 0.3, "site").double(), expected, rtol=1e-4, atol=1e-5)
