"""Batches of any data loader, and how a module is called with one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from ..core.errors import CalibrationError

Call = Callable[[nn.Module, Any], Any]


def first_batches(data: Iterable[Any], samples: int) -> list[Any]:
    """The first batches that hold ``samples`` inputs together, or all there are.

    Raises:
        CalibrationError: if there are none, or no tensor is in them.
    """
    taken, count = [], 0
    try:
        batches = iter(data)
    except TypeError:
        kind = type(data).__name__
        raise CalibrationError(f"data: a {kind} is no iterable of batches. Give a DataLoader or a list.") from None
    for batch in batches:
        taken.append(batch)
        count += _length(batch)
        if count >= samples:
            break
    if not taken:
        raise CalibrationError("data: it has no batches.")
    return taken


def feed(model: nn.Module, batch: Any) -> Any:
    """The module called with a batch: a tensor, keywords, or a tuple of which it gets as many as its forward asks for (of
    inputs and labels the inputs alone; what a forward may go without it is not given).

    Raises:
        CalibrationError: if its forward may go without any of them, so that nothing tells which they are.
    """
    moved = send_to_device(batch, next((p.device for p in model.parameters()), torch.device("cpu")))
    if isinstance(moved, Mapping):
        return model(**moved)
    if isinstance(moved, (tuple, list)):
        return model(*moved[: _taken(model, len(moved))])
    return model(moved)


@dataclass(frozen=True)
class BatchRun:
    """Runs a model on a batch."""

    call: Call
    model: nn.Module
    batch: Any

    def __call__(self) -> Any:
        return self.call(self.model, self.batch)

    @property
    def inputs(self) -> int:
        """How many inputs are in the batch."""
        return _length(self.batch)

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Shapes of the batch's tensors."""
        return tuple(tensor.shape for tensor in _tensors(self.batch))


def runs_of(model: nn.Module, batches: Iterable[Any], call: Call | None) -> list[BatchRun]:
    """What runs the model on each of the batches."""
    return [BatchRun(call or feed, model, batch) for batch in batches]


def output_tensor(output: Any) -> Tensor:
    """The tensor that matters of what a model gives: itself, its ``logits``, or the first.

    Raises:
        CalibrationError: if it gives none.
    """
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        logits: Tensor = output["logits"]
        return logits
    for tensor in _tensors(output):
        return tensor
    raise CalibrationError(f"the model gives a {type(output).__name__} without a tensor.")


def _taken(model: nn.Module, given: int) -> int | None:
    """How many positional arguments a module's forward asks for, of so many; None: any number."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [parameter for parameter in parameters if parameter.kind in kinds]
    asked = sum(parameter.default is parameter.empty for parameter in named)
    if not asked and given > 1 and len(named) > 1:
        raise CalibrationError(
            f"data: {type(model).__name__} may go without all of {', '.join(one.name for one in named[:3])}, …, so that "
            f"nothing tells which of them the {given} parts of a batch are. Give dicts, or say by call=."
        )
    return max(1, asked)


def _length(batch: Any) -> int:
    for tensor in _tensors(batch):
        return len(tensor) if tensor.dim() else 1
    raise CalibrationError(f"data: a batch is a {type(batch).__name__} without a tensor.")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
