"""What operations that compute do to labels: elementwise, sums, products, convolutions, norms, attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .labels import Field, Labels, field_of, moved
from .meeting import apart, constant, meet, met
from .tracer import Rule, Tracer, tensors_in


def pointwise(tracer: Tracer, _func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Places that meet go together; inputs broadcast."""
    (result,) = tensors_in(output)
    inputs = list(tensors_in((args, kwargs)))
    tracer.set(result, met(tracer, inputs, result))
    if inputs and all(tracer.is_blank(tensor) or tensor.dim() == 0 for tensor in inputs):
        tracer.blank(result)


def reduce(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Sums and means: reduced places are gone. A mean over all that can be cut is noted, it changes with their number."""
    source = args[0]
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    given = list(range(source.dim())) if given is None or given == [] else np.atleast_1d(given).tolist()
    dims = {dim % source.dim() for dim in given}
    averages = not func._schema.name.removeprefix("aten::").startswith(("sum", "linalg_vector_norm", "norm"))
    kept = []
    for field in tracer.of(source):
        inside = dims & set(field.dims)
        if not inside:
            kept.append(field)
        elif inside < set(field.dims):
            kept += apart(tracer, field, dims, "is summed up within others")
        elif averages:
            tracer.links.average(tracer.module, field.atoms)
    places: list[int | None] = []
    for dim in range(source.dim()):
        keeps = next(tensors_in(output)).dim() == source.dim()
        places.append(dim if keeps else None if dim in dims else dim - sum(k < dim for k in dims))
    for tensor in tensors_in(output):
        tracer.set(tensor, moved(tuple(kept), places))


def _contract(tracer: Tracer, one: tuple[Tensor, int], other: tuple[Tensor, int]) -> None:
    """Places that are summed over go together."""
    (left, i), (right, j) = one, other
    fields = []
    for tensor, dim in ((left, i), (right, j)):
        field = field_of(tracer.of(tensor), dim)
        if field is not None and len(field.dims) > 1:  # what leads, such as heads, can still be cut
            field = None
        fields.append(field)
    first, second = fields
    if first is not None and second is not None:
        tracer.links.tie(first.atoms, second.atoms)
    elif first is not None and not tracer.is_blank(right):
        tracer.fix([first], "is summed with values that cannot be cut")
    elif second is not None and not tracer.is_blank(left):
        tracer.fix([second], "is summed with values that cannot be cut")


def _outside(tracer: Tracer, tensor: Tensor, dim: int, places: Sequence[int | None]) -> Labels:
    """Labels of a factor's other dimensions, as the product has them."""
    labels = [kept for field in tracer.of(tensor) if field.dims != (dim,) for kept in apart(tracer, field, {dim})]
    return moved(tuple(labels), places)


def mm(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """A product of matrices."""
    left, right = args[:2]
    _contract(tracer, (left, 1), (right, 0))
    tracer.set(output, (*_outside(tracer, left, 1, [0, None]), *_outside(tracer, right, 0, [None, 1])))


def addmm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
    """A product and a bias."""
    mm(tracer, func, args[1:], {}, output)
    _biased(tracer, args[0], output)


def _biased(tracer: Tracer, bias: Tensor | None, output: Tensor, dim: int = -1) -> None:
    """A bias ``[outputs]``, or a tensor that broadcasts, is added along a dimension of the output."""
    if bias is None:
        return
    field = field_of(tracer.of(bias), bias.dim() - 1)
    own = field_of(tracer.of(output), dim % output.dim())
    if own is None or tracer.is_blank(bias):
        return
    if field is None or own.dims != (dim % output.dim(),):
        tracer.fix([own], "meets values that cannot be cut with it")
    else:
        tracer.links.tie(field.atoms, own.atoms)


def bmm(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """A product of a batch of matrices, whose batches meet."""
    left, right = args[:2]
    _contract(tracer, (left, 2), (right, 1))
    fields: list[Field] = []
    for field in (*_outside(tracer, left, 2, [0, 1, None]), *_outside(tracer, right, 1, [0, None, 2])):
        meet(tracer, fields, field)
    taken = {0} & (constant(tracer, left, left) | constant(tracer, right, right))
    tracer.set(output, [kept for field in fields for kept in apart(tracer, field, taken)])


def baddbmm(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
    """The same, and a tensor that is added."""
    bmm(tracer, func, args[1:], {}, output)
    tracer.set(output, met(tracer, [args[0], output], output))


def linear(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """A product with a weight ``[outputs inputs]`` and a bias."""
    source, weight = args[:2]
    last = source.dim() - 1
    _contract(tracer, (source, last), (weight, 1))
    kept = _outside(tracer, source, last, [*range(last), None])
    tracer.set(output, (*kept, *_outside(tracer, weight, 1, [last, None])))
    _biased(tracer, args[2] if len(args) > 2 else None, output)


def convolution(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Tensor) -> None:
    """Channels along dimension 1. Of grouped ones the same places of every group go together; depthwise, in and out."""
    source, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    channels = _channels(tracer, source)
    into, out = (0, 1) if transposed else (1, 0)
    of_weight = {dim: field_of(tracer.of(weight), dim) for dim in (0, 1)}
    for field in tracer.of(weight):
        if min(field.dims) > 1:
            tracer.fix([field], "places of a kernel")
    outputs = of_weight[out].atoms if of_weight[out] is not None else None  # type: ignore[union-attr]
    if groups == 1:
        inputs = of_weight[into]
        if channels is not None and inputs is not None:
            tracer.links.tie(channels.atoms, inputs.atoms)
        else:
            tracer.fix([field for field in (channels, inputs) if field is not None], "meets a convolution of fixed inputs")
    elif transposed or outputs is None or channels is None:
        tracer.fix([field for field in (channels, *of_weight.values()) if field is not None], "a grouped convolution")
    else:
        grouped, produced = channels.atoms.reshape(groups, -1), outputs.reshape(groups, -1)
        if weight.shape[1] == 1:
            tracer.links.tie(grouped, produced)
        else:
            tracer.links.tie(grouped[:1], grouped)
            tracer.links.tie(produced[:1], produced)
            if of_weight[1] is not None:
                tracer.links.tie(grouped[0], of_weight[1].atoms)
    if outputs is not None:
        tracer.set(output, [Field((1,), outputs)])
        _biased(tracer, bias, output, 1)


def _channels(tracer: Tracer, source: Tensor) -> Field | None:
    """The field of dimension 1 alone."""
    field = field_of(tracer.of(source), 1)
    return tracer.links.collapsed(field, (1,)) if field is not None else None


def pool(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
    """Pooling and resizing: places of channels go on, others are gone."""
    source = args[0]
    spatial = {dim for dim in range(source.dim()) if dim >= source.dim() - 2}
    for tensor in tensors_in(output):
        tracer.set(tensor, [kept for field in tracer.of(source) for kept in apart(tracer, field, spatial)])


def batch_norm(tracer: Tracer, func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
    """Gain, bias and statistics go with the channels."""
    source, result = args[0], next(tensors_in(output))
    channels = _channels(tracer, source)
    if channels is None:
        tracer.fix([field for tensor in tensors_in(args[1:5]) for field in tracer.of(tensor)], "norm of fixed channels")
        return
    for tensor in tensors_in(args[1:5]):
        field = field_of(tracer.of(tensor), 0)
        if field is not None:
            tracer.links.tie(channels.atoms, field.atoms)
    tracer.set(result, [channels])


def layer_norm(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
    """Also RMS norm: what is averaged over is noted, gain and bias go with it."""
    source, shape, result = args[0], args[1], next(tensors_in(output))
    over = set(range(source.dim() - len(shape), source.dim()))
    kept = []
    for field in tracer.of(source):
        if over & set(field.dims) and not set(field.dims) <= over:
            kept += apart(tracer, field, over)
            continue
        kept.append(field)
        if over & set(field.dims):
            tracer.links.average(tracer.module, field.atoms)
    ahead = source.dim() - len(shape)
    for tensor in tensors_in(args[2:4]):
        for field in moved(tracer.of(tensor), [dim + ahead for dim in range(tensor.dim())]):
            partner = next((one for one in kept if one.dims == field.dims), None)
            if partner is not None:
                tracer.links.tie(partner.atoms, field.atoms)
            else:
                tracer.fix([field], "norm of values that cannot be cut")
    tracer.set(result, kept)


def group_norm(tracer: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
    """Statistics of a group of channels would change with their number."""
    tracer.fix([field for tensor in tensors_in(args[:3]) for field in tracer.of(tensor)], "a group norm")


def attention(tracer: Tracer, _func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Scaled dot-product attention on ``[batch heads tokens head_dim]``: heads go together, head sizes stay."""
    result = next(tensors_in(output))
    heads = []
    for tensor in args[:3]:
        field = field_of(tracer.of(tensor), 1)
        for other in tracer.of(tensor):
            if other is not field:
                tracer.fix([other], "the same for all heads")
        heads.append(tracer.links.collapsed(field, (1,)) if field is not None else None)
    query = heads[0]
    masks = [one for one in tensors_in((args[3:], kwargs)) if one.dim() == 4 and one.shape[1] > 1]
    if any(tensor.stride(1) != 0 for tensor in masks):  # a bias of each head's own
        return tracer.fix([field for field in heads if field is not None], "meets a mask that differs from head to head")
    if query is None:
        return tracer.fix([field for field in heads if field is not None], "meets heads that cannot be cut")
    for tensor, field in zip(args[1:3], heads[1:], strict=True):
        if field is not None:
            tracer.links.tie(query.atoms.reshape(len(field.atoms), -1), field.atoms[:, None])
        elif tensor.shape[1] > 1 and tensor.stride(1) != 0:  # not one key/value head for all
            tracer.fix([query], "meets heads that cannot be cut")
    return tracer.set(result, [query])


COMPUTE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "linalg_vector_norm", "norm",
                     "logsumexp", "all", "any", "prod"), reduce),
    **dict.fromkeys(("hardswish", "hardswish_", "_prelu_kernel"), pointwise),
    "mm": mm, "addmm": addmm, "bmm": bmm, "baddbmm": baddbmm, "linear": linear,
    "convolution": convolution, "_convolution": convolution, "conv2d": convolution,
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
                     "upsample_nearest2d", "upsample_bilinear2d", "max_pool2d", "mkldnn_max_pool2d"), pool),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
                     "cudnn_batch_norm", "_batch_norm_impl_index", "batch_norm"), batch_norm),
    "native_layer_norm": layer_norm, "_fused_rms_norm": layer_norm, "native_group_norm": group_norm,
    **dict.fromkeys(("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
                     "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
                     "_scaled_dot_product_attention_math"), attention),
}  # fmt: skip
