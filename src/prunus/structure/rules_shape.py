"""What operations that only move values do to labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .labels import Field, Labels, field_of, moved, reshaped, taken
from .meeting import aligned, apart, meet, met
from .tracer import Rule, Tracer, tensors_in


def same(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """The output's places are the first input's."""
    tracer.set(output, tracer.of(args[0]))
    if tracer.is_blank(args[0]):
        tracer.blank(output)


def blank(tracer: Tracer, _func: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """A tensor filled with one value."""
    tracer.blank(output)


def unlabelled(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Only shapes are looked at."""


def view(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """A reshape: places are followed through the dimensions that it splits and merges."""
    found, lost = reshaped(tracer.of(args[0]), args[0].shape, output.shape)
    tracer.fix(lost, "is merged with another dimension that can be cut")
    tracer.set(output, found)
    if tracer.is_blank(args[0]):
        tracer.blank(output)


def _places(tracer: Tracer, source: Tensor, output: Tensor, places: list[int | None]) -> None:
    tracer.set(output, moved(tracer.of(source), places))
    if tracer.is_blank(source):
        tracer.blank(output)


def permute(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Dimensions change places."""
    source, order = args
    order = [dim % source.dim() for dim in order]
    _places(tracer, source, output, [order.index(dim) for dim in range(source.dim())])


def transpose(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Two dimensions change places."""
    source = args[0]
    dims = list(range(source.dim()))
    one, other = (dim % source.dim() for dim in (args[1:] or (0, -1)))
    dims[one], dims[other] = dims[other], dims[one]
    _places(tracer, source, output, [dims.index(dim) for dim in range(source.dim())])


def t(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
    """The same for matrices; a vector stays."""
    if args[0].dim() < 2:
        return same(tracer, func, args, kwargs, output)
    return transpose(tracer, func, args, kwargs, output)


def unsqueeze(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """A dimension of one place more."""
    source, at = args[0], args[1] % output.dim()
    _places(tracer, source, output, [dim + (dim >= at) for dim in range(source.dim())])


def squeeze(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Dimensions of one place are dropped."""
    source = args[0]
    wanted = range(source.dim()) if len(args) < 2 else np.atleast_1d(args[1]) % source.dim()
    gone = [dim for dim in wanted if source.shape[dim] == 1]
    places = [None if dim in gone else dim - sum(k < dim for k in gone) for dim in range(source.dim())]
    _places(tracer, source, output, places)


def expand(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Dimensions of one place are repeated, and know no places."""
    source = args[0]
    ahead = output.dim() - source.dim()
    _places(tracer, source, output, [dim + ahead for dim in range(source.dim())])


def repeat(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Places are repeated."""
    source, times = args
    ahead = len(times) - source.dim()
    fields = []
    for field in tracer.of(source):
        dims = tuple(dim + ahead for dim in field.dims)
        fields.append(Field(dims, np.tile(field.atoms, [times[dim] for dim in dims])))
    tracer.set(output, fields)


def select(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """One place of a dimension; of a stack one of its matrices."""
    source, dim, index = args
    dim = dim % source.dim()
    if dim == 0 and tracer.entry_of(source, index % source.shape[0], output):
        return
    at = np.array([index % source.shape[dim]])
    narrowed = tuple(f for f in (field.without_constant() for field in taken(tracer.of(source), dim, at)) if f is not None)
    if any(field.dims == (dim,) for field in tracer.of(source)):
        tracer.fix(taken(tracer.of(source), dim, at), "is picked out alone")
    places = [None if k == dim else k - (k > dim) for k in range(source.dim())]
    tracer.set(output, moved(narrowed, places))


def slice_(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Some places of a dimension."""
    source = args[0]
    given: list[Any] = [*args[1:], *(0, None, None, 1)[len(args) - 1 :]]
    dim, start, stop, step = given
    index = np.arange(source.shape[dim % source.dim()])[slice(start, stop, step)]
    tracer.set(output, taken(tracer.of(source), dim % source.dim(), index))


def split(tracer: Tracer, _func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Consecutive places of a dimension, one part after another."""
    source = args[0]
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % source.dim()
    start = 0
    for part in output:
        index = np.arange(start, start + part.shape[dim])
        tracer.set(part, taken(tracer.of(source), dim, index))
        start += part.shape[dim]


def unbind(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Every place of a dimension for itself."""
    dim = args[1] if len(args) > 1 else 0
    for index, part in enumerate(output):
        select(tracer, func, (args[0], dim, index), kwargs, part)


def cat(tracer: Tracer, _func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
    """Places one tensor after another; along all other dimensions those of the tensors meet."""
    parts = [part for part in args[0] if part.numel()]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % output.dim()
    along = [field_of(tracer.of(part), dim) for part in parts]
    dims = {field.dims for field in along if field is not None}
    if len(dims) == 1 and all(field is not None for field in along):
        axis = next(iter(dims)).index(dim)
        joined = [Field(next(iter(dims)), np.concatenate([field.atoms for field in along if field is not None], axis))]
        return tracer.set(output, [*joined, *met(tracer, parts, output, joined[0].dims)])
    pieces, leading = [], []
    for part, field in zip(parts, along, strict=True):
        if field is not None and field.dims == (dim,):
            pieces.append(field.atoms)
            continue
        if field is not None:
            leading += apart(tracer, field, {dim})
        pieces.append(tracer.links.fresh(part.shape[dim]))
        if not tracer.is_blank(part):
            tracer.fix_atoms(pieces[-1], "stands beside values that cannot be cut")
    fields = met(tracer, parts, output, (dim,))
    for field in leading:
        meet(tracer, fields, field)
    if (dim,) in dims:
        fields.append(Field((dim,), np.concatenate(pieces)))
    return tracer.set(output, fields)


def stack(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
    """A new dimension; a field reaches over it, so that what is interleaved can be told apart later."""
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % output.dim()
    shifted = []
    for part in args[0]:
        places: list[int | None] = [k + (k >= dim) for k in range(part.dim())]
        shifted.append(list(moved(tracer.of(part), places)))
    same_dims = all([field.dims for field in found] == [field.dims for field in shifted[0]] for found in shifted)
    if same_dims and shifted[0]:  # a field over the new dimension too, so that what is interleaved can be told apart
        fields = []
        for group in zip(*shifted, strict=True):
            dims = tuple(sorted((*group[0].dims, dim)))
            fields.append(Field(dims, np.stack([field.atoms for field in group], dims.index(dim))))
        if len(fields) == 1:
            return tracer.set(output, fields)
    for found in shifted:
        tracer.fix(found, "is laid beside other values")
    return None


def copy_(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Values written in place: into an empty tensor, or into a slice of one."""
    target, source = args[0], args[1]
    base = target._base
    if base is None:
        return tracer.set(output, aligned(tracer.of(source), source, target))
    if base.dim() != target.dim():
        return tracer.fix((*tracer.of(base), *tracer.of(source)), "is written into a part of another tensor")
    sliced = {dim for dim in range(base.dim()) if base.shape[dim] != target.shape[dim]}
    fields = list(tracer.of(base))
    for field in aligned(tracer.of(source), source, target):
        for kept in apart(tracer, field, sliced):
            meet(tracer, fields, kept)
    return tracer.set(base, fields)


def index(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Places picked by other tensors along leading dimensions; along the rest the source's go on."""
    source, picked = args[0], args[1]
    along = [dim for dim, places in enumerate(picked) if places is not None]
    inner = field_of(tracer.of(source), along[0]) if len(along) == 1 and picked[along[0]].dim() == 1 else None
    if inner is not None:
        found = taken(tracer.of(source), along[0], picked[along[0]].cpu().numpy())
        if inner.dims[0] == along[0]:
            tracer.fix([field for field in found if along[0] in field.dims], "is picked by index")
        return tracer.set(output, found)
    ahead = output.dim() - (source.dim() - len(along))
    simple = along == list(range(len(along)))
    labels = tracer.of(source)
    for field in labels:
        if not simple or set(field.dims) & set(along):
            tracer.fix([field], "is picked by index")
    if not simple:
        return None
    kept = tuple(field for field in labels if not set(field.dims) & set(along))
    return tracer.set(output, moved(kept, [None if k in along else k - len(along) + ahead for k in range(source.dim())]))


def index_add(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Rows added to those of another tensor."""
    target, dim, _, source = args[:4]
    kept: Labels = tuple(field for field in tracer.of(source) if dim not in field.dims)
    into = tracer.of(target)
    for field in into:
        for other in kept:
            if field.dims == other.dims:
                tracer.links.tie(field.atoms, other.atoms)
    tracer.set(output, into or kept)


def pad(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Padding along dimensions without labels leaves the others as they were."""
    changed = {dim for dim in range(output.dim()) if output.shape[dim] != args[0].shape[dim]}
    tracer.fix([field for field in tracer.of(args[0]) if changed & set(field.dims)], "is padded")
    tracer.set(output, [field for field in tracer.of(args[0]) if not changed & set(field.dims)])


def gather_rows(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """An embedding's rows: the entries of the vocabulary stay."""
    (weight, *_) = args
    for field in tracer.of(weight):
        if field.dims == (0,):
            tracer.fix_atoms(field.atoms, "entries of an embedding")
        else:
            tracer.set(output, [Field((output.dim() - 1,), field.atoms)])


def as_complex(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Pairs along the last dimension become one number, or one number a pair."""
    source = args[0]
    last = min(source.dim(), output.dim()) - 1
    kept = []
    for field in tracer.of(source):
        kept += apart(tracer, field, set(range(last, source.dim())), "becomes a part of complex numbers")
    tracer.set(output, kept)


def along_dim(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Sorting, running sums and the like along a dimension: its places have to stay, others' go on."""
    source = args[0]
    dim = next((item for item in (kwargs.get("dim"), *args[1:]) if isinstance(item, int)), -1) % max(1, source.dim())
    kept = [field for field in tracer.of(source) if dim not in field.dims]
    tracer.fix([field for field in tracer.of(source) if dim in field.dims], f"goes into {func._schema.name[6:]}")
    for tensor in tensors_in(output):
        if tensor.dim() == source.dim():
            tracer.set(tensor, kept)


def turned(tracer: Tracer, func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Places shifted or turned round along some dimensions (all, if none are named): those have to stay, others' go on."""
    source, named = args[0], args[-1] if len(args) > (2 if "roll" in func._schema.name else 1) else ()
    dims = {dim % source.dim() for dim in named} or set(range(source.dim()))
    tracer.fix([field for field in tracer.of(source) if dims & set(field.dims)], f"goes into {func._schema.name[6:]}")
    tracer.set(output, [field for field in tracer.of(source) if not dims & set(field.dims)])


SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "dropout", "native_dropout",
                     "tril", "triu"), same),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten"), view),
    **dict.fromkeys(("zeros", "zeros_like", "ones", "ones_like", "empty", "empty_like", "full", "full_like", "new_zeros",
                     "new_ones", "new_empty", "new_full", "scalar_tensor"), blank),
    **dict.fromkeys(("arange", "_local_scalar_dense", "_assert_async", "sym_size"), unlabelled),
    "permute": permute, "transpose": transpose, "t": t, "numpy_T": t, "unsqueeze": unsqueeze, "squeeze": squeeze,
    "expand": expand, "repeat": repeat, "select": select, "slice": slice_, "split": split, "split_with_sizes": split,
    "chunk": split, "unbind": unbind, "cat": cat, "stack": stack, "copy_": copy_, "index": index,
    "index_add_": index_add, "index_add": index_add, "constant_pad_nd": pad, "reflection_pad2d": pad,
    "replication_pad2d": pad, "embedding": gather_rows,
    "view_as_complex": as_complex, "view_as_real": as_complex,
    **dict.fromkeys(("cumsum", "cumprod", "sort", "topk", "_softmax", "_log_softmax", "_safe_softmax"), along_dim),
    "flip": turned, "roll": turned,
}  # fmt: skip
