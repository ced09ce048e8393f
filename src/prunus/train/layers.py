"""A layer of a model that is trained sparse: its mask, and what is kept beside its parameter."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import NumericalError, RecipeError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.site import Site
from .held import multiply
from .masks import kept_of, packed, unpacked


@dataclass
class SparseLayer:
    """A Site's parameter with its ``mask`` (1 = kept, in the parameter's shape and dtype), the ``dense`` values that
    dropped weights keep and the ``score`` (fp32) that a schedule does, where there are such, and a step's whole
    ``gradient`` where one is waited for."""

    site: Site
    parameter: nn.Parameter
    mask: Tensor
    dense: Tensor | None = None
    score: Tensor | None = None
    gradient: Tensor | None = None
    _sparse: Tensor | None = None
    _shown: tuple[int, int] | None = None
    """Where the parameter's memory was when its zeros were last shown, and its version."""
    _held: tuple[Callable[[], Tensor | None], int] | None = None
    """The gradient that dropped weights have no part in, if it is still there, and its version."""

    @property
    def values(self) -> Tensor:
        """The weights, dropped ones with what they keep."""
        return self.parameter.detach() if self.dense is None else self.dense

    @property
    def live(self) -> int:
        """How many weights are kept."""
        return int(torch.count_nonzero(self.mask))

    def check(self) -> None:
        """Raise UnsupportedModelError or NumericalError if it cannot be trained sparse."""
        if type(self.parameter.data).__name__ == "DTensor":
            raise UnsupportedModelError(
                f"{self.site.name}: its weights are in shards (FSDP), of which none is chosen from alone. Use "
                "DistributedDataParallel."
            )
        if not all_finite(self.parameter):
            raise NumericalError(f"{self.site.name}: its weights hold NaN or Inf before it is trained.")

    def mask_zeros(self) -> None:
        """Drop what is zero now; nothing of a layer that holds nothing else."""
        self.mask.copy_(kept_of(self.parameter))

    def loose_gradient(self) -> Tensor | None:
        """Its gradient, if dropped weights may have a part in it."""
        gradient = self.parameter.grad
        if gradient is None or self._held is None:
            return gradient
        found, version = self._held
        return None if found() is gradient and version == gradient._version else gradient

    def hold_gradient(self) -> None:
        """Take its gradient of what is dropped away."""
        gradient = self.parameter.grad
        if gradient is not None:
            gradient.mul_(self.mask)
            self.note_held(gradient)

    def note_held(self, gradient: Tensor) -> None:
        """Dropped weights have no part in this one, until it changes."""
        self._held = weakref.ref(gradient), gradient._version

    def show_dense(self) -> None:
        """The parameter has the values that dropped weights keep, where it keeps any: an optimizer is to train them. Only
        which memory it reads changes, no tensor is copied."""
        if self.dense is not None:
            self._sparse = self.parameter.data
            self.parameter.data = self.dense

    def show_sparse(self) -> None:
        """The parameter has zeros again in their places, in the memory that it had before."""
        if self.dense is not None and self._sparse is not None:
            self.dense = self.parameter.data
            torch.mul(self.dense, self.mask, out=self._sparse)
            self.parameter.data = self._sparse
            self._shown = self._now

    @property
    def _now(self) -> tuple[int, int]:
        return self.parameter.data_ptr(), self.parameter._version

    def require_zeros(self) -> None:
        """Raise RecipeError if dropped weights are not zero: somebody has written to them, and not the optimizer."""
        written = int(torch.count_nonzero(self.parameter.detach().ne(0) & self.mask.eq(0)))
        if written:
            told = f"{self.site.name} has got other weights since the Sparsifier was made, or its masks last changed: "
            told += f"{written:,} that its mask drops are not zero (from a state dict, from another process by "
            told += "DistributedDataParallel, by what is written past the optimizer). Load weights first, make the "
            raise RecipeError([told + "Sparsifier, train, and finish() it before other weights are loaded"])

    def take_over(self) -> None:
        """What others have written into the parameter since its zeros were shown are its weights now, behind which dropped
        ones keep what they have."""
        if self.dense is not None and self._shown != self._now:
            self.require_zeros()
            self.dense.copy_(torch.where(self.mask != 0, self.parameter.detach(), self.dense))

    def state(self) -> dict[str, Any]:
        """What :meth:`load` takes, and what tells the weights that belong to it from others."""
        kept = {"mask": packed(self.mask != 0), "nonzeros": int(torch.count_nonzero(self.parameter))}
        return kept | {name: value for name, value in (("dense", self.dense), ("score", self.score)) if value is not None}

    def require_fit(self, kept: Mapping[str, Any]) -> None:
        """Raise RecipeError if a :meth:`state` is not of the weights that the parameter has."""
        missing = [name for name in ("dense", "score") if getattr(self, name) is not None and name not in kept]
        if missing:
            told = f"{self.site.name}: the state was taken behind finish(), which leaves nothing to go on from: take the "
            raise RecipeError([told + "state before, or begin anew with its masks"])
        mask = unpacked(kept["mask"], tuple(self.mask.shape)).to(self.mask)
        found = int(torch.count_nonzero(self.parameter))
        if found != kept["nonzeros"] or int(torch.count_nonzero(self.parameter * mask)) != found:
            told = (
                f"{self.site.name} has {found} weights that are not zero, the state is of {kept['nonzeros']} under its mask"
            )
            raise RecipeError([f"{told}: load the model's own state first, then make the Sparsifier with state="])

    def load(self, kept: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state` that fits."""
        self.mask.copy_(unpacked(kept["mask"], tuple(self.mask.shape)))
        for tensor, name in ((self.dense, "dense"), (self.score, "score")):
            if tensor is not None:
                tensor.copy_(kept[name])

    @property
    def is_behind(self) -> bool:
        """Whether the parameter has moved to another device or dtype."""
        return self.mask.device != self.parameter.device or self.mask.dtype != self.parameter.dtype

    def follow(self) -> None:
        """Be where the parameter is, and of its dtype: models are moved once their Sparsifier is made."""
        self.mask = self.mask.to(self.parameter)
        self.dense = None if self.dense is None else self.dense.to(self.parameter)
        self.score = None if self.score is None else self.score.to(self.parameter.device)


def hold_gradients(layers: Sequence[SparseLayer]) -> None:
    """Take the gradients of what is dropped away, so that optimizers keep nothing for it; not twice of one gradient."""
    loose = [(layer, gradient) for layer in layers if (gradient := layer.loose_gradient()) is not None]
    if not loose:
        return
    multiply([gradient for _, gradient in loose], [layer.mask for layer, _ in loose])
    for layer, gradient in loose:
        layer.note_held(gradient)
