"""The Sites of any torch module: linear layers, convolutions, attention's and recurrent layers' matrices."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ..core.errors import UnsupportedModelError
from ..core.site import Layout, Part, Site
from .sites import Found, is_transposed_linear


class _Place(NamedTuple):
    """A parameter in the module that holds it, and how that reads it; None where prunus knows no linear map of it."""

    path: str
    module: nn.Module
    key: str
    layout: Layout | None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what compiles it or spreads it over devices."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def module_sites(model: nn.Module) -> Found:
    """Every Site of a module, in the order of its modules; a parameter that several layers share is one Site.

    Embeddings are pruned only when named, what a parametrization or torch.nn.utils.prune computes is ``unsupported``, all
    other tensors with two dimensions or more are ``untouched``.

    Raises:
        UnsupportedModelError: if parameters are not initialised yet, or on the ``meta`` device.
    """
    found = Found()
    places: dict[int, list[_Place]] = defaultdict(list)
    parameters: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            _check_there(f"{path}.{key}".lstrip("."), parameter)
            if sum(extent > 1 for extent in parameter.shape) < 2:
                continue
            if parameter.is_complex():
                found.untouched[f"{path}.{key}".lstrip(".")] = "its numbers are complex"
            elif parameter.is_floating_point():
                places[id(parameter)].append(_Place(path, module, key, layout_of(module, key)))
                parameters[id(parameter)] = parameter
    for key_of, owners in places.items():
        _take(found, owners, parameters[key_of])
    return found


def _check_there(name: str, parameter: Tensor) -> None:
    if is_lazy(parameter):
        raise UnsupportedModelError(f"{name}: it has no shape yet. Run the model once on an example, then prune it.")
    if parameter.device.type == "meta":
        raise UnsupportedModelError(f"{name}: it is on the meta device, without values. Load the model's weights first.")


def _take(found: Found, owners: list[_Place], parameter: nn.Parameter) -> None:
    """Put one parameter where it belongs."""
    first = owners[0]
    name = f"{first.path}.{first.key}".lstrip(".")
    reason = _computed(first.module, first.key)
    if reason is not None:
        found.unsupported[name] = reason
        return
    layouts = {owner.layout for owner in owners}
    if len(layouts) > 1:
        found.untouched[name] = f"{owners[1].path} has the same tensor and reads it otherwise: pruning it would prune both"
        return
    (layout,) = layouts
    if layout is None:
        found.untouched[name] = f"no matrix of a layer that prunus knows, but of a {type(first.module).__name__}"
        return
    shape = tuple(layout.to_matrix(parameter.detach()).shape)
    label = first.path if first.key == "weight" and first.path else name
    site = Site(label, name, (shape[0], shape[1], shape[2]), parameter.dtype, role=label, layout=layout)
    if isinstance(first.module, (nn.Embedding, nn.EmbeddingBag)):
        found.on_request[label] = (site, "embedding")
    else:
        found.sites.append(site)


def layout_of(module: nn.Module, key: str) -> Layout | None:
    """How a module reads the matrix that it has under ``key``; None if it is none that prunus knows."""
    if isinstance(module, _ConvNd):
        return _convolution(module) if key == "weight" else None
    if isinstance(module, (nn.Linear, nn.Embedding, nn.EmbeddingBag)):
        return Layout() if key == "weight" else None
    if is_transposed_linear(module):
        return Layout(transposed=True) if key == "weight" else None
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module, key)
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and key.startswith("weight_"):
        return Layout()
    return None


def _convolution(module: _ConvNd) -> Layout:
    kernel = tuple(module.kernel_size)
    return Layout(transposed=isinstance(module, _ConvTransposeNd), kernel=kernel, groups=module.groups)


def _attention(module: nn.MultiheadAttention, key: str) -> Layout | None:
    if key == "in_proj_weight":
        width = module.embed_dim
        return Layout(parts=tuple(Part(name, k * width, width, 3 * width) for k, name in enumerate("qkv")))
    return Layout() if key in ("q_proj_weight", "k_proj_weight", "v_proj_weight") else None


def _computed(module: nn.Module, key: str) -> str | None:
    """Why a parameter is not what its layer multiplies by; None if it is."""
    if isinstance(module, parametrize.ParametrizationList):
        return "its layer computes its weight from it (torch.nn.utils.parametrize): remove the parametrization first"
    if key.endswith("_orig") and hasattr(module, f"{key.removesuffix('_orig')}_mask"):
        return (
            "it is pruned by torch.nn.utils.prune already: take its masks over by prunus.Masks.from_torch(model), or make "
            "them permanent by torch.nn.utils.prune.remove"
        )
    if key == "weight_v" and "weight" not in module._parameters:
        return "its layer computes its weight from it (weight norm): remove that first"
    return None
