"""StorageFormat: where the survivors of a matrix stand, as plain tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor


class StorageFormat(ABC):
    """How a mask is written down.

    Survivors' values are stored beside it in the order of rows, and of columns within a row; what a format ``holds`` may be
    more than was kept.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that it writes."""

    @abstractmethod
    def fault(self, keep: Tensor) -> str | None:
        """Why ``keep [rows cols]`` (True = kept) cannot be stored so; None if it can."""

    @abstractmethod
    def holds(self, keep: Tensor) -> Tensor:
        """The mask ``[rows cols]`` whose values are stored: it keeps all that ``keep`` does."""

    @abstractmethod
    def position_bits(self, rows: int, cols: int, held: int) -> int:
        """Bits that the positions of ``held`` values take, by arithmetic."""

    @abstractmethod
    def write(self, held: Tensor) -> dict[str, Tensor]:
        """The positions of ``held [rows cols]`` as plain tensors."""

    @abstractmethod
    def read(self, parts: Mapping[str, Tensor], rows: int, cols: int) -> Tensor:
        """Undo :meth:`write`.

        Raises:
            ValueError: if the tensors are not of the right kind or size, or say what cannot be.
        """


def expect(parts: Mapping[str, Tensor], name: str, dtype: object, shape: tuple[int, ...]) -> Tensor:
    """The tensor ``name`` of ``parts``, if it is of this dtype and shape.

    Raises:
        ValueError: if it is missing or is not.
    """
    if name not in parts:
        raise ValueError(f"its {name} are missing")
    tensor = parts[name]
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ValueError(f"its {name} are {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}")
    return tensor
