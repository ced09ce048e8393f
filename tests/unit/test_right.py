"""Accuracies and gaps between networks have the intervals that their answers on the test images say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunus.measure.intervals import change_interval, mean_interval, share_interval
from prunus.report.right import accuracy_interval, bits_of, gap_interval
from prunus.report.trained import inside_noise


def results(*answers: np.ndarray) -> list[dict[str, object]]:
    return [{"right": bits_of(torch.from_numpy(one))} for one in answers]


def drawn(share: float, tests: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(tests) < share


def test_one_seed_has_wilsons_interval_and_bonett_and_prices() -> None:
    one, two = drawn(0.9, 203, 0), drawn(0.7, 203, 1)
    own, gap = accuracy_interval(results(one), 203), gap_interval(results(two), results(one), 203)
    wanted = share_interval(int(one.sum()), 203)
    assert own == {"low": 100 * wanted.low, "high": 100 * wanted.high, "level": 0.95}
    change = change_interval(int((two & ~one).sum()), int((one & ~two).sum()), 203)
    assert gap == {"low": 100 * change.low, "high": 100 * change.high, "level": 0.95}
    assert gap["high"] < 0


def test_several_seeds_are_one_mean_for_each_image() -> None:
    ones, others = [drawn(0.9, 500, k) for k in range(3)], [drawn(0.88, 500, 10 + k) for k in range(3)]
    gap = gap_interval(results(*others), results(*ones), 500)
    each = 100 * (np.mean(others, axis=0) - np.mean(ones, axis=0))
    wanted = mean_interval(list(each))
    assert gap is not None
    assert wanted is not None
    assert (gap["low"], gap["high"]) == pytest.approx((wanted.low, wanted.high))
    assert gap["low"] < each.mean() < gap["high"]
    own = accuracy_interval(results(*ones), 500)
    assert own is not None
    assert own["low"] < 100 * np.mean(ones) < own["high"]


def test_text_has_none_and_what_is_open_is_named() -> None:
    assert bits_of(None) is None
    assert accuracy_interval([{"right": None}], 5) is gap_interval([{"right": None}], [{"right": None}], 5) is None
    rows = [
        {"run": "same", "change_interval": {"low": -0.5, "high": 0.25}},
        {"run": "worse", "change_interval": {"low": -2.0, "high": -1.0}}, {"run": "text", "change_interval": None},
        {"run": "older"},
    ]  # fmt: skip
    assert inside_noise(rows) == ["same (-0.50 to +0.25)"]


def test_resamples_in_parts_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(0).exponential(size=300))
    whole = mean_interval(values)
    monkeypatch.setattr("prunus.measure.intervals._AT_ONCE", 7 * 300)
    assert mean_interval(values) == whole
