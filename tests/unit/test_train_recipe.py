"""Training recipes: faults told at once, what runs inherit, and TOML that reads back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

import prunus
from prunus.core.errors import RecipeError
from prunus.report.trained import recipe_toml

PLAIN: dict[str, Any] = {"model": "lenet-300-100", "data": "digits"}


def recipe(*runs: dict[str, Any], **settings: Any) -> prunus.TrainRecipe:
    return prunus.TrainRecipe.of({**PLAIN, **settings, **({"runs": list(runs)} if runs else {})})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(
            {"name": "a/b"}, {"name": "c", "from": "d", "epochs": -1, "lr": 0},
            {"name": "c", "schedule": "fixed", "epochs": 0},
            {"from": "c", "sparse": {"sparsity": 0.5}, "foo": 1},
            {"name": "e", "prune": {"method": "wonda", "recalibrate": 1}},
            {"name": 3, "prune": "all"},
            "text", model="lenet-6", data="digits:share=1", epochs=1.5, lr=-1, optimizer="lion", nesterov=1, momentum=0,
            compile="yes",
            seeds=[0, 0, -1], milestones=[0.5, 2], warmup=1, precision="float16", lr_schedule="linear", latencies=3,
        )  # fmt: skip
    for says in (
        "unknown model 'lenet-6' (did you mean 'lenet-5'?)", "data 'digits' has no option 'share'",
        "epochs 1.5 must be a whole number of at least 0", "lr -1 must be above 0",
        "optimizer 'lion' is none of sgd, adam, adamw",
        "nesterov 1 must be true or false", "compile 'yes' must be true or false",
        "nesterov needs a momentum above 0", "seeds [0, 0, -1] must be at least one",
        "seeds -1 must be a whole number of at least 0", "milestones [0.5, 2] must be shares",
        "warmup 1 must be from 0 to below 1",
        "precision 'float16' is none of float32, bfloat16", "lr_schedule 'linear' is none of cosine, step, constant",
        "unknown setting 'latencies' (did you mean 'latency'?)", "run 'a/b': a name has letters",
        "run c: from 'd' is neither scratch, nor a run above it (a/b)", "run c is there twice",
        "run c: epochs -1", "run c: lr 0",
        "run c: schedule 'fixed' needs epochs", "run 4: unknown setting 'foo'", "run 4: name is missing",
        "run run-4: sparse are settings of a schedule, of which it has none",
        "run e: prune: recalibrate 1 must be true or false", "run e: prune: unknown method 'wonda' (did you mean 'wanda'?)",
        "run 6: name 3 must be a text", "run 6: prune 'all' must be a table", "run 7: is a str, not a table ([[runs]])",
    ):  # fmt: skip
        assert sum(says in fault for fault in caught.value.faults) == 1, says
    with pytest.raises(RecipeError, match="model is missing"):
        prunus.TrainRecipe.of({"data": "digits"})


def test_a_run_may_start_from_itself_as_little_as_from_one_below() -> None:
    with pytest.raises(RecipeError, match="from 'a' is neither scratch, nor a run above it .none."):
        recipe({"name": "a", "from": "a"})


def test_zeros_are_held_where_there_are_any() -> None:
    made = recipe(
        {"name": "dense"}, {"name": "half", "from": "dense", "epochs": 0, "prune": {"method": "magnitude"}},
        {"name": "tuned", "from": "half"}, {"name": "more", "from": "tuned", "schedule": "free"},
        {"name": "again", "from": "more"}, {"name": "gradual", "schedule": "gradual", "sparse": {"sparsity": 0.9}},
        {"name": "after", "from": "gradual", "epochs": 2, "lr": 0.5}, {"name": "both", "prune": {"sparsity": 0.5}},
        {"name": "file", "from": "x.safetensors"}, epochs=7,
    )  # fmt: skip
    found = {run.name: made.schedule_of(run) for run in made.runs}
    assert found == {
        "dense": None, "half": None, "tuned": "fixed", "more": None, "again": "fixed", "gradual": "gradual",
        "after": "fixed",
        "both": "fixed", "file": "fixed",
    }  # fmt: skip
    own = made.training(made.runs[6], seed=4)
    assert (own.epochs, own.lr, own.seed) == (2, 0.5, 4)
    assert made.training(made.runs[0], 0).epochs == 7
    few = made.at_most(1)
    assert [few.epochs_of(run) for run in few.runs] == [1, 0, 1, 1, 1, 1, 1, 1, 1]


def test_some_runs_alone_bring_those_that_they_need() -> None:
    made = recipe(
        {"name": "dense"}, {"name": "other"}, {"name": "pruned", "from": "other", "prune": {"method": "magnitude"}},
        {"name": "tuned", "from": "pruned", "teacher": "dense"}, {"name": "apart", "from": "pruned"},
    )  # fmt: skip
    assert [run.name for run in made.only(["tuned"]).runs] == ["dense", "other", "pruned", "tuned"]
    assert [run.name for run in made.only(["apart", "dense"]).runs] == ["dense", "other", "pruned", "apart"]
    assert made.only(["dense", "other", "pruned", "tuned", "apart"]) == made
    with pytest.raises(RecipeError, match=r"there is no run 'tunde' \(did you mean 'tuned'\?\)"):
        made.only(["dense", "tunde"])


@pytest.mark.parametrize(("changed", "told"), [
    ({"runs": [{"name": "README.md"}]}, "something else has such a name"),
    ({"runs": [{"name": "scratch"}]}, "something else has such a name"),
    ({"runs": [{"name": "a.safetensors"}]}, "something else has such a name"),
    ({"runs": [{"name": "a"}, {"name": "b", "from": "a", "shared": 4.0}]}, "shared 4.0 must be a whole number"),
    ({"seeds": [[0]]}, "seeds"), ({"seeds": [10**20]}, "must be below"), ({"device": True}, "device True must be a text"),
])  # fmt: skip
def test_odd_values_are_faults(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        prunus.TrainRecipe.of({**PLAIN, **changed})


def test_series_are_names_without_numbers() -> None:
    names = {"global-50": "global", "rigl_0.9-long": "rigl-long", "90": "90", "l1-50": "l1", "dense": "dense"}
    for name, series in names.items():
        assert prunus.TrainRecipe.of({**PLAIN, "runs": [{"name": name}]}).runs[0].group == series
    assert recipe({"name": "x-1", "series": "own"}).runs[0].group == "own"


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    made = recipe(
        {"name": "a"}, {"name": "b", "from": "a", "prune": {"method": "magnitude", "set": {"fc*": 0.5, 'x"y\\': "dense"}}},
        seeds=[0, 1], weight_decay=1e-5,
    )  # fmt: skip
    path = tmp_path / "r.toml"
    path.write_text(recipe_toml(made.to_json()), encoding="utf-8")
    assert prunus.TrainRecipe.read(path) == made
    assert tomllib.loads(path.read_text())["runs"][1]["prune"]["set"] == {"fc*": 0.5, 'x"y\\': "dense"}


def test_tables_spell_networks_and_data() -> None:
    made = prunus.TrainRecipe.of(
        {"model": {"name": "resnet20", "shortcut": "projection"}, "data": {"name": "digits", "seed": 2}}
    )
    assert (made.model, made.data) == ("resnet20:shortcut=projection", "digits:seed=2")
