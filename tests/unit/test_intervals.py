"""Confidence intervals: they hold the truth as often as they say, which a simulation that knows the truth tells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from prunus.measure.intervals import FEWEST, change_interval, mean_interval, share_interval

TRIALS = 600


def _coverage(draw, truth, level):
    return sum(truth in mean_interval(draw(), level) for _ in range(TRIALS)) / TRIALS


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(("name", "windows"), [("normal", 12), ("gamma", 32), ("lognormal", 64)])
def test_a_mean_is_in_its_interval_at_the_nominal_rate(name, windows, level):
    generator = np.random.default_rng(1)
    draws = {
        "normal": (lambda: generator.normal(3.0, 0.4, windows), 3.0),
        "gamma": (lambda: generator.gamma(2.0, 1.5, windows), 3.0),  # as skewed as losses of windows, and more
        "lognormal": (lambda: generator.lognormal(0.0, 0.8, windows), math.exp(0.32)),
    }
    assert _coverage(*draws[name], level) == pytest.approx(level, abs=0.035)


def test_skewed_values_get_an_interval_that_is_longer_on_the_side_of_their_tail():
    values = np.random.default_rng(2).lognormal(0.0, 1.0, 64)
    found = mean_interval(values)
    assert found.high - values.mean() > 1.2 * (values.mean() - found.low)


def test_a_mean_of_few_values_has_no_interval_and_of_equal_ones_no_width():
    assert mean_interval([1.0] * (FEWEST - 1)) is None
    found = mean_interval([0.1] * FEWEST)
    assert found.low == found.high == pytest.approx(0.1)
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, math.inf, 2.0, 3.0, 4.0])


def test_intervals_are_the_same_every_time_and_move_with_their_values():
    values = np.random.default_rng(3).normal(size=20)
    one, two, moved = mean_interval(values), mean_interval(values), mean_interval(5 + 2 * values)
    assert one == two
    assert (moved.low, moved.high) == pytest.approx((5 + 2 * one.low, 5 + 2 * one.high))


@pytest.mark.parametrize(("count", "total"), [(0, 10), (1, 7), (50, 100), (999, 1000), (12, 12)])
def test_a_share_has_scipys_wilson_interval(count, total):
    theirs = stats.binomtest(count, total).proportion_ci(0.95, "wilson")
    found = share_interval(count, total)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("better", "worse", "total"), [(0.05, 0.05, 50), (0.1, 0.02, 100), (0.3, 0.1, 40)])
def test_a_change_is_in_its_interval_at_the_nominal_rate_or_oftener_where_changes_are_few(better, worse, total):
    generator = np.random.default_rng(4)
    counts = generator.multinomial(total, [better, worse, 1 - better - worse], size=4000)
    held = np.mean([better - worse in change_interval(int(up), int(down), total) for up, down, _ in counts])
    assert 0.935 < held < 0.99


def test_a_change_that_nobody_made_is_in_the_noise_and_a_large_one_is_not():
    assert 0.0 in change_interval(0, 0, 20)
    assert 0.0 not in change_interval(30, 2, 100)
    assert change_interval(2, 30, 100).high < 0
