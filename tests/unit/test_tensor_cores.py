"""2:4 layers on a GPU: which are found, and that a measurement decides; what needs the cores themselves is in tests/gpu."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunus.core.progress import Silent
from prunus.runtime import tensor_cores
from prunus.runtime.load import Loaded
from prunus.runtime.tensor_cores import is_pairs, to_gpu


def pairs(rows: int, cols: int) -> torch.Tensor:
    weight = torch.randn(rows, cols // 4, 4)
    weight[..., 1::2] = 0
    return weight.flatten(1)


def network() -> Loaded:
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 32, bias=False), nn.Linear(32, 64))
    for index in (0, 2):
        model[index].weight = nn.Parameter(pairs(*model[index].weight.shape), requires_grad=False)
    return Loaded(model, dict.fromkeys("012", "dense: stored so"))


def test_pairs_are_told_from_other_zeros() -> None:
    assert is_pairs(pairs(8, 16))
    spoilt = pairs(8, 16)
    spoilt[3, 4:7] = 1
    assert not is_pairs(spoilt)
    assert not is_pairs(torch.zeros(4, 6))


def test_what_the_cores_do_not_take_stays_dense_and_says_why() -> None:
    loaded = network()
    x, before = torch.randn(2, 64), None
    with torch.no_grad():
        before = loaded.model(x)
    assert to_gpu(loaded, torch.device("cpu"), torch.float32, 1, Silent()) == []  # a CPU has no such cores
    for name in "02":
        assert loaded.layers[name].startswith("dense: sparse tensor cores do not take it (")
    assert loaded.layers["1"] == "dense: stored so"
    with torch.no_grad():
        assert torch.equal(loaded.model(x), before)


@pytest.mark.parametrize("faster", [True, False])
def test_what_is_faster_is_kept(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Compressed(nn.Linear):
        """In the place of a layer on the cores."""

    def compressed(linear: nn.Linear) -> nn.Linear:
        made = Compressed(linear.in_features, linear.out_features)
        made.load_state_dict(linear.state_dict())
        return made

    monkeypatch.setattr(tensor_cores, "sparse", compressed)
    monkeypatch.setattr(tensor_cores, "times", lambda sides, x: (1.0, 2.0) if faster else (2.0, 1.0))
    loaded = network()
    choices = to_gpu(loaded, torch.device("cpu"), torch.float32, 3, Silent())
    assert [(choice.rows, choice.cols, choice.keeps_packed) for choice in choices] == [(32, 64, faster), (64, 32, faster)]
    assert [isinstance(module, Compressed) for module in loaded.model] == [faster, False, faster]
    assert loaded.packed == (2 if faster else 0)
    assert loaded.layers["0"] == ("2:4 sparse tensor cores" if faster else "dense: faster here")
