"""Allocators: the target exactly, and the papers' formulas."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import inf, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunus
from prunus.allocate.alpha import Alpha, hill_exponent
from prunus.allocate.evolve import Evolve
from prunus.allocate.levels import mean_sparsity, mixed_kept
from prunus.allocate.owl import Owl
from prunus.allocate.sensitivity import Sensitivity
from prunus.core import registry
from prunus.core.errors import NumericalError, RecipeError
from prunus.core.progress import Silent
from prunus.core.roles import Profile
from prunus.core.site import Site
from prunus.measure.quality import Divergence
from prunus.recipe import Recipe
from prunus.stages.match import Match
from prunus.stages.permute import Permute
from prunus.stream.coverage import Coverage
from prunus.stream.sources import MemorySource
from prunus.stream.trials import Trials
from prunus.stream.trunk import Limits
from prunus.verbs.prepare import calibration_windows
from tiny import model_of

SHAPES = [(1, 8, 16), (1, 32, 16), (2, 16, 24), (1, 8, 64), (1, 24, 16), (1, 16, 16)]


def sites_and_profile(seed: int) -> tuple[list[Site], Profile]:
    """Six Sites of different sizes in three blocks; weights of growing heaviness of tail."""
    generator = torch.Generator().manual_seed(seed)
    sites = [Site(f"s{k}", f"s{k}.weight", shape, torch.float32, block=k // 2) for k, shape in enumerate(SHAPES)]
    weights = {
        site.name: torch.randn(site.shape, generator=generator) ** (1 + 2 * (k // 2)) for k, site in enumerate(sites)
    }
    return sites, Profile(lambda site: weights[site.name].abs(), lambda site: weights[site.name])


def trials_of(sites: list[Site]) -> Callable[[Sequence[Mapping[str, float]], int], list[float]]:
    """A damage that grows with the square of the sparsity, and more so in later Sites."""

    def evaluate(candidates: Sequence[Mapping[str, float]], tokens: int) -> list[float]:
        assert tokens > 0
        costs = [(k + 1) * site.numel for k, site in enumerate(sites)]
        return [sum(c * one[s.name] ** 2 for c, s in zip(costs, sites, strict=True)) for one in candidates]

    return evaluate


@pytest.mark.parametrize("name", [name for name in registry.allocator.entries() if name != "manual"])
@given(seed=st.integers(0, 1000), target=st.sampled_from([0.0, 0.1, 0.5, 0.63, 0.9, 1.0]))
@settings(max_examples=10, deadline=None)
def test_every_allocator_meets_the_target(name: str, seed: int, target: float) -> None:
    sites, profile = sites_and_profile(seed)
    method = registry.allocator.make(name)
    trials = replace(profile, levels=method.levels(target), evaluate=trials_of(sites))
    shares = method.split(sites, target, trials)
    assert set(shares) == {site.name for site in sites}
    assert all(0 <= share <= 1 for share in shares.values())
    assert mean_sparsity(shares, sites) == pytest.approx(target, abs=2e-3)


def test_owl_is_the_papers() -> None:
    sites, profile = sites_and_profile(3)
    shares = Owl(outlier=3.0, width=0.05).split(sites, 0.6, profile)
    ratios = []
    for block in range(3):
        scores = torch.cat([profile.scores(site).flatten() for site in sites[2 * block : 2 * block + 2]])
        ratios.append(float((scores > 3.0 * scores.mean()).float().mean()))
    spread = max(ratios) - min(ratios)
    found = [shares[f"s{2 * block}"] for block in range(3)]
    assert [shares[f"s{2 * block + 1}"] for block in range(3)] == found
    assert max(found) - min(found) == pytest.approx(0.1, abs=1e-6)
    for one, two in ((0, 1), (1, 2)):
        assert found[one] - found[two] == pytest.approx(0.1 * (ratios[two] - ratios[one]) / spread, abs=1e-6)


def test_owl_meets_the_target_where_blocks_are_almost_alike() -> None:
    """Shares of outliers that hardly differ are stretched very far, and the target is still met."""
    sites = [Site(f"s{k}", f"s{k}.weight", (1, 100, 100), torch.float32, block=k) for k in range(2)]
    scores = {"s0": torch.ones(1, 100, 100), "s1": torch.ones(1, 100, 100)}
    scores["s0"].view(-1)[:50], scores["s1"].view(-1)[:52] = 100.0, 100.0
    shares = Owl(outlier=10.0, width=0.12).split(sites, 0.5, Profile(lambda site: scores[site.name], lambda site: None))
    assert shares == pytest.approx({"s0": 0.62, "s1": 0.38}, abs=1e-9)


def test_alpha_is_the_papers_and_spares_heavy_tails() -> None:
    sites, profile = sites_and_profile(4)
    weight = profile.weight(sites[3])[0]
    spectrum = sorted(float(value) ** 2 for value in torch.linalg.svdvals(weight.double()))
    k = len(spectrum) // 2
    direct = 1 + k / sum(log(spectrum[-i] / spectrum[-k - 1]) for i in range(1, k + 1))
    assert float(hill_exponent(weight[None])) == pytest.approx(direct, rel=1e-9)
    shares = Alpha(width=0.3).split(sites, 0.5, profile)
    exponents = [
        sum(float(hill_exponent(profile.weight(site)).mean()) for site in sites[2 * b : 2 * b + 2]) / 2 for b in range(3)
    ]
    found = [shares[f"s{2 * block}"] for block in range(3)]
    assert sorted(range(3), key=found.__getitem__) == sorted(range(3), key=exponents.__getitem__)
    assert max(found) / min(found) == pytest.approx(1.3 / 0.7, rel=1e-6)


def test_sensitivity_finds_the_cheapest_budget() -> None:
    """Damage c_k s_k² a weight: at the optimum c_k s_k is the same everywhere."""
    sites, profile = sites_and_profile(0)
    method = Sensitivity(unit="layer", step=0.02, spread=24)
    trials = replace(profile, levels=method.levels(0.5), evaluate=trials_of(sites))
    shares = method.split(sites, 0.5, trials)
    products = [(k + 1) * shares[site.name] for k, site in enumerate(sites) if shares[site.name] < 0.97]
    assert len(products) >= 4
    assert max(products) / min(products) < 1.1
    by_block = Sensitivity(step=0.05, spread=9).split(sites, 0.5, trials)
    assert by_block["s0"] == by_block["s1"] > by_block["s2"] > by_block["s4"]


def test_zeros_that_cost_nothing_do_not_exceed_the_target() -> None:
    """No damage anywhere, or none in Sites that alone could take more than the target."""
    sites, profile = sites_and_profile(0)
    method = Sensitivity(unit="layer")

    def damage(candidates: Sequence[Mapping[str, float]], tokens: int) -> list[float]:
        return [sum(one[site.name] for site in sites[:2]) for one in candidates]

    for evaluate in (damage, lambda candidates, tokens: [0.0] * len(candidates)):
        shares = method.split(sites, 0.5, replace(profile, levels=method.levels(0.5), evaluate=evaluate))
        assert mean_sparsity(shares, sites) == pytest.approx(0.5, abs=1e-6)
        assert max(shares.values()) <= 0.7


def test_evolution_comes_near_the_best_of_all_mixtures() -> None:
    """Four Sites of one size at three levels: every mixture that meets the target, tried one by one."""
    sites = [Site(f"s{k}", f"s{k}.weight", (1, 8, 8), torch.float32, block=k) for k in range(4)]
    evaluate, levels = trials_of(sites), (0.3, 0.5, 0.7)
    every = [
        dict(zip((site.name for site in sites), choice, strict=True))
        for choice in product(levels, repeat=4)
        if abs(sum(choice) - 2.0) < 1e-6
    ]
    profile = Profile(lambda site: torch.ones(site.shape), lambda site: torch.ones(site.shape), levels, evaluate)
    found = Evolve(generations=20, offspring=8).split(sites, 0.5, profile)
    assert found in every
    assert evaluate([found], 1)[0] == pytest.approx(min(evaluate(every, 1)))
    assert Evolve(generations=20, offspring=8).split(sites, 0.5, profile) == found


SENSITIVITY, EVOLVE = "sensitivity:tokens=256", "evolve:generations=2,offspring=4,tokens=2000"


@pytest.mark.parametrize(
    "composed",
    [
        {"method": "wanda", "allocation": SENSITIVITY, "sparsity": "0.6"},
        {"method": "wanda", "allocation": EVOLVE, "sparsity": "2:4"},
        {"method": "balanced", "allocation": EVOLVE, "sparsity": "0.6"},
        {"method": "balanced", "allocation": SENSITIVITY, "sparsity": "2:4", "grid": "int:bits=4,group=16"},
        {"method": "wanda", "criterion": "gradient", "allocation": SENSITIVITY, "sparsity": "0.6"},
        {"method": "sparsegpt", "pattern": "block:height=4,width=4", "allocation": EVOLVE, "sparsity": "0.6"},
    ],
    ids=lambda composed: " ".join(str(value).partition(":")[0] for value in composed.values()),
)
def test_trials_of_a_model(composed, checkpoint, tokenizer, quick, tmp_path) -> None:
    settings = {**quick, **composed, "own_text": 0}
    result = prunus.prune(checkpoint("mixtral"), tmp_path / "out", **settings)
    model = model_of("mixtral")
    again = prunus.prune(model, tokenizer=tokenizer, **settings)
    assert [site["sparsity"] for site in again.sites] == [site["sparsity"] for site in result.sites]
    dense = model_of("mixtral")
    source = MemorySource(dense, torch.device("cpu"))
    weights = sum(site.numel for found in source.found for site in found.sites)
    if composed["allocation"] == SENSITIVITY:  # what is left dense is no entry of the record
        pruned = {site["name"]: round(site["sparsity"], 1) for site in result.sites}
        assert len({pruned.get(site.name, 0.0) for found in source.found for site in found.sites}) > 1
    zeros = sum(round(site["sparsity"] * site["parameters"]) for site in result.sites)
    assert zeros / weights == pytest.approx(0.6 if composed["sparsity"] == "0.6" else 0.5, abs=0.02)


def test_trials_leave_out_what_has_a_threshold(checkpoint, quick, tmp_path) -> None:
    chosen = {"method": "magnitude", "allocation": SENSITIVITY, "sparsity": 0.6, "set": ["*.q_proj=threshold:0.02"]}
    result = prunus.prune(checkpoint("llama"), tmp_path / "out", **{**quick, **chosen})
    free = [site for site in result.sites if not site["name"].endswith("q_proj")]
    zeros = sum(site["sparsity"] * site["parameters"] for site in free)
    assert zeros / sum(site["parameters"] for site in free) == pytest.approx(0.6, abs=0.02)


def test_a_threshold_is_of_the_whole_layer(tokenizer, quick) -> None:
    """Whatever the method compares within rows."""
    model, dense = model_of("llama"), model_of("llama")
    pinned = {**quick, "method": "magnitude", "pattern": "unstructured:scope=row", "set": ["*=threshold:0.02"]}
    result = prunus.prune(model, tokenizer=tokenizer, **{**pinned, "sparsity": None})
    for site in result.sites:
        one, other = (held.get_parameter(f"{site['name']}.weight") for held in (model, dense))
        assert torch.equal(one == 0, other.abs() < 0.02)


def test_a_pattern_that_does_not_fit_is_told_before_anything_is_measured(checkpoint, quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("prunus.verbs.prepare.make_profile", lambda *_: pytest.fail("surveyed"))
    for allocation in ("owl", SENSITIVITY):
        with pytest.raises(RecipeError, match="do not divide"):
            prunus.prune(checkpoint("llama"), tmp_path / "out", **{**quick, "sparsity": "3:7", "allocation": allocation})


def test_candidates_that_overflow_are_never_chosen(tokenizer, quick, monkeypatch) -> None:
    sites, profile = sites_and_profile(0)
    through = trials_of(sites)

    def overflowing(candidates, tokens):
        worst = [max(candidate.values()) for candidate in candidates]
        return [inf if most > 0.65 else kl for most, kl in zip(worst, through(candidates, tokens), strict=True)]

    method = Sensitivity(step=0.1, spread=2)
    trials = replace(profile, levels=method.levels(0.6), evaluate=overflowing)
    shares = method.split(sites, 0.5, trials)
    assert max(shares.values()) <= 0.6 + 1e-6
    assert mean_sparsity(shares, sites) == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(NumericalError, match=r"overflows beyond 60.0% of zeros, 70.0% were asked for"):
        method.split(sites, 0.7, trials)
    evolve = Evolve(generations=3, offspring=4)
    assert max(evolve.split(sites, 0.6, trials).values()) <= 0.65
    with pytest.raises(NumericalError, match="every candidate overflows"):
        evolve.split(sites, 0.8, trials)

    model = model_of("llama")
    source = MemorySource(model, torch.device("cpu"))
    windows = calibration_windows(source, tokenizer, Recipe.of(quick))
    inside = [site for found in source.found for site in found.sites]
    method = Recipe.of({**quick, "method": "magnitude"}).build_method()
    trials = Trials(source, method, inside, (0.5,), windows, Limits(128, 1 << 30), Silent())
    trials.build()
    write = trials._weight
    monkeypatch.setattr(trials, "_weight", lambda *a: write(*a) * (float("nan") if a[1] == 0.5 else 1))
    dense = dict.fromkeys((site.name for site in inside), 0.0)
    assert trials.evaluate([dense, {**dense, inside[0].name: 0.5}], 128) == [0.0, inf]


def test_trials_follow_the_policy_for_experts(tokenizer, quick) -> None:
    """Left dense where no expert has as many tokens as are asked for: every level is the dense model."""
    model = model_of("mixtral")
    source = MemorySource(model, torch.device("cpu"))
    windows = calibration_windows(source, tokenizer, Recipe.of(quick))
    experts = [site for found in source.found for site in found.sites if site.shape[0] > 1]
    method = Recipe.of({**quick, "method": "wanda"}).build_method()
    limits = Limits(128, 1 << 30)
    for coverage, same in ((Coverage("dense", 10**6), True), (Coverage("magnitude", 10**6), False)):
        trials = Trials(source, method, experts, (0.5,), windows, limits, Silent(), coverage)
        trials.build()
        for site in experts:
            assert torch.equal(trials._weight(site, 0.5, {}), source.matrix(site)) is same


@pytest.mark.parametrize("allocator", [Evolve(generations=6, offspring=8), Sensitivity(step=0.1, spread=5, tokens=512)])
def test_what_trials_choose_is_better_than_uniform(allocator, tokenizer, quick) -> None:
    """On the windows that they were made of, where one block is worth far more than the others."""
    model = model_of("llama")
    for block in (0, 2):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            model.get_submodule(f"model.layers.{block}.{name}").weight.data *= 0.1
    source = MemorySource(model, torch.device("cpu"))
    sites = [site for found in source.found for site in found.sites]
    windows = calibration_windows(source, tokenizer, Recipe.of(quick))
    method = Recipe.of({**quick, "method": "wanda"}).build_method()
    levels = allocator.levels(0.6)
    trials = Trials(source, method, sites, levels, windows, Limits(128, 1 << 30), Silent())
    trials.build()
    profile = Profile(lambda site: source.matrix(site).abs(), source.matrix, levels, trials.evaluate)
    shares = allocator.split(sites, 0.6, profile)
    assert mean_sparsity(shares, sites) == pytest.approx(0.6, abs=2e-3)
    spared = [share for name, share in shares.items() if ".1." in name]
    others = [share for name, share in shares.items() if ".1." not in name]
    assert sum(spared) / len(spared) < 0.59 < sum(others) / len(others)
    nearest = {name: min(levels, key=lambda level: abs(level - share)) for name, share in shares.items()}
    uniform = {name: min(levels, key=lambda level: abs(level - 0.6)) for name in shares}
    chosen, plain = trials.evaluate([nearest, uniform], windows.numel())
    assert chosen < 0.9 * plain


@pytest.mark.parametrize(
    ("family", "windows_tried", "length"), [("llama", 3, None), ("mixtral", 3, None), ("llama", 1, 20)]
)
def test_a_trial_is_the_model_that_it_stands_for(family: str, windows_tried, length, tokenizer, quick) -> None:
    """KL of a mixture, as evaluated block by block, against both models run whole; the user's model is left alone."""
    model, dense = model_of(family), model_of(family)
    source = MemorySource(model, torch.device("cpu"))
    sites = [site for found in source.found for site in found.sites]
    windows = calibration_windows(source, tokenizer, Recipe.of(quick))
    method = Recipe.of({**quick, "method": "wanda"}).build_method()
    trials = Trials(source, method, sites, (0.4, 0.8), windows, Limits(128, 1 << 30), Silent())
    trials.build()
    mixed = {site.name: (0.0, 0.4, 0.8)[k % 3] for k, site in enumerate(sites)}
    other = {site.name: 0.8 for site in sites}
    found = trials.evaluate([mixed, other, dict.fromkeys(mixed, 0.0)], length or windows_tried * windows.shape[1])
    assert found[2] == 0.0
    for one, two in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(one, two)
    mixture = model_of(family)
    held = MemorySource(mixture, torch.device("cpu"))
    held.put({site: trials._weight(site, mixed[site.name], {site: held.matrix(site)}) for site in sites})
    expected = Divergence()
    with torch.no_grad():
        for window in windows[:windows_tried, :length]:
            expected.add(dense(input_ids=window[None]).logits.float(), mixture(input_ids=window[None]).logits.float())
    assert found[0] == pytest.approx(expected.kl, rel=1e-3)


def test_matrices_without_a_tail_have_no_part_in_alpha() -> None:
    assert hill_exponent(torch.zeros(2, 16, 32)).isinf().all()
    assert hill_exponent(torch.ones(1, 1, 8)).isinf().all()
    sites, profile = sites_and_profile(4)
    shares = Alpha().split(sites, 0.5, profile)
    more = [*sites, Site("zero", "zero.weight", (1, 16, 32), torch.float32, block=0)]

    def weight(site: Site) -> torch.Tensor:
        return torch.zeros(site.shape) if site.name == "zero" else profile.weight(site)

    beside = Alpha().split(more, 0.5, replace(profile, weight=weight))
    assert [beside[f"s{2 * b}"] / beside["s0"] for b in range(3)] == pytest.approx(
        [shares[f"s{2 * b}"] / shares["s0"] for b in range(3)]
    )
    alone = [replace(site, block=9) if site.name == "zero" else site for site in more]
    middle = Alpha(width=0.3).split(alone, 0.5, replace(profile, weight=weight))
    assert middle["zero"] == pytest.approx((max(middle.values()) + min(middle.values())) / 2)


@given(seed=st.integers(0, 1000), n=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_mixed_n_of_m_keeps_the_total(seed: int, n: int) -> None:
    sites, _ = sites_and_profile(0)
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.rand(len(sites), generator=generator)
    shares = {site.name: float(value) for site, value in zip(sites, wanted, strict=True)}
    kept = mixed_kept(shares, sites, 1 - n / 4, 4)
    assert all(1 <= value <= 4 for value in kept.values())
    smallest = min(site.numel for site in sites if kept[site.name] < 4) / 4
    total, limit = sum(kept[site.name] * site.numel / 4 for site in sites), sum(site.numel for site in sites) * n / 4
    assert limit - smallest < total <= limit + 1e-3


def test_what_cannot_be_sparser_makes_others_sparser() -> None:
    """At most one of four is kept of the first, so that the second has to give what the first cannot."""
    sites = [Site(name, name, (1, 4, 8), torch.float32) for name in "ab"]
    assert mixed_kept({"a": 1.0, "b": 0.0}, sites, 0.5, 4) == {"a": 1, "b": 3}


@pytest.mark.parametrize("allocation", ["owl", "alpha", "global"])
def test_layers_of_one_model_may_keep_different_n_of_m(allocation: str, checkpoint, quick, tmp_path) -> None:
    out = tmp_path / "out"
    prunus.prune(checkpoint("llama"), out, sparsity="4:8", allocation=allocation, **quick)
    plan = json.loads((out / "prunus.json").read_text())["plan"]
    kinds = {(step["pattern"]["n"], step["pattern"]["m"]) for step in plan["steps"]}
    assert len(kinds) > 1
    assert {m for _, m in kinds} == {8}
    dense = [name for name, reason in plan["untouched"].items() if "left dense by" in reason]
    sizes = {name: module.weight.numel() for name, module in model_of("llama").named_modules() if hasattr(module, "weight")}
    zeros = sum(step["sparsity"] * sizes[step["name"]] for step in plan["steps"])
    weights = sum(sizes[name] for name in [*dense, *(step["name"] for step in plan["steps"])])
    assert zeros / weights == pytest.approx(0.5, abs=0.01)


def test_presets_allocate_where_the_pattern_is_free(checkpoint, quick, tmp_path) -> None:
    free = prunus.prune(checkpoint("llama"), tmp_path / "free", **{**quick, "method": "balanced", "sparsity": 0.6})
    assert len({round(site["sparsity"], 2) for site in free.sites}) > 1
    assert free.sparsity == pytest.approx(0.6, abs=0.002)
    for name, chosen in (("named", {"sparsity": "2:4"}), ("chosen", {"pattern": "nm:n=2,m=4", "sparsity": 0.5})):
        strict = prunus.prune(checkpoint("llama"), tmp_path / name, **{**quick, "method": "balanced", **chosen})
        assert {site["sparsity"] for site in strict.sites} == {0.5}
    asked = Recipe.of({"method": "balanced", "sparsity": "2:4", "allocation": "owl"})
    assert asked.build_method().allocator == Owl()


def test_stages_of_a_preset_are_those_asked_for_instead() -> None:
    for sparsity in ("0.5", "2:4"):
        assert Recipe.of({"method": "balanced", "sparsity": sparsity}).build_method().stages == (Permute(),)
        assert Recipe.of({"method": "best", "sparsity": sparsity}).build_method().stages == (Permute(), Match())
    asked = Recipe.of({"method": "best", "sparsity": "2:4", "stage": ["match"]})
    assert asked.build_method().stages == (Match(),)
    assert Recipe.of({"method": "best", "sparsity": "2:4", "stage": ["none"]}).build_method().stages == ()


def test_owl_gives_the_head_the_target(checkpoint, quick, tmp_path) -> None:
    globs = ["model.layers.*", "lm_head"]
    chosen = {**quick, "sparsity": 0.6, "allocation": "owl", "include": globs}
    found = prunus.prune(checkpoint("llama"), tmp_path / "out", **chosen)
    shares = {site["name"]: site["sparsity"] for site in found.sites}
    assert shares["lm_head"] == pytest.approx(0.6, abs=0.01)
    assert len({round(share, 3) for share in shares.values()}) > 2
    assert found.sparsity == pytest.approx(0.6, abs=0.002)


def test_owl_of_the_head_alone_is_uniform() -> None:
    head = Site("lm_head", "lm_head.weight", (1, 8, 16), torch.float32)
    assert Owl().split([head], 0.3, None) == {"lm_head": 0.3}


def test_owl_surveys_few_tokens(checkpoint, quick, tmp_path) -> None:
    model, few = checkpoint("llama"), f"owl:tokens={quick['seqlen']}"

    def shares(name: str, spec: str, **more: object) -> list[float]:
        result = prunus.prune(model, tmp_path / name, **{**quick, "allocation": spec, **more})
        return [site["sparsity"] for site in result.sites]

    assert shares("all", "owl") != shares("few", few)
    pinned = {"set": ["*.q_proj=threshold:0.5"]}  # a threshold is of the scores on all tokens
    assert shares("pinned", "owl", **pinned) == shares("pinned, few", few, **pinned)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_nothing_is_surveyed_where_there_is_nothing_to_split(target, checkpoint, quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("prunus.verbs.prepare.make_profile", lambda *_: pytest.fail("surveyed"))
    chosen = {**quick, "sparsity": target, "allocation": "owl"}
    result = prunus.prune(checkpoint("llama"), tmp_path / "out", **chosen)
    assert {site["sparsity"] for site in result.sites} == {target}


def test_a_threshold_of_other_scores_is_refused(checkpoint, quick, tmp_path) -> None:
    chosen = {**quick, "method": "magnitude", "allocation": "owl", "set": ["*.q_proj=threshold:0.1"]}
    with pytest.raises(RecipeError, match="--criterion wanda or --allocation uniform"):
        prunus.prune(checkpoint("llama"), tmp_path / "out", **chosen)


def test_owl_with_magnitude_looks_at_inputs(checkpoint, quick, tmp_path) -> None:
    result = prunus.prune(checkpoint("llama"), tmp_path / "out", method="magnitude", allocation="owl", **quick)
    assert {site["error_of"] for site in result.sites} == {"sample"}
    assert len({round(site["sparsity"], 3) for site in result.sites}) > 1
