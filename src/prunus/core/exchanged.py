"""Parameters that hold other values for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def exchanged(values: Sequence[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Within this context each parameter's data are the given values; after it what they were."""
    before = [parameter.data for parameter, _ in values]
    try:
        for parameter, value in values:
            parameter.data = value
        yield
    finally:
        for (parameter, _), data in zip(values, before, strict=True):
            parameter.data = data
