"""What a cut model costs, before it is cut: parameters, operations a token, bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from torch import nn

from ..models.numbers import HEAD_SIZE, HEADS, WIDTH, least_experts, number
from ..stream.sources import CheckpointSource
from .axes import Anatomy
from .coupling import Place


@dataclass(frozen=True)
class Shape:
    """The size of every axis that is cut, and how many blocks stay; ``which`` ones, where that is known."""

    sizes: Mapping[str, int]
    blocks: int
    which: tuple[int, ...] | None = None


class Costs:
    """Counts for shapes of one model. Where it is not said which blocks go, they are taken for average ones.

    ``seqlen`` is the length of context that attention's operations are counted for.
    """

    def __init__(self, source: CheckpointSource, anatomy: Anatomy, seqlen: int) -> None:
        self.anatomy = anatomy
        self.seqlen = seqlen
        self.count = len(source.blocks)
        model: Any = source.model
        self._shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        homes = [f"{source.prefix(index)}." for index in range(self.count)]
        self._inside = {name: next(k for k, home in enumerate(homes) if name.startswith(home))
                        for name in self._shapes if source.is_inside(name)}  # fmt: skip
        tables = (model.get_input_embeddings(), model.get_output_embeddings())
        weights = [table.weight for table in tables if table is not None]
        self._tables = {name for name, value in model.named_parameters() if any(value is weight for weight in weights)}
        self._bytes = {name: source.stored_dtype(name).itemsize for name in self._shapes}
        found = [site for one in source.found for site in one.sites]
        self._matrices = {site.parameter: site for site in found}
        head = tables[1].weight if tables[1] is not None else None
        self._head = next((name for name, value in model.named_parameters() if value is head), None)
        self._chosen = least_experts(source.config)
        heads, width = number(source.config, HEADS) or 0, number(source.config, WIDTH) or 0
        self._attended = heads * (number(source.config, HEAD_SIZE) or (width // heads if heads else 0))

    @cached_property
    def _places(self) -> dict[str, list[tuple[str, int, int, int]]]:
        """Of every tensor the axes that narrow it: name, dimension, positions each unit has, units a size of one."""
        found: dict[str, list[tuple[str, int, int, int]]] = defaultdict(list)
        seen: set[tuple[str, Place]] = set()
        for name, axis in self.anatomy.axes.items():
            for coupling in axis.couplings:
                for place, positions in coupling.members.items():
                    first = place._replace(entry=None)  # all entries of a stack lose as many
                    if (name, first) not in seen:
                        seen.add((name, first))
                        found[place.tensor].append((name, place.dim, positions.shape[1] * coupling.units, axis.size))
        return dict(found)

    def _size(self, name: str, shape: Shape) -> int:
        """Elements of a tensor."""
        sizes = list(self._shapes[name])
        for axis, dim, positions, whole in self._places.get(name, ()):
            if axis in shape.sizes:
                sizes[dim] -= positions - positions * shape.sizes[axis] // whole
        return prod(sizes)

    def _total(self, shape: Shape, weights: Mapping[str, float]) -> float:
        """A weighted sum over tensors, those of blocks as far as these stay."""
        return sum(weight * self._size(name, shape) * self._stays(name, shape) for name, weight in weights.items())

    def _stays(self, name: str, shape: Shape) -> float:
        if name not in self._inside:
            return 1.0
        return shape.blocks / self.count if shape.which is None else float(self._inside[name] in shape.which)

    def parameters(self, shape: Shape) -> float:
        """All parameters, tied ones once."""
        return self._total(shape, dict.fromkeys(self._shapes, 1.0))

    def without_embeddings(self, shape: Shape) -> float:
        """Parameters but for the tables of embeddings and head."""
        return self._total(shape, {name: 1.0 for name in self._shapes if name not in self._tables})

    def memory(self, shape: Shape) -> float:
        """Bytes of the parameters as they are stored."""
        return self._total(shape, {name: float(size) for name, size in self._bytes.items()})

    def operations(self, shape: Shape) -> float:
        """Operations (twice the multiplications) a token of a causal forward pass: matrices, head, and attention."""
        experts = self.anatomy.axes.get("experts")
        left = shape.sizes.get("experts", experts.size) if experts is not None else 1
        weights = {
            name: 2.0 * (self._chosen / left if site.layout.stacked else 1.0) for name, site in self._matrices.items()
        }
        if self._head is not None:
            weights[self._head] = 2.0
        return self._total(shape, weights) + 2 * self.seqlen * self._attending(shape) * shape.blocks

    def of(self, kind: str) -> Callable[[Shape], float]:
        """The count that a kind of target sets a limit to; for a latency operations stand in."""
        counts = {
            "params": self.parameters, "params_nonembedding": self.without_embeddings, "memory": self.memory,
            "flops": self.operations, "latency": self.operations,
        }  # fmt: skip
        return counts[kind]

    def _attending(self, shape: Shape) -> float:
        """Heads times their size, in a block: half of the context's tokens are multiplied with, for scores and values."""
        for name, axis in self.anatomy.axes.items():
            if HEADS in axis.scaled and name in shape.sizes:
                return self._attended * shape.sizes[name] / axis.size
        return self._attended


def parameters_of(model: nn.Module) -> int:
    """Parameters of a model, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
