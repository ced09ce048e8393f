"""Routers that pass over some experts, as if those were not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PRODUCTS = (nn.functional.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.addmm)


@contextmanager
def passing_over(block: nn.Module, gone: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context the routers at these paths never choose the experts that are ``gone``, by number.

    A router's scores of them are minus infinity, and so is what it adds to scores where it chooses.
    """
    with ExitStack() as stack:
        for path, experts in gone.items():
            router = block.get_submodule(path)
            count = next(len(p) for p in router.parameters(recurse=False) if p.dim() == 2)
            gate = _Gate(count, experts)
            stack.callback(router.register_forward_pre_hook(gate.enter).remove)
            stack.callback(router.register_forward_hook(gate.leave, always_call=True).remove)
            for tensors in (router._buffers, router._parameters):
                for name, value in tensors.items():
                    if name != "bias" and value is not None and value.shape == (count,):
                        stack.enter_context(_lowered(value, experts))
        yield


@contextmanager
def _lowered(value: Tensor, experts: Tensor) -> Iterator[None]:
    before = value.data
    value.data = before.index_fill(0, experts.to(before.device), -torch.inf)
    try:
        yield
    finally:
        value.data = before


class _Gate:
    """While a router runs, its products with one output an expert are minus infinity for those that are gone."""

    def __init__(self, count: int, experts: Tensor) -> None:
        self._mode = _Masked(count, experts)

    def enter(self, _module: nn.Module, _args: Any) -> None:
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


class _Masked(TorchFunctionMode):
    def __init__(self, count: int, experts: Tensor) -> None:
        super().__init__()
        self._count = count
        self._experts = experts

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        output = func(*args, **(kwargs or {}))
        if func in _PRODUCTS and output.shape[-1] == self._count:
            return output.index_fill(-1, self._experts.to(output.device), -torch.inf)
        return output
