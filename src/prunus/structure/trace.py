"""The couplings of a model, found by running it once on an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..core.errors import UnsupportedModelError
from .coupling import Traced, couplings_of
from .rules_compute import COMPUTE_RULES, pointwise
from .rules_shape import SHAPE_RULES
from .tracer import Tracer, tensors_in


def new_tracer() -> Tracer:
    """A Tracer with all rules."""
    return Tracer({**SHAPE_RULES, **COMPUTE_RULES}, pointwise)


def trace(model: nn.Module, run: Callable[[], Any], stacks: Mapping[str, Tensor] | None = None) -> Traced:
    """Couplings of a model from one ``run()`` of it; what it gives and what it is handed stays as it is.

    ``stacks`` are parameters, by name, that hold a matrix for each expert along their first dimension.

    Raises:
        UnsupportedModelError: if the run fails.
    """
    tracer = new_tracer()
    own_all(tracer, model, stacks or {})
    try:
        with tracer.following(model):
            output = run()
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError) as error:
        raise UnsupportedModelError(
            f"{type(model).__name__}: it cannot be traced on this example ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}). Give inputs that it runs on."
        ) from error
    for tensor in tensors_in(plain(output)):
        tracer.fix(tracer.of(tensor), "the model's output")
    return couplings_of(tracer.links)


def own_all(tracer: Tracer, model: nn.Module, stacks: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give every parameter, and a norm's running statistics, places of their own."""
    for name, tensor in stacks.items():
        tracer.own_stack(name, tensor)
    for path, module in model.named_modules(prefix=prefix):
        head = f"{path}." if path else ""
        for key, parameter in module.named_parameters(recurse=False):
            if head + key not in stacks:
                tracer.own(head + key, parameter)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for key, buffer in module.named_buffers(recurse=False):
                tracer.own(head + key, buffer)


def plain(output: Any) -> Any:
    """A model's output as plain containers."""
    return dict(output) if hasattr(output, "keys") else output


def called(model: nn.Module, example: Any) -> Any:
    """A module called with a tensor, a tuple of arguments or a dictionary of keywords."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, (tuple, list)) else model(example)
