"""Types and small pieces of the core."""

from __future__ import annotations

import pytest
import torch

from prunus.allocate.global_threshold import GlobalThreshold
from prunus.allocate.manual import Manual, Pin
from prunus.allocate.uniform import Uniform
from prunus.core import registry
from prunus.core.mask import Mask
from prunus.core.roles import Criterion, Profile
from prunus.core.site import Layout, Part, Site
from prunus.core.sparsity import parse_sparsity, zeros
from prunus.core.stats import Stats
from prunus.patterns.lowest import keep_highest
from prunus.patterns.nm import NM


@pytest.mark.parametrize(
    ("text", "fault"),
    [("1.3", "outside"), ("-0.1", "outside"), ("50", "write 50%"), ("3:2", "0 < N < M"), ("0:4", "0 < N < M"),
     ("4:4", "0 < N < M"), ("half", "neither"), ("", "neither"), ("2:4:8", "neither"), ("nan", "outside")],
)  # fmt: skip
def test_impossible_sparsities_are_told_apart(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_sparsity(text)


def test_sparsities_are_read() -> None:
    assert parse_sparsity(" 37.5% ").sparsity == 0.375
    assert parse_sparsity(0).sparsity == 0
    assert parse_sparsity("1").sparsity == 1
    assert (parse_sparsity("1:4").sparsity, parse_sparsity("1:4").n, parse_sparsity("1:4").m) == (0.75, 1, 4)


def test_zeros_is_the_floor_whatever_the_last_bit_says() -> None:
    for count in (10, 100, 576, 1536, 4096 * 11008):
        for percent in range(101):
            assert zeros(count, percent / 100) == count * percent // 100


def test_ties_go_to_the_lower_index_and_numbers_are_exact() -> None:
    for seed in range(20):
        scores = torch.randint(0, 4, (5, 37), generator=torch.Generator().manual_seed(seed)).float()
        for sparsity in (0.0, 0.2, 0.5, 0.9, 1.0):
            keep = keep_highest(scores, sparsity)
            order = scores.sort(dim=-1, stable=True).indices[:, : zeros(37, sparsity)]
            assert torch.equal(keep, torch.ones_like(keep).scatter_(-1, order, False))


def test_layouts_go_there_and_back() -> None:
    stored = torch.randn(3, 5, 7)
    for layout, shape in [(Layout(stacked=True), (3, 5, 7)), (Layout(stacked=True, transposed=True), (3, 7, 5))]:
        assert layout.to_matrix(stored).shape == shape
        assert torch.equal(layout.from_matrix(layout.to_matrix(stored)), stored)
    for layout, shape in [(Layout(), (1, 5, 7)), (Layout(transposed=True), (1, 7, 5))]:
        assert layout.to_matrix(stored[0]).shape == shape
        assert torch.equal(layout.from_matrix(layout.to_matrix(stored[0])), stored[0])


def test_parts_name_the_rows_of_every_kind_of_fusion() -> None:
    assert Part("k", offset=4, width=2, period=8).rows(8).tolist() == [4, 5]  # [q|k|v], two heads of queries
    assert Part("gate", offset=0, width=1, period=2).rows(6).tolist() == [0, 2, 4]  # interleaved, as gpt-oss
    assert Part("v", offset=4, width=2, period=6).rows(12).tolist() == [4, 5, 10, 11]  # q, k, v a head, as NeoX


def test_stats_give_a_range_of_columns() -> None:
    inputs = torch.randn(50, 6)
    stats = Stats.of(50, gram=inputs.T @ inputs, abs_sum=inputs.abs().sum(0))
    part = stats.columns(2, 5, inverse_diagonal=torch.ones(3))
    torch.testing.assert_close(part.gram(), inputs[:, 2:5].T @ inputs[:, 2:5])
    torch.testing.assert_close(part.input_norm()[0], inputs[:, 2:5].norm(dim=0))
    torch.testing.assert_close(part.mean_abs()[0], inputs[:, 2:5].abs().mean(0))
    assert part.inverse_diagonal().shape == (1, 3)
    with pytest.raises(KeyError, match=r"no 'sum' \(they hold: abs_sum, gram\)"):
        stats._moment("sum")


def test_a_mask_checks_its_pattern() -> None:
    good = torch.tensor([[[True, True, False, False]]])
    assert Mask(good, NM(2, 4)).sparsity == 0.5
    with pytest.raises(ValueError, match="keeps 3, more than 2"):
        Mask(torch.tensor([[[True, True, True, False]]]), NM(2, 4))
    with pytest.raises(ValueError, match="bool"):
        Mask(good.float(), NM(2, 4))
    block = registry.pattern.make("block", {"height": 1, "width": 2})
    with pytest.raises(ValueError, match="1 zeros stand where"):
        Mask(torch.tensor([[[True, False, False, False]]]), block)


def site(name: str, numel: int) -> Site:
    return Site(name, f"{name}.weight", (1, 1, numel), torch.float32, 0)


@pytest.mark.parametrize("target", [0.0, 0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("levels", [None, 3])
def test_the_global_threshold_is_that_of_all_scores_together(target: float, levels: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    sites = [site("a", 900), site("b", 400), site("c", 2000)]
    scores = {s.name: torch.rand(s.numel, generator=generator) * 10**k for k, s in enumerate(sites)}
    if levels:
        scores = {name: value.mul(levels).ceil() for name, value in scores.items()}
    shares = GlobalThreshold().split(sites, target, Profile(lambda s: scores[s.name], lambda s: scores[s.name]))
    drop = torch.zeros(3300, dtype=torch.bool)
    drop[torch.cat(list(scores.values())).sort(stable=True).indices[: zeros(3300, target)]] = True
    expected = [int(part.sum()) for part in drop.split([900, 400, 2000])]
    assert [round(shares[s.name] * s.numel) for s in sites] == expected


def test_scores_without_order_have_no_threshold() -> None:
    from prunus.core.errors import NumericalError

    with pytest.raises(NumericalError, match="a: scores must be finite"):
        GlobalThreshold().split(
            [site("a", 3)], 0.5, Profile(lambda _: torch.tensor([1.0, float("nan"), 2.0]), lambda _: torch.ones(3))
        )


def test_pins_decide_by_the_last_match() -> None:
    pins = tuple(Pin.parse(text) for text in ("a*=0.3", "ab=2:4", "c=threshold:0.5", "d=dense"))
    profile = Profile(lambda _: torch.tensor([0.1, 0.4, 0.6, 0.9]), lambda _: torch.ones(4))
    sites = [site(name, 4) for name in ("ax", "ab", "c", "d", "other")]
    assert Manual(pins).split(sites, 0.9, profile) == {"ax": 0.3, "ab": 0.5, "c": 0.5, "d": 0.0, "other": 0.0}
    assert Uniform().split(sites, 0.9, None) == dict.fromkeys(["ax", "ab", "c", "d", "other"], 0.9)
    for text, fault in [("x", "GLOB=VALUE"), ("x=", "GLOB=VALUE"), ("x=threshold:y", "no number"), ("x=7", "outside")]:
        with pytest.raises(ValueError, match=fault):
            Pin.parse(text)


def test_the_registry_refuses_what_is_wrong_in_words() -> None:
    with pytest.raises(ValueError, match="unknown criterion 'wonda' .did you mean 'wanda'"):
        registry.criterion.make("wonda")
    with pytest.raises(ValueError, match="no option 'powr' .did you mean 'power'"):
        registry.criterion.make("wanda", {"powr": "1"})
    with pytest.raises(ValueError, match="option 'power': 'much' is no float"):
        registry.criterion.make("wanda", {"power": "much"})
    with pytest.raises(ValueError, match="'max' is none of norm, mean_abs"):
        registry.criterion.make("wanda", {"statistic": "max"})
    with pytest.raises(ValueError, match="5:4 must keep"):
        registry.pattern.make("nm", {"n": 5})
    with pytest.raises(ValueError, match="blocksize 0"):
        registry.solver.make("sparsegpt", {"blocksize": "0"})


def test_the_registry_takes_no_duplicate_and_nothing_undocumented() -> None:
    from dataclasses import dataclass

    with pytest.raises(ValueError, match="registered twice"):
        registry.criterion("wanda", paper="arXiv:0", cost="-")(type(registry.criterion.make("wanda")))

    class Bare(Criterion):
        pass

    with pytest.raises(ValueError, match="no docstring"):
        registry.criterion("bare", paper="arXiv:0", cost="-")(Bare)
    undocumented = dataclass(frozen=True)(Bare)
    with pytest.raises(ValueError, match="no docstring"):
        registry.criterion("bare", paper="arXiv:0", cost="-")(undocumented)
