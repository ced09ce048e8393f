"""Rounds of timing: shared out over sittings, none lost, none of a warm-up counted."""

from __future__ import annotations

import pytest
import torch

from prunus.core.progress import Silent
from prunus.measure.energy import Energy
from prunus.runtime.decode import Decoded
from prunus.verbs.turns import Turns


class Joules:
    """A meter by which each piece of work takes one joule more than the last."""

    source, measured = "the test", True

    def __init__(self) -> None:
        self.read = 0

    def of(self, work):
        self.read += 1
        return work(), float(self.read)


@pytest.mark.parametrize(
    ("rounds", "sittings", "shares"),
    [(10, 3, [4, 3, 3]), (2, 3, [1, 1, 0]), (1, 3, [1, 0, 0]), (5, 1, [5]), (7, 2, [4, 3])],
)
def test_rounds_are_shared_out_over_sittings(rounds: int, sittings: int, shares: list[int]) -> None:
    calls: list[str] = []

    def work(name: str) -> Decoded:
        calls.append(name)
        return Decoded(torch.zeros(1, 4), len(calls), [1.0])

    works = [lambda: work("one"), lambda: work("two")]
    turns = Turns(works, rounds, sittings, warmups=2, beside=lambda: calls.append("beside"))
    for share in shares:
        calls.clear()
        turns.sit(Silent())
        assert calls == ["one", "two", "beside"] * (2 + share if share else 0)
    assert [len(runs) for runs in turns.runs] == [rounds, rounds]
    assert turns.energies is None


def test_energy_is_that_of_rounds_which_count() -> None:
    def work() -> Decoded:
        return Decoded(torch.zeros(1, 4), 1.0, [1.0] * 3)

    turns = Turns([work, work], 3, 2, warmups=1, reads=Joules())
    turns.sit(Silent())
    turns.sit(Silent())
    # first sitting: a warm-up reads 1 and 2, two rounds 3 to 6; second: 7 and 8, then 9 and 10
    assert turns.energies == [Energy(3 + 5 + 9, 12, "the test", True), Energy(4 + 6 + 10, 12, "the test", True)]
