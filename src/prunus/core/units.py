"""Units: what is cut whole, neurons or heads, and all that is known of them where they are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .stats import Stats


@dataclass(frozen=True)
class Reader:
    """A matrix that reads the units: ``weight [rows cols]`` in fp32, of which unit u has the ``columns[u]`` of
    ``[units each]``. ``stats`` are those of its inputs, of one batch entry; ``own`` the weight's own moments, such as
    ``grad [rows cols]``.
    """

    weight: Tensor
    columns: Tensor
    stats: Stats
    name: str = ""
    own: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def by_unit(self) -> Tensor:
        """The weight as ``[units rows each]``."""
        return self.weight[:, self.columns].transpose(0, 1)

    def summed(self, values: Tensor) -> Tensor:
        """Sums ``[units]`` of values of columns, ``[cols]``."""
        return values[self.columns].sum(1)


@dataclass(frozen=True)
class Writer:
    """A matrix that writes the units: what each has of it, ``weight [units values]``, and the same of its moments."""

    weight: Tensor
    own: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Units:
    """Units that are cut together from everything that reads and writes them. Of each of ``groups`` of consecutive ones the
    same number stays.
    """

    count: int
    readers: Sequence[Reader]
    writers: Sequence[Writer] = ()
    groups: int = 1

    def highest(self, scores: Tensor, kept: int) -> Tensor:
        """The ``kept`` units with the highest ``scores [units]``, as many of every group, ascending; ties keep the first.

        >>> Units(4, (), groups=2).highest(torch.tensor([1.0, 2.0, 9.0, 8.0]), 2)
        tensor([1, 2])
        """
        each, size = kept // self.groups, self.count // self.groups
        order = scores.view(self.groups, size).argsort(dim=1, descending=True, stable=True)[:, :each]
        return (order + torch.arange(self.groups, device=order.device).unsqueeze(1) * size).flatten().sort().values

    def last(self, order: Tensor, kept: int) -> Tensor:
        """The ``kept`` units that go last in an ``order [units]``, as many of every group, ascending."""
        place = torch.empty(self.count)
        place[order.cpu()] = torch.arange(self.count, dtype=torch.float32)
        return self.highest(place, kept)
