"""Searching a shape for a target: trials against models really cut, searches against trying everything."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import prunus
from prunus.core.errors import RecipeError
from prunus.core.progress import Silent
from prunus.measure.quality import Divergence
from prunus.observe.windows import random_windows
from prunus.shrink_recipe import ShrinkRecipe
from prunus.structure.cost import Costs, Shape
from prunus.structure.latency import LatencyMeter
from prunus.structure.levers import Lever, levers_of
from prunus.structure.search import Damage, Search
from prunus.structure.shape_trials import Candidate, ShapeTrials
from prunus.structure.targets import Target
from prunus.verbs.prepare import limits_of
from prunus.verbs.survey import survey

PLAIN = {"importance": "weight", "width_importance": "weight", "solver": "keep", "depth": "influence"}
"""Choices that do not depend on what was cut before, so that trials and a real run are to agree."""


def survey_of(folder, text_file, **settings):
    run = {"calibration": str(text_file), "samples": 8, "seqlen": 32, "eval_windows": 0, "params": "0.8x", **settings}
    recipe = ShrinkRecipe.of(run)
    return survey(folder, recipe, Silent())


@pytest.mark.parametrize("family", [
    "llama", "gpt2", pytest.param("gemma3", marks=pytest.mark.slow), pytest.param("mixtral", marks=pytest.mark.slow),
    pytest.param("gpt_neox", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_trial_gives_the_divergence_of_the_model_really_cut(family, checkpoint, text_file, tokenizer, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    folder = checkpoint(family)
    found = survey_of(folder, text_file, **PLAIN)
    axes = found.outliner.anatomy.axes
    halves = {name: axes[name].size // 2 for name in ("neurons", "heads", "kv_groups") if name in axes}
    shapes = [({name: size}, 3) for name, size in halves.items()] + [({}, 2)]
    if "width" in axes:
        shapes += [({"width": 24}, 3), ({"width": 24}, 2)]
    shapes.append((halves, 2))
    candidates = [
        Candidate(found.outliner.outline(sizes, found.blocks(count)), found.channels(24) if "width" in sizes else None)
        for sizes, count in shapes
    ]
    judged = found.windows[:3]
    trials = ShapeTrials(found.source, found.choice(), found.windows[3:], judged, limits_of(found.recipe.run), Silent())
    tried = trials.evaluate(candidates, "test")
    dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for number, ((sizes, count), kl) in enumerate(zip(shapes, tried, strict=True)):
        out = tmp_path / str(number)
        what = {name: str(size) for name, size in sizes.items()} | ({"layers": str(count)} if count < 3 else {})
        if {"heads", "kv_groups"} <= sizes.keys():  # asked for are those in the groups that stay
            what["heads"] = str(sizes["heads"] * sizes["kv_groups"] // axes["kv_groups"].size)
        prunus.shrink(folder, out, calibration=str(text_file), samples=8, seqlen=32, eval_windows=0, **PLAIN, **what)
        cut = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        divergence = Divergence()
        with torch.no_grad():
            divergence.add(dense(input_ids=judged).logits, cut(input_ids=judged).logits)
        assert kl == pytest.approx(divergence.kl, rel=1e-3, abs=1e-7), (sizes, count)
        assert kl > 1e-5


def test_a_repaired_trial_is_better_than_one_that_is_not(checkpoint, text_file) -> None:
    found = {}
    for solver in ("keep", "lstsq"):
        one = survey_of(checkpoint("llama"), text_file, importance="obs", solver=solver)
        trials = ShapeTrials(
            one.source, one.choice(), one.windows[3:], one.windows[:3], limits_of(one.recipe.run), Silent()
        )
        (found[solver],) = trials.evaluate([Candidate(one.outliner.outline({"neurons": 16}, range(3)))], "test")
    assert found["lstsq"] < found["keep"]


def test_blocks_in_small_parties_change_nothing(checkpoint, text_file) -> None:
    """With no memory for more than one candidate's block at a time the same divergences are found."""
    one = survey_of(checkpoint("llama"), text_file)
    outlines = [one.outliner.outline({"neurons": n}, range(3)) for n in (48, 32)]
    limits = limits_of(one.recipe.run)
    values = []
    for budget in (limits.budget, 1 << 14):
        texts = (one.windows[3:], one.windows[:3])
        trials = ShapeTrials(one.source, one.choice(), *texts, limits._replace(budget=budget), Silent())
        values.append(trials.evaluate([Candidate(outline) for outline in outlines], "test"))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_a_search_finds_what_trying_everything_finds() -> None:
    """With damages that are sums of powers the forecast is exact."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        powers = (1 + 2 * torch.rand(3, generator=generator)).tolist()
        factors = (0.2 + torch.rand(3, generator=generator)).tolist()
        weights = torch.rand(3, generator=generator).tolist()
        sizes = (12, 4, 7)
        levers = [
            Lever(f"lever{k}", tuple({f"lever{k}": size - n} if n else {} for n in range(size)),
                  tuple(1 - n / size for n in range(size)))
            for k, size in enumerate(sizes)
        ]  # fmt: skip

        def damage(setting, powers=powers, factors=factors, levers=levers):
            gone = [1 - lever.shares[n] for lever, n in zip(levers, setting, strict=True)]
            return sum(f * g**p for f, g, p in zip(factors, gone, powers, strict=True))

        def cost(setting, weights=weights, levers=levers):
            shares = [lever.shares[n] for lever, n in zip(levers, setting, strict=True)]
            return weights[0] * shares[0] * shares[2] + weights[1] * shares[1] * shares[2] + weights[2] * shares[2]

        limit = 0.6 * cost((0, 0, 0))
        search = Search(levers, lambda settings, _told, damage=damage: [damage(one) for one in settings], lambda _: True)
        search.survey(lambda setting, cost=cost, limit=limit: cost(setting) <= limit)
        finalists = search.finalists(lambda setting, cost=cost, limit=limit: cost(setting) <= limit)
        search.measure_all(finalists)
        found = search.choose(finalists)
        everything = [one for one in product(*map(range, sizes)) if cost(one) <= limit]
        assert damage(found) == pytest.approx(min(map(damage, everything)), rel=1e-3)


def test_what_is_cut_in_any_case_counts_once() -> None:
    """The damage of a cut that was given is in all that is measured; the best mixture is found all the same."""
    choices = tuple({"x": 10 - k} for k in range(11))
    levers = [Lever(f"lever {k}", choices, tuple(1 - 0.05 * n for n in range(11))) for k in range(3)]

    def damage(setting: tuple[int, ...]) -> float:
        return 1.0 + sum(0.01 * n**2 for n in setting)

    search = Search(levers, lambda settings, _: [damage(one) for one in settings], lambda _: True, given=True)
    search.survey(lambda setting: max(setting) >= 10)
    found = search.finalists(lambda setting: sum(setting) >= 12)
    assert found[0] == (4, 4, 4)
    assert search.foretold(found[0]) == pytest.approx(damage(found[0]), rel=0.02)


@pytest.mark.parametrize(("harm", "measured"), [(0.02, (3, 7, 10)), (0.2, (3,)), (0.09, (3, 7))])
def test_a_costly_lever_is_not_followed_down_to_where_another_is_better(harm, measured) -> None:
    """The best mixture is that of a search that measures everything, whatever was left out."""
    shares, choices = tuple(1 - 0.05 * n for n in range(11)), tuple({"x": 10 - k} for k in range(11))

    def damage(setting: tuple[int, ...]) -> float:
        return 0.08 * setting[0] ** 1.02 + harm * setting[1] ** 1.05

    def found(costly: bool) -> tuple[list[int], tuple[int, ...]]:
        levers = [Lever("cheap", choices, shares), Lever("dear", choices, shares, costly=costly)]
        search = Search(levers, lambda settings, _: [damage(one) for one in settings], lambda _: True)
        search.survey(lambda setting: sum(setting) >= 10)
        return [dear for cheap, dear in search.measured if not cheap], search.finalists(lambda s: sum(s) >= 10)[0]

    assert found(costly=True)[0] == list(measured)
    assert found(costly=False)[0] == [3, 7, 10]
    assert found(costly=True)[1] == found(costly=False)[1]


def test_a_costly_lever_is_measured_at_once_where_no_other_reaches_the_target() -> None:
    passes = []

    def measure(settings, _told) -> list[float]:
        passes.append(list(settings))
        return [float(sum(one)) for one in settings]

    cheap, dear = ({}, {"a": 1}), tuple({"b": 10 - k} for k in range(10))
    levers = [Lever("a", cheap, (1.0, 0.9)), Lever("b", dear, tuple(1 - n / 10 for n in range(10)), costly=True)]
    Search(levers, measure, lambda _: True).survey(lambda setting: setting[1] >= 6)
    assert passes == [[(1, 0), (0, 2), (0, 4), (0, 6)]]


def test_levers_of_many_choices_are_combined_at_some() -> None:
    sizes = (100, 60)
    levers = [Lever(str(k), tuple({str(k): n} for n in range(size, 0, -1)), tuple(n / size for n in range(size, 0, -1)))
              for k, size in enumerate(sizes)]  # fmt: skip

    def damage(setting) -> float:
        return sum((1 - lever.shares[n]) ** 2 for lever, n in zip(levers, setting, strict=True))

    def meets(setting) -> bool:
        return levers[0].shares[setting[0]] + levers[1].shares[setting[1]] <= 1.4

    search = Search(levers, lambda settings, _: [damage(one) for one in settings], lambda _: True)
    search.survey(meets)
    finalists = search.finalists(meets)
    assert len(list(search.fitting(meets))) <= 24
    best = min(damage(one) for one in product(*map(range, sizes)) if meets(one))
    assert damage(finalists[0]) <= 1.05 * best


def test_finalists_differ_and_those_that_cannot_be_are_passed_over() -> None:
    levers = [Lever("a", tuple({"a": 20 - n} for n in range(20)), tuple(1 - n / 20 for n in range(20))),
              Lever("b", ({}, {"b": 1}), (1.0, 0.5))]  # fmt: skip
    search = Search(levers, lambda settings, _: [float(sum(one)) for one in settings], lambda setting: setting[0] != 10)
    search.survey(lambda setting: setting[0] >= 10)
    finalists = search.finalists(lambda setting: setting[0] + 4 * setting[1] >= 10)
    assert finalists
    assert all(setting[0] != 10 for setting in finalists)
    assert len(set(finalists)) == len(finalists)


def test_damage_rises_and_goes_through_its_points() -> None:
    damage = Damage.through({0.1: 0.02, 0.2: 0.01, 0.4: 0.5})
    assert [damage.at(gone) for gone in (0.0, 0.1, 0.2, 0.4)] == pytest.approx([0, 0.02, 0.02, 0.5], rel=1e-6)
    values = [damage.at(gone / 100) for gone in range(100)]
    assert values == sorted(values)
    assert Damage(()).at(0.5) == 0


@pytest.mark.parametrize(("kind", "text", "share", "amount"), [
    ("params", "0.8x", 0.8, None), ("params", "80%", 0.8, None), ("params", "0.8", 0.8, None), ("params", "4B", None, 4e9),
    ("params_nonembedding", "90M", None, 9e7), ("memory", "1.5GiB", None, 1.5 * 2**30), ("latency", "40ms", None, 0.04),
    ("flops", "2.5G", None, 2.5e9),
])  # fmt: skip
def test_targets_are_read(kind, text, share, amount) -> None:
    found = Target.parse(kind, text)
    assert (found.share, found.amount) == (share and pytest.approx(share), amount and pytest.approx(amount))


@pytest.mark.parametrize(("kind", "text"), [("params", "1.2x"), ("params", "100%"), ("latency", "40MB"), ("memory", "fast"),
                                            ("params", "0"), ("params", "-4"), ("flops", "3ms")])  # fmt: skip
def test_what_is_no_target_is_said(kind, text) -> None:
    with pytest.raises(RecipeError, match="neither a share"):
        ShrinkRecipe.of({kind: text})


def test_levers_keep_to_what_the_model_allows(checkpoint, text_file) -> None:
    found = survey_of(checkpoint("qwen3_moe"), text_file)
    source, anatomy = found.source, found.outliner.anatomy
    levers = {one.name: one for one in levers_of(anatomy, 3, (), (), {"experts": 2}, found._buildable)}
    assert min(choice.get("experts", 9) for choice in levers["experts"].choices) == 2
    for lever in levers.values():
        assert lever.choices[0] == {}
        assert list(lever.shares) == sorted(lever.shares, reverse=True)
        assert len(lever.shares) == len(lever.choices)
    whole = Costs(source, anatomy, 32).parameters(Shape({}, 3))
    for lever in levers.values():
        counts = [Costs(source, anatomy, 32).parameters(Shape({k: v for k, v in one.items() if k != "layers"},
                                                              one.get("layers", 3))) for one in lever.choices]  # fmt: skip
        assert counts[0] == whole
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] < counts[0]


def test_counts_know_which_blocks_stay(checkpoint, text_file) -> None:
    """In a model whose first block is of another kind than the rest."""
    found = survey_of(checkpoint("deepseek_v3"), text_file)
    costs = Costs(found.source, found.outliner.anatomy, 32)
    for blocks in ((0, 1), (1, 2)):
        model = found.outliner.outline({}, blocks).model
        assert costs.parameters(Shape({}, 2, blocks)) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["params", "params_nonembedding", "flops", "memory"])
def test_every_kind_of_target_is_met(kind, checkpoint, quick, tmp_path) -> None:
    result = prunus.shrink(
        checkpoint("qwen3"), tmp_path / "out", along=["neurons", "layers", "heads", "kv_groups"], **{kind: "0.75x"}, **quick
    )
    target = result.record["plan"]["target"]
    assert 0.5 < target["reached"] / target["dense"] <= 0.75
    if kind == "params":
        assert [target["reached"], target["dense"]] == result.record["plan"]["parameters"][::-1], "as it was really built"
    assert result.record["proof"]["masked"] < 1e-5


def test_a_latency_is_met_when_timed(checkpoint, quick, tmp_path, monkeypatch) -> None:
    """Times stand here that do not go with operations: the search has to come to what is fast enough by timing."""
    timed = []

    def seconds(self, outlines):
        timed.append(len(outlines))
        return [1e-3 * sum(p.numel() for p in outline.model.parameters()) ** 0.5 for outline in outlines]

    monkeypatch.setattr(LatencyMeter, "seconds", seconds)
    result = prunus.shrink(checkpoint("llama"), tmp_path / "out", latency="0.85x", **quick)
    target = result.record["plan"]["target"]
    before, after = result.parameters
    assert (after / before) ** 0.5 <= 0.85
    assert target["reached"] / target["dense"] == pytest.approx((after / before) ** 0.5)
    assert len(timed) > 1


def test_what_is_timed_is_every_block_and_the_head(checkpoint, text_file) -> None:
    found = survey_of(checkpoint("gemma3"), text_file)
    meter = LatencyMeter(found.source, 16, 512)
    outline = found.outliner.outline({"neurons": 32}, (0, 2))
    parts = meter._parts(outline)
    assert sum(count for count, _ in parts) == 2 + 1
    head = parts[-1][1]()
    assert head.shape == (1, 16, 512)
    assert all(seconds > 0 for seconds in meter.seconds([outline]))
    meter.close()


@pytest.mark.parametrize(("settings", "message"), [
    ({"params": "0.01x"}, "a search leaves 25% of every axis"), ({"params": "100M"}, "so nothing has to go"),
    ({"params": "0.8x", "neurons": "0.5", "along": ["neurons"]}, "leave one of the two out"),
    ({"params": "0.8x", "along": ["experts"]}, "cannot be cut along it"),
    ({"params": "0.8x", "along": ["colour"]}, "along 'colour' is none of"),
    ({"neurons": "0.5", "along": ["heads"]}, "there is none"),
    ({"params": ["0.8x", "0.6x"]}, "use shrink_family"),
])  # fmt: skip
def test_targets_that_cannot_be_are_refused(settings, message, checkpoint, quick, tmp_path) -> None:
    with pytest.raises(RecipeError, match=message):
        prunus.shrink(checkpoint("llama"), tmp_path / "out", **settings, **quick)
    assert not list(tmp_path.iterdir())


def test_windows_must_be_enough_to_judge_on_others(checkpoint, quick, tmp_path) -> None:
    with pytest.raises(prunus.PrunusError, match="--samples 2"):
        prunus.shrink(checkpoint("llama"), tmp_path / "out", params="0.8x", **{**quick, "samples": 1})


def test_windows_of_the_search_are_apart(checkpoint, text_file, tokenizer, monkeypatch) -> None:
    found = survey_of(checkpoint("llama"), text_file)
    seen = {}

    def evaluate(self, candidates, told):
        seen.update(fit=self.fitted, judge=self.judged)
        return [float(k) for k in range(len(candidates))]

    monkeypatch.setattr(ShapeTrials, "evaluate", evaluate)
    found.find([Target.parse("params", "0.8x")])
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    assert torch.equal(found.windows, random_windows(ids, 8, 32, 0, "text"))
    assert len(seen["fit"]) + len(seen["judge"]) <= 8
    assert torch.equal(torch.cat([seen["fit"], seen["judge"]])[0], found.windows[0])
    assert torch.equal(seen["judge"][-1], found.windows[-1])


def test_a_model_that_refuses_most_widths_has_a_lever_all_the_same(checkpoint, text_file) -> None:
    """As where three heads have to divide the width: of multiples of 4 every third."""
    found = survey_of(checkpoint("llama"), text_file)
    width = {"size": 0}

    def buildable(changes: dict[str, int]) -> bool:
        width["size"] = changes.get("hidden_size", 0)
        return width["size"] % 3 == 0

    (lever,) = levers_of(found.outliner.anatomy, 3, ["width"], (), {}, buildable)
    sizes = [choice["width"] for choice in lever.choices[1:]]
    assert sizes == [size for size in range(31, 7, -1) if size % 3 == 0]
