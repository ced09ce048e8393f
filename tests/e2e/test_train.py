"""prunus train from recipe to table: on scikit-learn's digits, with a network that a file of the user's brings."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file

import prunus
from prunus.core.errors import CheckpointError, DataError, NumericalError, OutputError, PrunusError, RecipeError
from prunus.report.trained import train_table

RUNS: list[dict[str, Any]] = [
    {"name": "dense"},
    {"name": "global-50", "from": "dense", "epochs": 0, "prune": {"method": "magnitude", "allocation": "global"}},
    {"name": "obs-50", "from": "dense", "epochs": 0, "prune": {"method": "sparsegpt", "recalibrate": False}},
    {"name": "longer", "from": "dense", "epochs": 1, "lr": 0.01},
]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Two epochs of a small network with a batch norm and dropout."""
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n"
        "def small(channels, size, classes):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1),\n"
        "                         nn.Linear(4 * (size - 2) ** 2, classes))\n"
    )
    return {
        "model": f"{tmp_path / 'own.py'}:small", "data": "digits", "epochs": 2, "batch": 128, "lr": 0.05, "crop": 1,
        "latency": 3, "calibration": 256, "runs": RUNS,
    }  # fmt: skip


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may become larger: what a full disk says, of one process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1_000, 4_000, 20_000], ids=["plan", "state", "record"])
def test_a_disk_that_refuses_is_told_and_gone_on_with(settings: dict[str, Any], tmp_path: Path, size: int) -> None:
    whole = prunus.train_runs(tmp_path / "whole", **settings)
    with small_files(size), pytest.raises(OutputError, match=r"File too large.*\. Free some space"):
        prunus.train_runs(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    resumed = prunus.train_runs(tmp_path / "out", **settings, resume=True)
    assert whole.weights("longer").read_bytes() == resumed.weights("longer").read_bytes()


def test_from_recipe_to_table(settings: dict[str, Any], tmp_path: Path) -> None:
    result = prunus.train_runs(tmp_path / "out", **settings, seeds=[0, 1])
    rows = {row["run"]: row for row in result.rows}
    assert list(rows) == ["dense", "global-50", "obs-50", "longer"]
    assert rows["dense"]["score"] > 60
    assert rows["longer"]["score"] > rows["dense"]["score"]
    assert rows["global-50"]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert rows["obs-50"]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert rows["obs-50"]["score"] > 50
    assert rows["dense"]["nonzeros"] > 1.9 * rows["global-50"]["nonzeros"]
    scores = {(one["run"], one["seed"]): one["score"] for one in result.record["results"]}
    changes = [scores["longer", seed] - scores["dense", seed] for seed in (0, 1)]
    assert rows["longer"]["change"] == pytest.approx(sum(changes) / 2)
    assert rows["longer"]["change_spread"] == pytest.approx(abs(changes[0] - changes[1]) / 2**0.5)
    assert rows["longer"]["latency_ms"] > 0
    assert result.record["results"][0]["history"][1]["sparsity"] == 0
    assert rows["longer"]["file_bytes"] == result.weights("longer").stat().st_size
    dense, norm = load_file(result.weights("dense", 1)), "1.running_mean"
    assert torch.equal(dense[norm], load_file(result.weights("obs-50", 1))[norm])
    assert not torch.equal(dense[norm], load_file(result.weights("global-50", 1))[norm]), "norms were not recalibrated"
    stored = json.loads((result.output / "prunus.json").read_text())
    assert stored["rows"] == json.loads(json.dumps(result.rows))
    card = (result.output / "README.md").read_text()
    assert "| model | accuracy | change | latency ms | speed-up | size MB | non-zeros | sparsity |" in card
    assert "mean ± standard deviation over 2 seeds" in card
    assert (result.output / "accuracy.svg").read_text().count("<svg") == 1
    assert "longer" in (result.output / "training.svg").read_text()
    train_table(stored)
    assert not (tmp_path / ".out.prunus-partial").exists()


class Stops:
    """Presses Ctrl-C at a step of a task."""

    def __init__(self, task: str, step: int) -> None:
        self.task, self.left, self.now = task, step, ""
        self.before: list[str] = []

    def start(self, task: str, total: int) -> None:
        self.now = task

    def step(self, note: str = "") -> None:
        if note == "done before":
            self.before.append(self.now)
        elif self.now == self.task:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def close(self) -> None:
        pass


def test_a_stopped_recipe_goes_on_and_gives_the_same_bytes(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = prunus.train_runs(tmp_path / "whole", **settings)
    out = tmp_path / "out"
    for task, step in (("Training dense, seed 0", 15), ("Training longer, seed 0", 3)):
        with pytest.raises(KeyboardInterrupt):
            prunus.train_runs(out, **settings, resume=True, progress=Stops(task, step))
        assert not out.exists()
    with pytest.raises(OutputError, match="an unfinished run is there"):
        prunus.train_runs(out, **settings)
    with pytest.raises(OutputError, match="planned otherwise .settings.lr: 0.05 then, 0.06 now"):
        prunus.train_runs(out, **{**settings, "lr": 0.06}, resume=True)
    watched = Stops("", 0)
    resumed = prunus.train_runs(out, **settings, resume=True, progress=watched)
    assert not watched.before, "the last run had no whole epoch to skip"
    for run in ("dense", "global-50", "obs-50", "longer"):
        assert whole.weights(run).read_bytes() == resumed.weights(run).read_bytes()
    assert [one["score"] for one in whole.record["results"]] == [one["score"] for one in resumed.record["results"]]
    again = prunus.train_runs(out, **settings, resume=True)
    assert again.record["created"] == resumed.record["created"], "what was complete was made again"


def test_outputs_are_replaced_only_where_asked_for(settings: dict[str, Any], tmp_path: Path) -> None:
    quick = {**settings, "epochs": 0, "latency": 0, "runs": [{"name": "dense"}]}
    prunus.train_runs(tmp_path / "out", **quick)
    with pytest.raises(OutputError, match="exists already"):
        prunus.train_runs(tmp_path / "out", **quick)
    with pytest.raises(OutputError, match="exists already and is not this run's"):
        prunus.train_runs(tmp_path / "out", **{**quick, "seeds": [3]}, resume=True)
    result = prunus.train_runs(tmp_path / "out", **{**quick, "seeds": [3]}, overwrite=True)
    assert [path.parent.name for path in result.output.glob("dense/*/model.safetensors")] == ["seed-3"]
    assert result.rows[0]["latency_ms"] is None
    with pytest.raises(OutputError, match="lies in a checkpoint"):
        prunus.train_runs(tmp_path / "out" / "inner", **quick)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(OutputError, match="neither a checkpoint nor an empty folder"):
        prunus.train_runs(tmp_path / "mine", **quick, overwrite=True)


def test_from_a_file_of_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    quick = {**settings, "epochs": 0, "latency": 0, "runs": [{"name": "dense"}]}
    first = prunus.train_runs(tmp_path / "first", **quick)
    start = {"name": "given", "from": str(first.weights("dense"))}
    second = prunus.train_runs(tmp_path / "second", **{**quick, "seeds": [9], "runs": [start]})
    assert second.weights("given", 9).read_bytes() == first.weights("dense").read_bytes()
    with pytest.raises(CheckpointError, match=r"none.safetensors: these weights do not go into Sequential"):
        prunus.train_runs(tmp_path / "third", **{**quick, "runs": [{**start, "from": "none.safetensors"}]})


def test_zeros_are_held_and_moved_in_training(settings: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    prune = {"method": "magnitude", "allocation": "global", "sparsity": 0.9}
    runs = [
        {"name": "dense"}, {"name": "tuned-90", "from": "dense", "prune": prune},
        {"name": "grown", "from": "dense", "schedule": "gradual:every=10", "sparse": {"sparsity": 0.8, "seed": 7}},
        {"name": "rigl", "schedule": "rigl:every=5", "sparse": {"sparsity": 0.7}},
        {"name": "after", "from": "rigl", "epochs": 1},
    ]  # fmt: skip
    recipe = {**settings, "runs": runs, "latency": 0}
    whole = prunus.train_runs(tmp_path / "whole", **recipe)
    assert [row["sparsity"] for row in whole.rows] == pytest.approx([0, 0.9, 0.8, 0.7, 0.7], abs=3e-3)
    masks = [load_file(whole.weights(run))["0.weight"] != 0 for run in ("rigl", "after")]
    assert torch.equal(*masks)
    out = tmp_path / "out"
    for task, step in (("tuned-90", 3), ("tuned-90", 15), ("grown", 14), ("rigl", 20)):  # 3: behind the pruning
        with pytest.raises(KeyboardInterrupt):
            prunus.train_runs(out, **recipe, resume=True, progress=Stops(f"Training {task}, seed 0", step))
        if task == "tuned-90":
            monkeypatch.setattr("prunus.verbs.train.prune", None)
    resumed = prunus.train_runs(out, **recipe, resume=True)
    for run in ("tuned-90", "grown", "rigl", "after"):
        assert resumed.weights(run).read_bytes() == whole.weights(run).read_bytes(), run


def test_zeros_of_a_file_and_of_whole_layers_are_held(settings: dict[str, Any], tmp_path: Path) -> None:
    """A layer that pruning emptied stays empty."""
    quick = {**settings, "latency": 0, "epochs": 1}
    del quick["runs"]
    everything = {"method": "magnitude", "set": {"0": 1.0, "5": 0.5}}
    runs = [{"name": "pruned", "prune": everything}, {"name": "tuned", "from": "pruned"}]
    first = prunus.train_runs(tmp_path / "first", **quick, runs=runs)
    start = {"name": "given", "from": str(first.weights("pruned"))}
    second = prunus.train_runs(tmp_path / "second", **quick, runs=[start])
    for path in (first.weights("pruned"), first.weights("tuned"), second.weights("given")):
        found = load_file(path)
        assert not found["0.weight"].any()
        assert int(torch.count_nonzero(found["5.weight"])) == found["5.weight"].numel() // 2


def test_training_flops_of_shared_weights_are_those_of_their_zeros(tmp_path: Path) -> None:
    runs = [{"name": "pruned", "prune": {"method": "magnitude", "sparsity": 0.9}}, {"name": "shared", "from": "pruned",
                                                                                   "shared": 4}]  # fmt: skip
    found = prunus.train_runs(tmp_path / "out", model="lenet-300-100", data="digits", epochs=1, latency=0, runs=runs)
    results = {one["run"]: one for one in found.record["results"]}
    assert results["shared"]["history"][0]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert results["shared"]["training_flops"] == pytest.approx(results["pruned"]["training_flops"], rel=1e-6)


def test_numbers_that_are_none_are_told(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match="the loss"):
        prunus.train_runs(tmp_path / "out", **{**settings, "lr": 1e38, "batch": 2000, "epochs": 1, "runs": RUNS[:1]})
    assert not (tmp_path / "out").exists()


def test_what_a_run_reads_is_not_overwritten(settings: dict[str, Any], tmp_path: Path) -> None:
    quick = {key: value for key, value in settings.items() if key != "runs"} | {"epochs": 0, "latency": 0}
    first = prunus.train_runs(tmp_path / "out", **quick, runs=RUNS[:1])
    for key in ("from", "teacher"):
        run = {"name": "again", "epochs": 1, key: str(first.weights("dense"))}
        with pytest.raises(OutputError, match="which this run reads and which would go"):
            prunus.train_runs(tmp_path / "out", **quick, runs=[run], overwrite=True)
    assert first.weights("dense").is_file()


def test_a_finished_run_may_move(settings: dict[str, Any], tmp_path: Path) -> None:
    quick = {**settings, "epochs": 0, "latency": 0, "runs": RUNS[:1]}
    prunus.train_runs(tmp_path / "out", **quick).output.rename(tmp_path / "moved")
    assert prunus.train_runs(tmp_path / "moved", **quick, resume=True).weights("dense").is_file()


def test_names_are_drawn_and_written_as_they_are(settings: dict[str, Any], tmp_path: Path) -> None:
    odd = ["cost $\\frac{ $", "one\ntwo", "_under", "\x7f<script>&", "5$ to 9$"]
    runs = [RUNS[0], *({**RUNS[1], "name": f"run-{k}", "series": name} for k, name in enumerate(odd))]
    quick = {**settings, "epochs": 1, "latency": 0, "runs": runs}
    found = [prunus.train_runs(tmp_path / name, **quick).output for name in ("one", "two")]
    for name in ("accuracy.svg", "training.svg"):
        picture = (found[0] / name).read_bytes()
        ElementTree.fromstring(picture)
        assert picture == (found[1] / name).read_bytes()
    card = (found[0] / "README.md").read_text()
    again = tomllib.loads(card.partition("```toml\n")[2].partition("\n```")[0])
    assert [run["series"] for run in again["runs"][1:]] == odd


def test_chance_is_another_with_every_seed(settings: dict[str, Any], tmp_path: Path) -> None:
    run = {"name": "any", "prune": {"criterion": "random", "sparsity": 0.5}}
    found = prunus.train_runs(tmp_path / "out", **{**settings, "epochs": 0, "latency": 0, "runs": [run], "seeds": [0, 1]})
    masks = [load_file(found.weights("any", seed))["0.weight"] != 0 for seed in (0, 1)]
    assert not torch.equal(*masks)


@pytest.mark.parametrize(("runs", "told"), [
    ([{"name": "a", "pack": {"storage": "gapz"}}], "run a: unknown storage 'gapz'"),
    ([{"name": "a", "schedule": "rigl", "sparse": {"sparsity": 0.5, "include": ["none"]}}], "run a: .*none"),
    ([{"name": "a", "schedule": "srste", "sparse": {"sparsity": "2:4"}}], "run a: 0: 9 columns do not divide into groups"),
    ([{"name": "a", "teacher": "none.safetensors"}], "none.safetensors: these weights do not go into"),
])  # fmt: skip
def test_what_would_fail_later_is_told_at_once(settings: dict[str, Any], tmp_path: Path, runs, told) -> None:
    with pytest.raises(PrunusError, match=told):
        prunus.train_runs(tmp_path / "out", **{**settings, "runs": runs})
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


@pytest.mark.parametrize(("code", "told"), [
    ("def f(size):\n    raise KeyError('no')", "KeyError: 'no'"),
    ("def f(size: 'Unknown'):\n    return nn.Flatten()", "has no parameters"),
    ("class f(nn.Linear):\n    def __init__(self): super().__init__(8, 10)\n    def forward(self, x): return (x, x)",
     "gives a tuple for two examples"),
    ("class f(nn.Linear):\n    def __init__(self): super().__init__(8, 10)\n    def forward(self, x): assert False",
     "does not run on the data's inputs .*AssertionError"),
    ("def f():\n    return nn.Linear(8, 10)", "gives .2, 1, 8, 10. for two examples; wanted are logits .images classes."),
])  # fmt: skip
def test_networks_of_the_users_that_do_not_fit_are_told(settings: dict[str, Any], tmp_path: Path, code, told) -> None:
    (tmp_path / "odd.py").write_text(f"from __future__ import annotations\nfrom torch import nn\n\n{code}\n")
    with pytest.raises(RecipeError, match=told):
        prunus.train_runs(tmp_path / "out", **{**settings, "model": f"{tmp_path / 'odd.py'}:f"})


def test_faults_of_schedules_are_told_together(settings: dict[str, Any], tmp_path: Path) -> None:
    runs = [
        {"name": "a", "schedule": "gradul", "sparse": {"sparsity": 0.5}}, {"name": "b", "schedule": "rigl"},
        {"name": "c", "schedule": "rigl", "sparse": {"sparsty": 0.5}},
    ]  # fmt: skip
    with pytest.raises(RecipeError) as caught:
        prunus.train_runs(tmp_path / "out", **{**settings, "runs": runs})
    told = str(caught.value)
    assert "run a: unknown schedule 'gradul' (did you mean 'gradual'?)" in told
    assert "run b: sparsity is missing" in told
    assert "run c: unknown setting 'sparsty' (did you mean 'sparsity'?)" in told


def test_a_decoder_on_text(tmp_path: Path, text_file: Path) -> None:
    runs = [{"name": "dense"}, {"name": "wanda-50", "from": "dense", "epochs": 0, "prune": {"method": "wanda"}}]
    result = prunus.train_runs(
        tmp_path / "out", model="decoder:layers=2,width=32,heads=2", data=f"text:{text_file},seqlen=32,vocabulary=300",
        optimizer="adamw", lr=3e-3, epochs=1, batch=64, calibration=32, latency=2, runs=runs,
    )  # fmt: skip
    assert result.record["metric"] == "perplexity"
    assert 1 < result.rows[0]["score"] < 300
    assert prunus.inspect(result.weights("wanda-50").parent).costs.count == 2
    again = prunus.train_runs(
        tmp_path / "out", model="decoder:layers=1,width=32,heads=2", data=f"text:{text_file},seqlen=32,vocabulary=300",
        epochs=0, latency=0, overwrite=True,
    )  # fmt: skip
    assert not (again.output / "wanda-50").exists()


def test_what_cannot_be_done_is_told_before_anything_is_written(settings: dict[str, Any], tmp_path: Path) -> None:
    for changed, error, says in (
        ({"data": "npz:none.npz"}, DataError, "none.npz: cannot be read"),
        ({"model": "resnet18:width=-4"}, RecipeError, "width=-4"),
        ({"model": "alexnet"}, RecipeError, "227 or 224 pixels, not 8"),
        ({"model": "lenet-300-100:size=7"}, RecipeError, "does not run on the data's inputs .1, 8, 8."),
        ({"model": "lenet-300-100:classes=9"}, RecipeError, "has 9 outputs, the data 10 classes"),
        ({"device": "cuda:99"}, RecipeError, "device 'cuda:99' cannot be used here"),
        ({"model": f"{tmp_path / 'own.py'}:big"}, RecipeError, "has no function 'big'"),
    ):
        with pytest.raises(error, match=says):
            prunus.train_runs(tmp_path / "out", **{**settings, **changed})
        assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


def test_the_command(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from prunus.cli.app import main
    from prunus.report.trained import recipe_toml

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_toml({**settings, "runs": [{"name": "dense", "epochs": 9}]}), encoding="utf-8")
    words = ["prunus", "train", str(recipe), "-o", str(tmp_path / "out"), "--epochs", "1", "--seeds", "4,5", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    record = json.loads(capsys.readouterr().out)
    assert [(one["seed"], len(one["history"])) for one in record["results"]] == [(4, 1), (5, 1)]
    monkeypatch.setattr(sys, "argv", [*words[:-2], "four"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no whole numbers" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_process_loses_an_epoch_at_most(settings: dict[str, Any], tmp_path: Path) -> None:
    from prunus.report.trained import recipe_toml

    long = {**settings, "epochs": 40, "runs": [{"name": "dense"}], "latency": 0}
    (tmp_path / "recipe.toml").write_text(recipe_toml(long), encoding="utf-8")
    words = [sys.executable, "-m", "prunus", "train", str(tmp_path / "recipe.toml"), "-o"]
    marks = tmp_path / ".out.prunus-partial" / "done.jsonl"
    process = subprocess.Popen([*words, str(tmp_path / "out")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (marks.is_file() and len(marks.read_text().splitlines()) > 4) and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    done = len(marks.read_text().splitlines())
    watched = Stops("", 0)
    resumed = prunus.train_runs(tmp_path / "out", **long, resume=True, progress=watched)
    assert len(watched.before) == 12 * done
    whole = prunus.train_runs(tmp_path / "whole", **long)
    assert whole.weights("dense").read_bytes() == resumed.weights("dense").read_bytes()


def test_shared_weights_are_trained_packed_and_resumed(tmp_path: Path) -> None:
    """Deep Compression as runs: the codebooks alone are trained, the packed file gives the weights back to the bit."""
    runs = [
        {"name": "pruned", "prune": {"method": "magnitude", "sparsity": 0.9},
         "pack": {"storage": "gaps", "coder": "huffman"}},
        {"name": "shared", "from": "pruned", "epochs": 2, "lr": 0.002, "shared": 4,
         "pack": {"storage": "gaps", "values": "shared4", "coder": "huffman"}},
    ]  # fmt: skip
    settings = {"model": "lenet-300-100", "data": "digits", "epochs": 1, "batch": 128, "latency": 0, "runs": runs}
    found = prunus.train_runs(tmp_path / "out", **settings)
    rows = {row["run"]: row for row in found.rows}
    assert rows["shared"]["sparsity"] == rows["pruned"]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    before, after = load_file(found.weights("pruned")), load_file(found.weights("shared"))
    for name, value in after.items():
        if value.dim() > 1:
            assert len(value.unique()) <= 16
            assert torch.equal(value == 0, before[name] == 0)
            assert not torch.equal(value, before[name])
    prunus.unpack(found.weights("shared").parent / "packed", tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in again.items())
    assert rows["shared"]["packed_ratio"] > 1.5 * rows["pruned"]["packed_ratio"]
    assert rows["shared"]["stages"]["together"]["ratios"]["huffman"] > rows["shared"]["packed_ratio"]
    assert "code bits" in (found.output / "README.md").read_text()
    with pytest.raises(KeyboardInterrupt):
        prunus.train_runs(tmp_path / "stopped", **settings, progress=Stops("Training shared, seed 0", 15))
    resumed = prunus.train_runs(tmp_path / "stopped", **settings, resume=True)
    assert resumed.weights("shared").read_bytes() == found.weights("shared").read_bytes()
    with pytest.raises(RecipeError, match="prune in a run before"):
        prunus.train_runs(tmp_path / "never", **{**settings, "runs": [{**runs[0], "shared": 4}]})


def test_a_run_learns_from_a_teacher(tmp_path: Path) -> None:
    runs = [{"name": "dense"}, {"name": "small", "prune": {"method": "magnitude", "sparsity": 0.9}, "teacher": "dense",
                                "distill": {"weight": 0.9, "temperature": 2}}, {"name": "alone"}]  # fmt: skip
    runs[2] |= {"prune": runs[1]["prune"]}
    settings = {"model": "lenet-300-100", "data": "digits", "epochs": 2, "batch": 128, "latency": 0, "runs": runs}
    found = prunus.train_runs(tmp_path / "out", **settings)
    losses = {one["run"]: one["history"][0]["loss"] for one in found.record["results"]}
    assert losses["small"] != losses["alone"]
    assert found.rows[1]["sparsity"] == found.rows[2]["sparsity"]
    told = ("teacher 'nobody' is neither a run above it", "distill has no setting 'heat'")
    with pytest.raises(RecipeError, match=rf"(?s){told[0]}.*{told[1]}"):
        prunus.train_runs(
            tmp_path / "x", **{**settings, "runs": [{"name": "a", "teacher": "nobody", "distill": {"heat": 1}}]}
        )
