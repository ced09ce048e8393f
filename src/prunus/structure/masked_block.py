"""A loaded block of which part is masked, and that can be the dense one again for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..models.calls import Output
from ..models.routers import passing_over
from ..stream.trunk import Trunk
from .averages import averaged_modules, masked_gain, masked_norms
from .coupling import gain_of
from .cut import Cut


class MaskedModule:
    """A module of a model, a block or what is outside of them, of which some tensors have zeros in place of what goes.

    Within :meth:`masked` it computes with those; elsewhere it is dense. ``prefix`` is its path in the model,
    ``stored`` gives the dtype that a parameter is kept in, and
    ``holds`` tells of a tensor's name whether it belongs to it.
    """

    def __init__(self, module: nn.Module, prefix: str, cut: Cut, stored: Callable[[str], torch.dtype],
                 holds: Callable[[str], bool] = lambda name: True) -> None:  # fmt: skip
        self.module = module
        self.prefix = prefix
        self._stored = stored
        self._holds = holds
        self._inside = f"{prefix}." if prefix else ""
        self.parameters = {
            self._inside + name: parameter for name, parameter in module.named_parameters() if not parameter.is_meta
        }
        self._masked: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}
        self._routers: dict[str, Tensor] = {}
        self.lay(cut)

    def lay(self, cut: Cut) -> None:
        """Mask all that a cut narrows, on top of what is masked already."""
        for name in cut.tensors:
            if name in self.parameters:
                self._masked[name] = cut.masked(name, self.value(name))
        for path, experts in cut.routers.items():
            if path.startswith(self._inside):
                self._routers[path.removeprefix(self._inside)] = experts
        for path, kept in averaged_modules(cut).items():
            if path.startswith(self._inside) and f"{path}.weight" in self.parameters:
                inside = path.removeprefix(self._inside)
                self._norms[inside] = kept
                gain = gain_of(path)
                self._masked[gain] = masked_gain(self.module.get_submodule(inside), kept, self._stored(gain))

    def value(self, name: str) -> Tensor:
        """A parameter's value as it is when masked."""
        return self._masked.get(name, self.parameters[name].data)

    def set(self, values: Mapping[str, Tensor]) -> None:
        """Other values for parameters when masked."""
        for name, value in values.items():
            self._masked[name] = value.to(self.parameters[name])

    def state(self) -> dict[str, Tensor]:
        """Everything that is stored of it, by its name in the model, as it is when masked."""
        stored = {self._inside + name: value for name, value in self.module.state_dict().items() if not value.is_meta}
        return {name: self._masked.get(name, value) for name, value in stored.items() if self._holds(name)}

    @contextmanager
    def masked(self) -> Iterator[None]:
        """Within this context the module computes with what stays alone."""
        before = {name: self.parameters[name].data for name in self._masked}
        with ExitStack() as stack:
            stack.enter_context(masked_norms(self.module, self._norms))
            stack.enter_context(passing_over(self.module, self._routers))
            try:
                for name, value in self._masked.items():
                    self.parameters[name].data = value
                yield
            finally:
                for name, data in before.items():
                    self.parameters[name].data = data


def masked_runs(module: MaskedModule, trunk: Trunk, index: int) -> Iterator[Callable[[], Output]]:
    """Calls that run a masked block on the present state of a Trunk, one for each batch of windows."""
    return (partial(_within, module, run) for run in trunk.runs(module.module, index))


def _within(module: MaskedModule, run: Callable[[], Output]) -> Output:
    with module.masked():
        return run()
