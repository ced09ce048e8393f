"""Where labelled values meet others: what goes together, and what has to stay."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from .labels import Field, Labels, moved
from .tracer import Tracer

_MET = "meets values that cannot be cut with it"


def meet(tracer: Tracer, fields: list[Field], new: Field) -> None:
    """Add a field to those of a result, no two of which are over the same dimension.

    Where one knows places along more dimensions than the other, a projection's ``[heads head_dim]`` say, it keeps to the
    leading ones: against one a head those are the other's, against a norm's ``[head_dim]`` the other has to stay.
    """
    for place, old in enumerate(fields):
        common = set(old.dims) & set(new.dims)
        if not common:
            continue
        if old.dims[: len(common)] == new.dims[: len(common)] and set(old.dims[: len(common)]) == common:
            fields[place], other = (tracer.links.collapsed(field, old.dims[: len(common)]) for field in (old, new))
            tracer.links.tie(fields[place].atoms, other.atoms)
            return
        fields[place : place + 1] = apart(tracer, old, common)
        for field in apart(tracer, new, common):
            meet(tracer, fields, field)
        return
    fields.append(new)


def apart(tracer: Tracer, field: Field, taken: set[int], reason: str = _MET) -> list[Field]:
    """The field over those leading dimensions that are not ``taken`` by values that cannot be cut with it."""
    if not taken & set(field.dims):
        return [field]
    left = field.dims[: min(k for k, dim in enumerate(field.dims) if dim in taken)]
    if not left:
        tracer.fix([field], reason)
        return []
    return [tracer.links.collapsed(field, left)]


def met(tracer: Tracer, tensors: Iterable[Tensor], result: Tensor, but: tuple[int, ...] = ()) -> list[Field]:
    """The fields of a result in which all of these tensors meet, broadcast, along all its dimensions ``but`` some."""
    tensors = list(tensors)
    fields: list[Field] = []
    for tensor in tensors:
        for field in aligned(tracer.of(tensor), tensor, result):
            if not set(field.dims) & set(but):
                meet(tracer, fields, field)
    for tensor in tensors:
        taken = constant(tracer, tensor, result) - set(but)
        fields = [kept for field in fields for kept in apart(tracer, field, taken)]
    return fields


def aligned(labels: Labels, tensor: Tensor, result: Tensor) -> Labels:
    """Labels of a tensor along the dimensions of a result that it broadcasts to."""
    ahead = result.dim() - tensor.dim()
    return moved(labels, [dim + ahead for dim in range(tensor.dim())])


def constant(tracer: Tracer, tensor: Tensor, result: Tensor) -> set[int]:
    """Dimensions of a result along which a tensor brings a value for each place, and no labels."""
    if tracer.is_blank(tensor):
        return set()
    ahead = result.dim() - tensor.dim()
    own = {dim + ahead for dim in range(tensor.dim()) if tensor.shape[dim] > 1 and tensor.stride(dim) != 0}
    return own - {dim for field in aligned(tracer.of(tensor), tensor, result) for dim in field.dims}
