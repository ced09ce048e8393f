"""A Site is one prunable matrix of a model, or a batch of equal ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One projection of several fused along the rows.

    Row ``r`` belongs to it where ``offset <= r % period < offset + width``. That one rule covers ``[q|k|v]``
    (period = all rows), interleaved gate and up (period 2, width 1) and q, k, v interleaved a head or grouped by
    key/value head.

    >>> Part("up", offset=1, width=1, period=2).rows(6).tolist()
    [1, 3, 5]
    """

    name: str
    offset: int
    width: int
    period: int

    def rows(self, total: int) -> Tensor:
        """Indices of this part's rows among ``total`` rows."""
        place = torch.arange(total) % self.period
        return torch.nonzero((place >= self.offset) & (place < self.offset + self.width)).flatten()


@dataclass(frozen=True)
class Layout:
    """How the stored tensor becomes ``[batch rows cols]``.

    ``stacked``: it has a leading batch axis (experts). ``transposed``: it is stored ``[.. cols rows]``, as GPT-2's
    ``Conv1D`` and transposed convolutions do. ``parts`` name fused projections; they cannot be inferred from shapes.
    With a ``kernel`` it is a convolution's, of so many ``groups``, each an entry of the batch: a row for each output
    channel of the group, a column for each place of the kernel and input channel, the channels side by side (so that N:M
    runs along them, as sparse tensor cores want it).

    >>> Layout(kernel=(3,), groups=2).to_matrix(torch.zeros(8, 5, 3)).shape
    torch.Size([2, 4, 15])
    """

    stacked: bool = False
    transposed: bool = False
    parts: tuple[Part, ...] = ()
    kernel: tuple[int, ...] = ()
    groups: int = 1

    def to_matrix(self, stored: Tensor) -> Tensor:
        """The stored tensor as ``[batch rows cols]``: a view, but for convolutions."""
        if self.kernel:
            flat: Tensor = stored.unflatten(0, (self.groups, -1)).flatten(3)  # [groups, out and in or in and out, places]
            return flat.permute(0, 2, 3, 1).flatten(2) if self.transposed else flat.transpose(2, 3).flatten(2)
        matrix = stored if self.stacked else stored.unsqueeze(0)
        return matrix.transpose(1, 2) if self.transposed else matrix

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Undo :meth:`to_matrix`."""
        if self.kernel:
            flat: Tensor = matrix.unflatten(2, (math.prod(self.kernel), -1))  # [groups out places in]
            turned: Tensor = flat.permute(0, 3, 1, 2) if self.transposed else flat.transpose(2, 3)
            whole: Tensor = turned.unflatten(3, self.kernel).flatten(0, 1)
            return whole.contiguous()
        stored = matrix.transpose(1, 2) if self.transposed else matrix
        return stored.contiguous() if self.stacked else stored.squeeze(0).contiguous()


@dataclass(frozen=True)
class Site:
    """One prunable matrix: ``shape = (batch, rows, cols)``, rows = outputs, cols = inputs, batch 1 the common case.

    ``name`` is the module's path in the model, ``parameter`` the tensor's, ``block`` the index of the block that
    holds it (None outside the blocks), ``role`` its path inside the block, ``dtype`` the one it is stored in.
    """

    name: str
    parameter: str
    shape: tuple[int, int, int]
    dtype: torch.dtype
    block: int | None = None
    role: str = ""
    layout: Layout = field(default_factory=Layout)

    @property
    def batch(self) -> int:
        return self.shape[0]

    @property
    def rows(self) -> int:
        return self.shape[1]

    @property
    def cols(self) -> int:
        return self.shape[2]

    @property
    def numel(self) -> int:
        return self.batch * self.rows * self.cols
