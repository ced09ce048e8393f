"""The linear maps that a model applies, whatever modules or functions it is made of, and what they are handed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..core.errors import UnsupportedModelError
from ..core.site import Site
from ..core.stats import Needs, Stats
from .beside import Above
from .tally import Tally
from .unfold import Unfolding


class EnoughError(Exception):
    """The last Site of a forward pass has been reached: what comes after it is not needed."""


class Applied(NamedTuple):
    """A map as it is applied: of which Site, to what ``inputs`` as they stand, unfolded how (None: by their last axis)."""

    site: Site
    inputs: Tensor
    unfolding: Unfolding | None

    def rows(self) -> Tensor:
        """The rows that are multiplied by the Site's matrices, ``[batch windows places cols]``."""
        inputs = self.inputs.detach().float()
        if self.unfolding is not None:
            return self.unfolding.rows(inputs)
        windows = inputs if inputs.dim() > 2 else inputs.reshape(-1, 1, inputs.shape[-1])
        return windows.reshape(1, len(windows), -1, windows.shape[-1])


class Applying(TorchFunctionMode):
    """Within its context ``seen`` is told of every map that is applied by one of the ``weights``, before it is applied."""

    def __init__(self, weights: Mapping[nn.Parameter, Site], seen: Callable[[Applied], object]) -> None:
        super().__init__()
        self._sites = {id(parameter): site for parameter, site in weights.items()}
        self._seen = seen

    def __torch_function__(self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:  # which multiplies by its matrices inside
            with patch.object(functional, "linear", self._linear):
                return func(*args, **kwargs)
        applied = _APPLIED.get(func)
        if applied is not None:
            inputs, weight, unfold = applied(args, kwargs)
            site = self._sites.get(id(weight))
            if site is not None:
                self._seen(Applied(site, inputs, unfold() if unfold is not None else None))
        return func(*args, **kwargs)

    def _linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        site = self._sites.get(id(weight))
        if site is not None:
            self._seen(Applied(site, inputs, None))
        return torch._C._nn.linear(inputs, weight, bias)


_Found = tuple[Any, Any, Callable[[], Unfolding] | None]
_Reader = Callable[[tuple[Any, ...], Mapping[str, Any]], _Found]


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _linear(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Found:
    return _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight"), None


def _addmm(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Found:
    return _argument(args, kwargs, 1, "mat1"), _argument(args, kwargs, 2, "mat2"), None


def _convolution(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Found:
    weight = _argument(args, kwargs, 1, "weight")

    def unfold() -> Unfolding:
        stride, padding = _argument(args, kwargs, 3, "stride", 1), _argument(args, kwargs, 4, "padding", 0)
        dilation, groups = _argument(args, kwargs, 5, "dilation", 1), _argument(args, kwargs, 6, "groups", 1)
        return Unfolding.of(weight.shape[2:], stride, padding, dilation, groups)

    return _argument(args, kwargs, 0, "input"), weight, unfold


def _transposed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Found:
    weight = _argument(args, kwargs, 1, "weight")

    def unfold() -> Unfolding:
        stride, padding = _argument(args, kwargs, 3, "stride", 1), _argument(args, kwargs, 4, "padding", 0)
        beyond, groups = _argument(args, kwargs, 5, "output_padding", 0), _argument(args, kwargs, 6, "groups", 1)
        dilation = _argument(args, kwargs, 7, "dilation", 1)
        return Unfolding.of_transposed(weight.shape[2:], stride, padding, beyond, dilation, groups)

    return _argument(args, kwargs, 0, "input"), weight, unfold


_APPLIED: dict[Callable[..., Any], _Reader] = {
    functional.linear: _linear,
    torch.addmm: _addmm,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed),
}
"""Functions that apply a linear map, and how their arguments are read."""


@contextmanager
def applying(weights: Mapping[nn.Parameter, Site], seen: Callable[[Applied], object]) -> Iterator[None]:
    """Within this context :class:`Applying` is on, and attention's fused path, which would hide its matrices, is off."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with Applying(weights, seen):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Input(NamedTuple):
    """What tells one input of maps from another: the tensor, how often it was written to, and how it is unfolded."""

    tensor: int
    version: int
    unfolding: Unfolding | None


class _Pass(NamedTuple):
    """Shapes of a batch, and which Sites were reached with inputs of what shape."""

    shapes: object
    reached: list[tuple[Site, torch.Size]]


class AppliedObserver:
    """Forward passes fill one Tally for each distinct input that the ``sites`` read.

    Sites that are handed the same tensor, and unfold it alike, share a Tally. A pass over a batch of the first one's shapes
    that reaches the same Sites in the same order, with inputs of the same shapes, ends with the last of them. Before a pass
    the model may be run with its dense weights, so that what Sites are handed there is set above what they are handed here.
    ``entries`` narrow the Sites to some of their batch.
    """

    def __init__(self, weights: Mapping[nn.Parameter, Site], needs: Needs, entries: Sequence[int] | None = None) -> None:
        self.weights = weights
        self.needs = needs
        self.entries = entries
        self._tallies: list[Tally] = []
        self._owner: dict[Site, Tally] = {}
        self._known: dict[_Input, tuple[Tensor, Tally]] = {}
        self._dense: dict[Site, list[Tensor]] = {}
        self._first: _Pass | None = None
        self._pass = _Pass(None, [])

    def watch(self, run: Callable[[], object], dense: Callable[[], object] | None = None) -> None:
        """One pass over a batch, whose ``shapes`` the run may know; ``dense()`` is the same with dense weights."""
        self._pass = _Pass(getattr(run, "shapes", None), [])
        self._known.clear()
        self._dense.clear()
        if dense is not None:
            with applying(self.weights, lambda applied: self._dense.setdefault(applied.site, []).append(applied.rows())):
                dense()
        try:
            with applying(self.weights, self._reach):
                run()
        except EnoughError:
            pass
        finally:
            self._known.clear()
        self._first = self._first or self._pass

    def result(self) -> list[tuple[list[Site], Stats]]:
        """Sites grouped by the input they share, each group with its Stats; Sites that were never reached are in none."""
        return [(tally.sites, tally.stats()) for tally in self._tallies]

    def _reach(self, applied: Applied) -> None:
        site, inputs = applied.site, applied.inputs
        key = _Input(id(inputs), inputs._version if not inputs.is_inference() else 0, applied.unfolding)
        _, known = self._known.get(key, (None, None))
        tally = known or self._owner.get(site) or self._new(site, inputs.device)
        if self._owner.setdefault(site, tally) is not tally:
            raise UnsupportedModelError(
                f"{site.name}: shares its input with others in one pass, but not in the next. Prune it apart, by --include."
            )
        if site not in tally.sites:
            tally.sites.append(site)
        if known is None:
            self._add(tally, applied)
            self._known[key] = (inputs, tally)
        self._pass.reached.append((site, inputs.shape))
        if self._pass == self._first:
            raise EnoughError

    def _add(self, tally: Tally, applied: Applied) -> None:
        rows = applied.rows()
        dense = self._dense.get(applied.site)
        above = dense.pop(0) - rows if dense else None
        for place, entry in enumerate(range(len(rows)) if self.entries is None else self.entries):
            tally.add(place, rows[entry], Above("drift", above[entry]) if above is not None else None)

    def _new(self, site: Site, device: torch.device) -> Tally:
        """A Tally of the Site's own, which others may come to share."""
        batch = site.batch if self.entries is None else len(self.entries)
        tally = self._owner[site] = Tally(batch, site.cols, self.needs, device, [site])
        self._tallies.append(tally)
        return tally
