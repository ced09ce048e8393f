"""Recipes that train: each parses and fits its network; papers' totals from the recipes' own numbers; those that a CPU can
train are trained, on few images."""

from __future__ import annotations

import struct
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.lab.judge import logits_of
from prunus.observe.text import read_text
from prunus.samples.source import source_of
from prunus.zoo.build import build

FOLDER = Path(__file__).parents[2] / "recipes" / "train"
RECIPES = sorted(FOLDER.glob("*.toml"))

DEEP_COMPRESSION: dict[str, list[tuple[str, float, float, float]]] = {
    "alexnet-han": [
        ("conv1", 6.3, 4, 1.2), ("conv2", 5.5, 4, 2.3), ("conv3", 5.1, 4, 2.6), ("conv4", 5.2, 4, 2.5),
        ("conv5", 5.6, 4, 2.5),
        ("fc6", 3.9, 4, 3.2), ("fc7", 3.6, 4, 3.7), ("fc8", 4.0, 4, 3.2),
    ],
    "vgg16-han": [
        ("conv1_1", 6.8, 5, 1.7), ("conv1_2", 6.5, 5, 2.6), ("conv2_1", 5.6, 5, 2.4), ("conv2_2", 5.9, 5, 2.3),
        ("conv3_1", 4.8, 5, 1.8), ("conv3_2", 4.6, 5, 2.9), ("conv3_3", 4.6, 5, 2.2), ("conv4_1", 4.6, 5, 2.6),
        ("conv4_2", 4.2, 5, 2.9), ("conv4_3", 4.4, 5, 2.5), ("conv5_1", 4.7, 5, 2.5), ("conv5_2", 4.6, 5, 2.7),
        ("conv5_3", 4.6, 5, 2.3), ("fc6", 3.6, 5, 3.5), ("fc7", 4.0, 5, 4.3), ("fc8", 4.0, 5, 3.4),
    ],
}  # fmt: skip
"""Of Deep Compression (arXiv:1510.00149, tables 4 and 5, as recalled): a layer, bits of a coded value, bits of a gap as it
is stored, and as it is coded."""


def pruned_run(recipe: prunus.TrainRecipe) -> dict[str, float]:
    (run,) = [run for run in recipe.runs if "set" in run.prune]
    return dict(run.prune["set"])


def kept(recipe: prunus.TrainRecipe) -> dict[str, tuple[int, float]]:
    """Every layer's number of weights, and the share of them that stays."""
    with torch.device("meta"):
        model = build(recipe.model, 0, {})
    shares = pruned_run(recipe)
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            (share,) = [value for glob, value in shares.items() if fnmatch(name, glob)]
            found[name.rpartition(".")[2]] = (module.weight.numel(), 1 - share)
    assert len(found) == len(shares), "the recipe names a layer that is not there"
    return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_parses_and_its_network_takes_its_data(path: Path) -> None:
    recipe = prunus.TrainRecipe.read(path)
    source = source_of(recipe.data)
    kind = recipe.data.partition(":")[0]
    if kind == "text":
        given, inputs = {"vocabulary": source.vocabulary}, torch.zeros(2, source.seqlen, dtype=torch.long)
        wanted = (2, source.seqlen, source.vocabulary)
    else:
        size = getattr(source, "size", {"cifar10": 32, "npz": 32, "digits": 8}.get(kind, 28))
        channels, classes = 3 if kind in ("cifar10", "npz", "images") else 1, 1000 if hasattr(source, "size") else 10
        given, inputs = {"channels": channels, "size": size, "classes": classes}, torch.zeros(2, channels, size, size)
        wanted = (2, classes)
    device = "cpu" if kind == "text" else "meta"  # transformers looks at masks
    with torch.device(device):
        assert logits_of(build(recipe.model, 0, given), inputs.to(device)).shape == wanted
    for run in recipe.runs:
        prunus.Recipe.of(run.pruning)


@pytest.mark.parametrize(("name", "kept_of_paper", "ratio"), [
    ("lenet-300-100", 22e3, 12), ("lenet-5", 36e3, 12), ("vgg16-han", 10.3e6, 13), ("alexnet-han", 6.7e6, 9),
])  # fmt: skip
def test_what_stays_is_what_han_kept(name: str, kept_of_paper: float, ratio: int) -> None:
    """The paper's total within the rounding of its shares, and its ratio, biases counted on both sides."""
    recipe = prunus.TrainRecipe.read(FOLDER / f"{name}.toml")
    layers = kept(recipe)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build(recipe.model, 0, {}).parameters())
    biases = parameters - sum(count for count, _ in layers.values())
    left = sum(count * share for count, share in layers.values()) + biases
    assert left == pytest.approx(kept_of_paper, rel=0.03)
    assert round(parameters / left) == ratio
    if name.startswith("lenet"):
        assert parameters / left >= 12


@pytest.mark.parametrize(("name", "ratio"), [("vgg16-han", 49), ("alexnet-han", 35)])
def test_deep_compressions_ratio_from_its_bits(name: str, ratio: int) -> None:
    """Between what its bits come to without filler zeros, and with as many as places of pure chance would need; 2% is what
    the shares are rounded by."""
    layers = kept(prunus.TrainRecipe.read(FOLDER / f"{name}.toml"))
    dense = sum(32 * count for count, _ in layers.values())
    without = filled = 0.0
    for layer, value, stored, gap in DEEP_COMPRESSION[name]:
        count, share = layers.pop(layer)
        bits = count * share * (value + gap)
        without += bits
        filled += bits / (1 - (1 - share) ** 2**stored)
    assert not layers
    assert 0.98 * dense / filled < ratio < dense / without


def few_images(folder: Path, name: str) -> Path:
    """A dozen images a class, bright as their class is high, as idx files or in CIFAR's binary version."""
    chance = np.random.default_rng(0)
    labels = np.arange(120) % 10
    if name == "cifar10":
        images = (labels[:, None] * 22 + chance.integers(0, 40, (120, 3072))).astype(np.uint8)
        records = np.concatenate([labels[:, None].astype(np.uint8), images], axis=1)
        (folder / "data_batch_1.bin").write_bytes(records[:80].tobytes())
        (folder / "test_batch.bin").write_bytes(records[80:].tobytes())
        return folder
    if name.startswith("npz"):
        images = (labels[:, None, None, None] * 22 + chance.integers(0, 40, (120, 32, 32, 3))).astype(np.uint8)
        np.savez(folder / "few.npz", X=images, y=labels)
        return folder / "few.npz"
    images = (labels[:, None, None] * 22 + chance.integers(0, 40, (120, 28, 28))).astype(np.uint8)
    for prefix, part in (("train", slice(0, 80)), ("t10k", slice(80, 120))):
        head = struct.pack(">HBBIII", 0, 8, 3, len(images[part]), 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + images[part].tobytes())
        head = struct.pack(">HBBI", 0, 8, 1, len(labels[part]))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels[part].astype(np.uint8).tobytes())
    return folder


def few_of(data: str, folder: Path) -> str:
    """A recipe's data, but few."""
    kind, _, options = data.partition(":")
    if kind == "text":
        text = folder / "few.txt"
        text.write_text(read_text("factbook-heldout")[:30_000])
        return f"text:{text},seqlen=32,vocabulary=300"
    few = f"{kind}:{few_images(folder, kind)}"
    return few + "," + options.partition(",")[2] if kind == "npz" else few


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:masks never change in")  # RigL looks every hundredth, and here are fewer
@pytest.mark.parametrize("name", [path.stem for path in RECIPES if not path.stem.endswith("-han")])
def test_it_trains(name: str, tmp_path: Path) -> None:
    stored = prunus.TrainRecipe.read(FOLDER / f"{name}.toml")
    data = stored.data if name == "digits" else few_of(stored.data, tmp_path)
    model = stored.model.partition(":")[0].replace("resnet18", "resnet18:width=8")
    few = {"model": model, "data": data, "latency": 2, "batch": 20, "seeds": [0], "compile": False}
    recipe = prunus.TrainRecipe.read(FOLDER / f"{name}.toml", few)
    result = prunus.train_runs(tmp_path / "out", recipe.at_most(1))
    rows = {row["run"]: row for row in result.rows}
    assert len(rows) == len(recipe.runs)
    for run, zeros in (
        ("global-70", 0.7),
        ("global-90", 0.9),
        ("solver-70", 0.7),
        ("global-tuned-90", 0.9),
        ("solver-tuned-90", 0.9),
        ("rigl-90", 0.9),
        ("static-90", 0.9),
    ):
        if run in rows:
            assert rows[run]["sparsity"] == pytest.approx(zeros, abs=2e-3)
    if name == "decoder-sparse":
        inside = 6 * (4 * 256 * 256 + 3 * 256 * 704)
        assert rows["srste-2-4"]["nonzeros"] == pytest.approx(rows["dense"]["nonzeros"] - inside / 2, abs=10)
        assert rows["rigl-80"]["nonzeros"] == pytest.approx(rows["dense"]["nonzeros"] - 0.8 * inside, abs=100)
    if name == "deep-compression":
        assert rows["shared"]["packed_ratio"] > 30
    if name.startswith("lenet"):
        for run in ("pruned-and-tuned", "gradual"):
            assert rows[run]["parameters"] / rows[run]["nonzeros"] >= 12
