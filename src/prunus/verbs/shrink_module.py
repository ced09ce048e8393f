"""shrink_module: channels, heads and neurons cut out of any torch module in memory, and such a module built anew."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoint.disk import system_errors
from ..core import registry
from ..core.errors import CheckpointError, RecipeError, UnsupportedModelError
from ..core.registry import make
from ..core.stats import Needs
from ..models.feed import runs_of
from ..models.modes import evaluating, free_norms, recalibrate
from ..stream.module_profile import gradient_sums
from ..structure.coupling import Coupling
from ..structure.cut import Cut, Kept
from ..structure.module_cut import REPAIR_NEEDS, UNSEEN, Known, choose, repair
from ..structure.module_stats import observe_layers, reader_layers
from ..structure.sizes import liked_step
from ..structure.surgery import Shapes, cut_module
from ..structure.trace import called, trace

SHAPES, WEIGHTS = "shapes.json", "model.safetensors"
Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class ModuleCut:
    """What was cut of a module: its ``shapes`` now, the ``units`` that stay of every coupling by where it is first met,
    what was ``left`` whole with the reasons, parameters before and after, and relative ``errors`` of repaired layers."""

    shapes: Shapes
    units: Mapping[str, list[int]]
    left: Mapping[str, str]
    parameters: tuple[int, int]
    errors: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "shapes": self.shapes.to_json(), "units": dict(self.units), "left": dict(self.left),
            "parameters": list(self.parameters), "errors": dict(self.errors),
        }  # fmt: skip

    def save(self, model: nn.Module, folder: str | Path) -> None:
        """The cut module's weights (``model.safetensors``) and its shapes (``shapes.json``), for :func:`load_module`."""
        from safetensors.torch import save_model

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        with system_errors():
            save_model(model, str(place / WEIGHTS))
        (place / SHAPES).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")


def shrink_module(model: nn.Module, example: Any, share: float | Mapping[str, float] = 0.5, *, importance: str = "weight",
                  data: Iterable[Any] | None = None, loss: Loss | None = None, solver: str = "lstsq", multiple: int = 8,
                  exclude: Sequence[str] = (), optimizer: torch.optim.Optimizer | None = None) -> ModuleCut:  # fmt: skip
    """Cut a module in place to about a ``share`` of its channels, heads and neurons.

    Args:
        model: any torch module that one pass of can be followed.
        example: what it is called with: a tensor, a tuple of arguments, or a dictionary of keywords.
        share: of the units of each coupling that stay; or by globs over the names of parameters, the last that fits counts,
            what none fits stays whole.
        importance: ``weight`` needs no data, ``activation``, ``fluctuation``, ``obs`` look at ``data``, ``taylor`` at
            gradients of ``loss(model, batch)`` over them; ``random``.
        data: batches to call the module with. With them what reads the units is fitted anew, biases too (``solver``;
            with ``keep:bias=true`` only biases make up for the mean of what goes, as in FLAP), and batch norms take their
            statistics again.
        multiple: counts of units are rounded to multiples of this, or of less where there are few.
        exclude: globs over names of parameters that stay as they are.
        optimizer: its state is cut with the parameters.

    The module computes what the whole one does with the same units masked, before it is repaired: that is checked on the
    example, and on failure everything is as it was.

    Raises:
        UnsupportedModelError: if it cannot be traced, nothing can be cut, or it does not compute what it should when cut.
        RecipeError: if settings do not fit together.
    """
    method = _method(importance, data, loss)
    norms = free_norms(model)
    batches = list(data) if data is not None else []
    run = partial(called, model, example)
    with evaluating(model):
        traced = trace(model, run)
        left = {str(place): reason for place, reason in traced.fixed.items()}
        chosen = _wanted(traced.couplings, share, exclude, multiple, left)
        if not chosen:
            raise UnsupportedModelError(f"{type(model).__name__}: nothing can be cut; {'; '.join(list(left.values())[:3])}")
        read = {place.tensor for one, _ in chosen for place in one.members if place.dim == 1}
        layers = {name: layer for name, layer in reader_layers(model).items() if name in read}
        solving = make(registry.solver, solver)
        needs = method.needs.of_inputs | (REPAIR_NEEDS if batches else Needs.NOTHING)
        stats = observe_layers(model, layers, needs, runs_of(model, batches, None)) if needs else None
        known = Known(model, layers, stats, _gradients(model, batches, loss) if Needs.GRAD in method.needs else {})
        kept = []
        couplings, counts = [one for one, _ in chosen], [count for _, count in chosen]
        for coupling, units in zip(couplings, choose(known, couplings, counts, method), strict=True):
            if units is None:
                left |= {str(place): UNSEEN for place in coupling.members}
            else:
                kept.append(Kept(coupling, units))
        if not kept:
            raise UnsupportedModelError(f"{type(model).__name__}: nothing can be cut by '{importance}'; {UNSEEN}")
        return _carry_out(model, run, known, kept, left, (solving, optimizer, batches, norms))


def _carry_out(model: nn.Module, run: Callable[[], Any], known: Known, kept: Sequence[Kept], left: Mapping[str, str],
               rest: tuple[Any, torch.optim.Optimizer | None, Sequence[Any], list[_BatchNorm]]) -> ModuleCut:  # fmt: skip
    solving, optimizer, batches, norms = rest
    everything = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    cut = Cut(kept, {name: tuple(value.shape) for name, value in everything.items()})
    before = sum(parameter.numel() for parameter in model.parameters())
    saved = {name: known.model.get_parameter(name).data.clone() for name in known.layers} if known.stats else {}
    saved |= {f"{layer.path}.bias": layer.module.bias.data.clone() for layer in known.layers.values()
              if known.stats and layer.module.bias is not None}  # fmt: skip
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    try:
        errors = repair(known, cut, solving) if known.stats else {}
        shapes = cut_module(
            model, cut, run, optimizer, lambda: recalibrate(norms, runs_of(model, batches, None)) if batches else None
        )
    except BaseException:
        for name, value in saved.items():
            model.get_parameter(name).data = value
        for name, value in buffers.items():
            model.get_buffer(name).data = value
        raise
    after = sum(parameter.numel() for parameter in model.parameters())
    units = {str(one.coupling.first): one.units.tolist() for one in kept}
    return ModuleCut(shapes, units, left, (before, after), errors)


def _method(importance: str, data: Iterable[Any] | None, loss: Loss | None) -> Any:
    faults = []
    try:
        method = make(registry.importance, importance)
    except ValueError as error:
        raise RecipeError([str(error)]) from error
    if method.needs and data is None:
        faults.append(f"importance '{importance}' looks at data: give some batches")
    if Needs.GRAD in method.needs and loss is None:
        faults.append(f"importance '{importance}' looks at gradients: give loss(model, batch)")
    if faults:
        raise RecipeError(faults)
    return method


def _wanted(couplings: Sequence[Coupling], share: float | Mapping[str, float], exclude: Sequence[str], multiple: int,
            left: dict[str, str]) -> list[tuple[Coupling, int]]:  # fmt: skip
    """The couplings that are to be cut, with how many units stay."""
    if not isinstance(share, (int, float, Mapping)):
        raise RecipeError([f"share {share!r} is neither a number nor a mapping of globs to numbers"])
    shares = {"*": share} if isinstance(share, (int, float)) else dict(share)
    every = [place.tensor for coupling in couplings for place in coupling.members]
    for glob, value in shares.items():
        if not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise RecipeError([f"share {value!r} of '{glob}' must be above 0 and at most 1"])
        if couplings and not any(fnmatch.fnmatchcase(name, glob) for name in every):
            raise RecipeError([f"share of '{glob}': no parameter that can be cut has such a name; '{every[0]}' is one"])
    found = []
    for coupling in couplings:
        names = [place.tensor for place in coupling.members]
        if any(fnmatch.fnmatchcase(name, glob) for name in names for glob in exclude):
            left |= {str(place): "excluded" for place in coupling.members}
            continue
        fitting = [value for glob, value in shares.items() if any(fnmatch.fnmatchcase(name, glob) for name in names)]
        step = liked_step(coupling.units, multiple)
        count = max(step, round(coupling.units * fitting[-1] / step) * step) if fitting else coupling.units
        if count < coupling.units:
            found.append((coupling, count))
        else:
            left |= {str(place): "its share leaves all of it" for place in coupling.members}
    if couplings and not found:
        most = max(coupling.units for coupling in couplings)
        raise RecipeError([f"share {share!r}: no unit would go, the largest coupling has {most}; ask for less to stay"])
    return found


def _gradients(model: nn.Module, batches: Sequence[Any], loss: Loss | None) -> dict[str, Tensor]:
    if loss is None:
        return {}
    parameters = dict(model.named_parameters())
    sums, _ = gradient_sums(list(parameters.values()), [partial(loss, model, batch) for batch in batches])
    return dict(zip(parameters, sums, strict=True))


def load_module(model: nn.Module, folder: str | Path) -> nn.Module:
    """A module built as the whole one was (any weights), given the shapes and weights of a cut one that was saved.

    Raises:
        CheckpointError: if what is in the folder is not of this module.
    """
    from safetensors.torch import load_model

    place = Path(folder)
    try:
        record = json.loads((place / SHAPES).read_text(encoding="utf-8"))["shapes"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{place}: no {SHAPES} of a cut module there ({error}).") from error
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, shape in record["tensors"].items():
        if name not in tensors or tensors[name].dim() != len(shape):
            raise CheckpointError(f"{place}: it has '{name}' {shape}, which this {type(model).__name__} has not.")
        tensors[name].data = torch.empty(shape, dtype=tensors[name].dtype, device=tensors[name].device)
    for path, value in record["numbers"].items():
        owner, _, key = path.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, key, tuple(value) if isinstance(value, list) else value)
    missing, unexpected = load_model(model, str(place / WEIGHTS), strict=False)
    if missing or unexpected:
        raise CheckpointError(
            f"{place}: missing {sorted(missing)[:3]}, unexpected {sorted(unexpected)[:3]} for this module."
        )
    return model
