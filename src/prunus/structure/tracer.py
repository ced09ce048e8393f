"""Tracing: a model runs once on an example, and every operation passes the labels of its inputs on to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .labels import NONE, Atoms, Field, Labels
from .links import Links

Rule = Callable[["Tracer", Any, tuple[Any, ...], dict[str, Any], Any], None]
"""``rule(tracer, operation, args, kwargs, output)`` labels the output, and ties or fixes atoms."""


class Tracer(TorchDispatchMode):
    """Within its context operations are followed. What no rule knows fixes the atoms that reach it, so that nothing is cut
    that might not be cut.

    ``rules`` go by the operation's name (``add.Tensor`` or, for all of its overloads, ``add``).
    """

    def __init__(self, rules: Mapping[str, Rule], pointwise: Rule) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.links = Links()
        self._rules = rules
        self._pointwise = pointwise
        self._labels: dict[int, Labels] = {}
        self._kept: dict[int, Tensor] = {}  # an id is its tensor's for as long as that lives
        self._blank: set[int] = set()
        self._modules: list[str] = []
        self._stacks: dict[int, str] = {}
        self._entries: dict[tuple[str, int], Labels] = {}

    @contextmanager
    def following(self, model: nn.Module, name: str = "") -> Iterator[None]:
        """Within this context operations are followed, and known to be those of the modules of ``model``, at ``name``."""
        with ExitStack() as stack:
            for path, module in model.named_modules(prefix=name):
                stack.callback(module.register_forward_pre_hook(self._entering(path)).remove)
                stack.callback(module.register_forward_hook(self._leaving, always_call=True).remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            yield

    def _entering(self, path: str) -> Callable[[nn.Module, Any], None]:
        return lambda _module, _args: self._modules.append(path)

    def _leaving(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._modules.pop()

    @property
    def module(self) -> str:
        """Path of the module that runs now."""
        return self._modules[-1] if self._modules else ""

    def own(self, name: str, tensor: Tensor) -> None:
        """Give the places along a parameter's dimensions atoms of their own."""
        if id(tensor) in self._labels:
            return
        dims = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        self.set(tensor, tuple(Field((dim,), self.links.new(name, dim, tensor.shape[dim])) for dim in dims))

    def own_stack(self, name: str, tensor: Tensor) -> None:
        """Give the matrices of a stack ``[entries ..]`` atoms apart, each its own."""
        self._kept[id(tensor)] = tensor
        self._stacks[id(tensor)] = name

    def entry_of(self, stack: Tensor, entry: int, matrix: Tensor) -> bool:
        """Label one matrix of a stack; False if the tensor is no stack."""
        name = self._stacks.get(id(stack))
        if name is None:
            return False
        if (name, entry) not in self._entries:
            sizes = enumerate(matrix.shape)
            self._entries[name, entry] = tuple(
                Field((dim,), self.links.new(name, dim + 1, size, entry)) for dim, size in sizes
            )
        self.set(matrix, self._entries[name, entry])
        return True

    def of(self, tensor: Any) -> Labels:
        """A tensor's labels."""
        return self._labels.get(id(tensor), NONE)

    def set(self, tensor: Tensor, labels: Iterable[Field]) -> None:
        """Label a tensor; fields over dimensions along which nothing differs are dropped."""
        plain = (field.without_constant() for field in labels)
        self._kept[id(tensor)] = tensor
        self._labels[id(tensor)] = tuple(field for field in plain if field is not None)

    def is_blank(self, tensor: Any) -> bool:
        """Whether a tensor was made empty or filled with one value, so that it has the size that is asked of it."""
        return id(tensor) in self._blank

    def blank(self, tensor: Tensor) -> None:
        """Note that a tensor was made so."""
        self._kept[id(tensor)] = tensor
        self._blank.add(id(tensor))

    def fix(self, labels: Iterable[Field], reason: str) -> None:
        """All of these have to stay; the reason is told with the module that runs now."""
        for field in labels:
            self.fix_atoms(field.atoms, reason)

    def fix_atoms(self, atoms: Atoms, reason: str) -> None:
        """The same of atoms."""
        self.links.fix(atoms, f"{reason} (in {self.module})" if self.module else reason)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        packet, _, overload = func._schema.name.removeprefix("aten::"), ".", func._overloadname
        rule = self._rules.get(f"{packet}.{overload}") or self._rules.get(packet)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = self._pointwise
        if rule is not None:
            rule(self, func, args, kwargs or {}, output)
        else:
            for tensor in tensors_in((args, kwargs or {})):
                self.fix(self.of(tensor), f"goes into {packet}, which prunus cannot follow")
        for tensor in tensors_in(output):
            self._kept[id(tensor)] = tensor
        return output


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
