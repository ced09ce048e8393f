"""`prunus lottery` from recipe to pictures: masks nested, weights rewound, controls alike, stopped searches resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import prunus
from prunus.cli.app import app
from prunus.core.errors import OutputError, RecipeError
from prunus.core.progress import Silent
from prunus.lab.tickets import barrier, earliest, shuffled_masks
from prunus.lottery_recipe import LotteryRecipe
from prunus.samples.batches import InOrder
from prunus.samples.source import source_of
from prunus.zoo.build import build

SETTINGS: dict[str, Any] = {
    "model": "lenet-300-100", "data": "digits", "epochs": 2, "batch": 128, "optimizer": "adam", "lr": 2e-3,
    "weight_decay": 0.0, "lr_schedule": "constant", "levels": 2, "rate": 0.5, "rewind": 3, "looks": 2, "seeds": [1],
    "stability": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> prunus.LotteryResult:
    return prunus.lottery(tmp_path_factory.mktemp("lottery") / "out", **SETTINGS)


def weights(found: prunus.LotteryResult, level: int, kind: str) -> dict[str, Tensor]:
    return load_file(found.output / "seed-1" / f"level-{level:02d}" / kind / "model.safetensors")


def test_every_level_takes_the_smallest_of_what_is_left(whole) -> None:
    before = weights(whole, 0, "dense")
    masks: dict[str, Tensor] = {name: torch.ones_like(value, dtype=torch.bool) for name, value in before.items()
                                if value.dim() > 1}  # fmt: skip
    total = sum(mask.numel() for mask in masks.values())
    for level in (1, 2):
        drawn = whole.masks(level, seed=1)
        kept = sum(int(mask.sum()) for mask in drawn.values())
        assert kept == total - int(total * (1 - 0.5**level) + 1e-9)
        for name, mask in drawn.items():
            assert not (mask & ~masks[name]).any()  # nested in the one before
        live = torch.cat([before[name][mask].abs() for name, mask in drawn.items()])
        gone = torch.cat([before[name][masks[name] & ~mask].abs() for name, mask in drawn.items()])
        assert live.min() >= gone.max()
        masks, before = dict(drawn), weights(whole, level, "ticket")
        for name, mask in masks.items():
            assert not before[name][~mask].any()


def test_weights_are_rewound_to_the_step(whole) -> None:
    """The rewound weights are those of three steps of the dense network's training, by hand."""
    samples = source_of("digits").open()
    model = build("lenet-300-100", 1, samples.given())
    from prunus.lab.judge import loss_of
    from prunus.samples.batches import Shuffled

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step, (inputs, answers) in enumerate(Shuffled(samples, 128, torch.device("cpu"), 1).epoch(0)):
        if step == 3:
            break
        optimizer.zero_grad()
        loss_of(model, inputs, answers).backward()
        optimizer.step()
    rewound = load_file(whole.output / "seed-1" / "rewind.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(rewound[name], value, rtol=1e-4, atol=1e-6)


def test_controls_have_as_many_weights_of_every_layer(whole) -> None:
    masks = whole.masks(2, seed=1)
    for kind in ("random-reinit", "random-mask"):
        trained = weights(whole, 2, kind)
        for name, mask in masks.items():
            assert int((trained[name] != 0).sum()) == int(mask.sum())
    same = weights(whole, 2, "random-reinit")
    other = weights(whole, 2, "random-mask")
    assert all(torch.equal(same[name] != 0, mask) for name, mask in masks.items())
    assert any(not torch.equal(other[name] != 0, mask) for name, mask in masks.items())


def test_the_record_and_the_pictures(whole) -> None:
    rows = {(row["level"], row["kind"]): row for row in whole.rows}
    assert set(rows) == {(0, "dense"), (0, "ticket-again")} | {
        (level, kind) for level in (1, 2) for kind in ("ticket", "ticket-again", "random-reinit", "random-mask")
    }
    assert rows[2, "ticket"]["sparsity"] == pytest.approx(0.75, abs=1e-4)
    assert rows[2, "ticket-again"]["barrier"] is not None
    for kind in ("random-reinit", "random-mask"):  # of one seed
        assert rows[2, kind]["ticket_lead"] == pytest.approx(rows[2, "ticket"]["score"] - rows[2, kind]["score"])
        assert rows[2, kind]["ticket_lead_spread"] is None
    assert rows[2, "ticket"]["ticket_lead"] is None
    steps = {result["kind"]: result["steps"] for result in whole.record["results"] if result["level"] == 2}
    assert steps["random-reinit"] == steps["ticket"] + 3
    ticket = next(r for r in whole.record["results"] if (r["level"], r["kind"]) == (2, "ticket"))
    looks = [look["step"] for epoch in ticket["history"] for look in epoch["looks"]]
    assert looks == sorted(set(looks))
    assert len(looks) == 4
    for name in ("accuracy", "speed", "learning", "stability"):
        assert (whole.output / f"{name}.svg").read_text().startswith("<?xml")
    card = (whole.output / "README.md").read_text()
    assert "| left | ticket | reinit | mask |" in card
    assert f"Ticket less reinit, by seed: {rows[1, 'random-reinit']['ticket_lead']:+.2f} with 50.0%, " in card


class Stopping(Silent):
    """Ctrl-C at a step of some task."""

    def __init__(self, task: str, step: int) -> None:
        self.wanted, self.at, self.now, self.count = task, step, "", 0

    def start(self, task: str, total: int) -> None:
        self.now, self.count = task, 0

    def step(self, note: str = "") -> None:
        self.count += 1
        if self.wanted in self.now and self.count == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("task", "step"), [("dense, level 0", 15), ("ticket, level 1", 14), ("random-mask, level 2", 2)])
def test_a_stopped_search_goes_on_to_the_same_bytes(whole, tmp_path, task, step) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prunus.lottery(out, progress=Stopping(task, step), **SETTINGS)
    assert not out.exists()
    with pytest.raises(OutputError, match="resume"):
        prunus.lottery(out, **SETTINGS)
    again = prunus.lottery(out, resume=True, **SETTINGS)
    files = sorted(path.relative_to(whole.output) for path in whole.output.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(out) for path in out.rglob("*.safetensors"))
    for file in files:
        assert (whole.output / file).read_bytes() == (again.output / file).read_bytes(), file
    assert [row["score"] for row in again.rows] == [row["score"] for row in whole.rows]


def test_the_command(tmp_path) -> None:
    recipe = tmp_path / "tickets.toml"
    recipe.write_text(
        'model = "lenet-300-100"\ndata = "digits"\nbatch = 256\nlevels = 9\ncontrols = ["random-mask"]\nrate = 0.4\n'
    )
    told = CliRunner().invoke(app, ["lottery", str(recipe), "-o", str(tmp_path / "out"), "--levels", "1", "--epochs", "1"])
    assert told.exit_code == 0, told.output
    assert "Lottery tickets: lenet-300-100 on" in told.output
    record = json.loads((tmp_path / "out" / "prunus.json").read_text())
    assert [row["kind"] for row in record["rows"]] == ["dense", "ticket", "random-mask"]
    told = CliRunner().invoke(app, ["lottery", str(recipe), "-o", str(tmp_path / "out"), "--levels", "1", "--epochs", "1",
                                    "--overwrite", "--json"])  # fmt: skip
    assert json.loads(told.stdout)["kind"] == "lottery"


@pytest.mark.parametrize(("settings", "told"), [
    ({"levels": 0}, "levels 0 must be a whole number"), ({"rate": 1}, "rate 1 must be a share"),
    ({"rewind": 2.5}, "rewind 2.5 must be"), ({"allocation": "erk"}, "is none of global, uniform"),
    ({"controls": ["luck"]}, "'luck' is none of"), ({"runs": [{"name": "a"}]}, "a lottery makes its own"),
    ({"lr": -1}, "lr -1 must be above 0"), ({"epochs": 0}, "tickets are trained"),
    ({"levls": 3}, "unknown setting 'levls'"), ({"rewind": float("inf")}, "rewind inf must be"),
    ({"controls": ["random-mask", "random-mask"]}, "must be different"),
])  # fmt: skip
def test_wrong_recipes_are_told(settings, told) -> None:
    with pytest.raises(RecipeError, match=told):
        LotteryRecipe.of({**SETTINGS, **settings})


@pytest.mark.parametrize(("settings", "told"), [
    ({"rewind": 1000}, "rewind 1000 is not before the last of 24 steps"), ({"rewind": 0.99}, "rewind 0.99 is not before"),
    ({"exclude": ["none*"]}, r"exclude 'none\*' names none of fc1"),
])  # fmt: skip
def test_what_would_fail_later_is_told_at_once(settings, told, tmp_path) -> None:
    with pytest.raises(RecipeError, match=told):
        prunus.lottery(tmp_path / "out", **{**SETTINGS, **settings})
    assert not list(tmp_path.iterdir())


def test_one_look_an_epoch_is_the_one_behind_it(tmp_path) -> None:
    found = prunus.lottery(tmp_path / "out", **{**SETTINGS, "looks": 1, "levels": 1, "stability": False, "controls": []})
    looks = [[look["step"] for look in epoch["looks"]] for epoch in found.record["results"][0]["history"]]
    assert looks == [[12], [24]]
    assert not (found.output / "stability.svg").exists()
    assert "stability" not in (found.output / "README.md").read_text().partition("## The recipe")[0]


def test_tickets_of_a_decoder(tmp_path, text_file) -> None:
    found = prunus.lottery(
        tmp_path / "out", model="decoder:layers=1,width=32,heads=2", data=f"text:{text_file},seqlen=32,vocabulary=300",
        optimizer="adamw", lr=3e-3, epochs=1, batch=64, levels=2, rate=0.5, looks=1, controls=["random-mask"],
    )  # fmt: skip
    masks = [found.masks(level) for level in (1, 2)]
    assert [mask.sparsity for mask in masks] == pytest.approx([0.5, 0.75], abs=1e-3)
    assert "model.layers.0.mlp.up_proj.weight" in masks[0]
    ticket = load_file(found.output / "seed-0" / "level-02" / "ticket" / "model.safetensors")
    assert all(not ticket[name][~mask].any() for name, mask in masks[1].items())


def test_a_changed_network_is_another(tmp_path) -> None:
    own = tmp_path / "own.py"
    text = "from torch import nn\n\ndef f(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.{}(), {})\n"
    own.write_text(text.format("ReLU", "nn.Linear(16, 10)"))
    quick = {**SETTINGS, "model": f"{own}:f", "stability": False, "controls": [], "levels": 1}
    with pytest.raises(KeyboardInterrupt):
        prunus.lottery(tmp_path / "out", progress=Stopping("ticket, level 1", 14), **quick)
    own.write_text(text.format("Tanh", "nn.Linear(16, 10)"))
    with pytest.raises(OutputError, match="planned otherwise .files"):
        prunus.lottery(tmp_path / "out", resume=True, **quick)


def test_recipes_are_read() -> None:
    for path in sorted((Path(__file__).parents[2] / "recipes" / "lottery").glob("*.toml")):
        recipe = LotteryRecipe.read(path)
        assert LotteryRecipe.of(recipe.to_json()) == recipe
        assert recipe.sparsity(recipe.levels) > 0.85


def test_two_networks_that_are_one_have_no_barrier() -> None:
    samples = source_of("digits").open()
    model = build("lenet-300-100", 0, samples.given())
    tests = InOrder(samples, samples.test, 256, torch.device("cpu"))
    assert barrier(model, model, build("lenet-300-100", 1, samples.given()), tests) == 0.0


def test_masks_are_shuffled_within_layers() -> None:
    masks = {"a": torch.rand(20, 30) > 0.7, "b": torch.zeros(4, 4, dtype=torch.bool)}
    mixed = shuffled_masks(masks, 3)
    assert all(int(mixed[name].sum()) == int(mask.sum()) for name, mask in masks.items())
    assert not torch.equal(mixed["a"], masks["a"])
    assert torch.equal(mixed["a"], shuffled_masks(masks, 3)["a"])


def test_training_would_have_stopped_at_the_lowest_loss() -> None:
    looks = [{"step": k, "test_loss": abs(k - 4) + 1.0, "test_score": float(k)} for k in range(1, 9)]
    assert earliest([{"looks": looks[:4]}, {"looks": looks[4:]}]) == {"step": 4, "score": 4.0}
