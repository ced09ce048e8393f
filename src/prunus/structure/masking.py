"""The masked model: dense in its shapes, zeros where a cut takes something away. What a cut model must be equal to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..core.exchanged import exchanged
from .averages import averaged_modules, masked_norms
from .cut import Cut


@contextmanager
def masked(model: nn.Module, cut: Cut) -> Iterator[None]:
    """Within this context the model computes as if the units that go were zero; its weights come back afterwards."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    changed = {name: parameters[name] for name in cut.tensors if name in parameters}
    seen: set[int] = set()
    pairs = []
    for name, parameter in changed.items():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            pairs.append((parameter, cut.masked(name, parameter.data)))
    with masked_norms(model, averaged_modules(cut)), exchanged(pairs):
        yield
