"""What a cut model costs, before it is cut: parameters, operations a token, bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.numbers import HEADS, attended, least_experts
from ..stream.sources import CheckpointSource
from .axes import Anatomy
from .coupling import Place


@dataclass(frozen=True)
class Shape:
    """The size of every axis that is cut, and how many blocks stay; ``which`` ones, where that is known."""

    sizes: Mapping[str, int]
    blocks: int
    which: tuple[int, ...] | None = None


class _Kind(NamedTuple):
    """A tensor's shape and, for each dimension that axes narrow, how many positions each set of axes covers."""

    shape: tuple[int, ...]
    covered: tuple[tuple[int, frozenset[tuple[frozenset[str], int]]], ...]


_Weights = dict[_Kind, dict[int | None, float]]
"""Sums of weights of tensors by their kind and block (None: outside of all)."""


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
        self._attended = attended(source.config)

    @cached_property
    def _kinds(self) -> dict[str, _Kind]:
        """Of every tensor its shape, and of its dimensions how many positions each set of axes narrows together: heads in
        their groups. Those of other blocks are alike."""
        names = list(self.anatomy.axes)
        found: dict[Place, Tensor] = {}  # of every position, a bit for each axis
        for bit, name in enumerate(names):
            for coupling in self.anatomy.axes[name].couplings:
                for place, positions in coupling.members.items():
                    if place.tensor not in self._shapes:  # a buffer
                        continue
                    first = place._replace(entry=None)  # all entries of a stack lose as many
                    size = self._shapes[place.tensor][place.dim]
                    found.setdefault(first, torch.zeros(size, dtype=torch.long))[positions.flatten()] |= 1 << bit
        covered: dict[str, list[tuple[int, frozenset[tuple[frozenset[str], int]]]]] = defaultdict(list)
        for place, along in found.items():
            sets, counts = along.unique(return_counts=True)
            counted = frozenset(
                (frozenset(name for bit, name in enumerate(names) if bits >> bit & 1), count)
                for bits, count in zip(sets.tolist(), counts.tolist(), strict=True)
            )
            covered[place.tensor].append((place.dim, counted))
        return {
            name: _Kind(shape, tuple(sorted(covered[name], key=lambda one: one[0]))) for name, shape in self._shapes.items()
        }

    def _share(self, axes: Iterable[str], shape: Shape) -> Fraction:
        """What stays of positions that all of these axes narrow."""
        kept = (Fraction(shape.sizes[name], self.anatomy.axes[name].size) for name in axes if name in shape.sizes)
        return prod(kept, start=Fraction(1))

    def _sizes(self, kind: _Kind, shape: Shape) -> list[int]:
        """The shape of a tensor once it is cut."""
        sizes = list(kind.shape)
        for dim, covered in kind.covered:
            sizes[dim] = int(sum(count * self._share(axes, shape) for axes, count in covered))
        return sizes

    def _summed(self, weights: Mapping[str, float]) -> _Weights:
        """Weights of tensors, by their kind and block."""
        found: _Weights = defaultdict(lambda: defaultdict(float))
        for name, weight in weights.items():
            found[self._kinds[name]][self._inside.get(name)] += weight
        return found

    def _total(self, shape: Shape, weights: _Weights) -> float:
        """A weighted sum over tensors, those of blocks as far as these stay."""
        total = 0.0
        for kind, by_block in weights.items():
            outside = by_block.get(None, 0.0)
            if shape.which is None:
                inside = (sum(by_block.values()) - outside) * shape.blocks / self.count
            else:
                inside = sum(by_block.get(index, 0.0) for index in shape.which)
            total += prod(self._sizes(kind, shape)) * (outside + inside)
        return total

    @cached_property
    def _all(self) -> _Weights:
        return self._summed(dict.fromkeys(self._shapes, 1.0))

    @cached_property
    def _but_tables(self) -> _Weights:
        return self._summed({name: 1.0 for name in self._shapes if name not in self._tables})

    @cached_property
    def _stored(self) -> _Weights:
        return self._summed({name: float(size) for name, size in self._bytes.items()})

    @cached_property
    def _multiplied(self) -> tuple[_Weights, _Weights]:
        """Operations for each weight of a matrix: that all tokens go through, and of stacked experts."""
        stacked = {name: 2.0 for name, site in self._matrices.items() if site.layout.stacked}
        plain = {name: 2.0 for name in self._matrices if name not in stacked}
        if self._head is not None:
            plain[self._head] = 2.0
        return self._summed(plain), self._summed(stacked)

    def parameters(self, shape: Shape) -> float:
        """All parameters, tied ones once."""
        return self._total(shape, self._all)

    def without_embeddings(self, shape: Shape) -> float:
        """Parameters but for the tables of embeddings and head."""
        return self._total(shape, self._but_tables)

    def memory(self, shape: Shape) -> float:
        """Bytes of the parameters as they are stored."""
        return self._total(shape, self._stored)

    def operations(self, shape: Shape) -> float:
        """Operations (twice the multiplications) a token of a causal forward pass: matrices, head, and attention."""
        plain, stacked = self._multiplied
        used = self._total(shape, plain)
        for kind, by_block in stacked.items():  # of a stack the experts that are chosen
            left = self._sizes(kind, shape)[0]
            used += self._total(shape, {kind: by_block}) * min(self._chosen, left) / left
        return used + 2 * self.seqlen * self._attending(shape) * shape.blocks

    def of(self, kind: str) -> Callable[[Shape], float]:
        """The count that a kind of target sets a limit to; for a latency operations stand in."""
        counts = {
            "params": self.parameters, "params_nonembedding": self.without_embeddings, "memory": self.memory,
            "flops": self.operations, "latency": self.operations,
        }  # fmt: skip
        return counts[kind]

    def _attending(self, shape: Shape) -> float:
        """Heads times their size, in a block: half of the context's tokens are multiplied with, for scores and values."""
        along = [name for name, axis in self.anatomy.axes.items() if HEADS in axis.scaled]
        return self._attended * float(self._share(along, shape))


def parameters_of(model: nn.Module) -> int:
    """Parameters of a model, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
