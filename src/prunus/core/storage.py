"""StorageFormat: where the survivors of a matrix stand, as plain tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar

from torch import Tensor


class StorageFormat(ABC):
    """How a mask is written down.

    Survivors' values are stored beside it in the order of rows, and of columns within a row; what a format ``holds`` may be
    more than was kept.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that it writes as they are."""
    symbols: ClassVar[str] = ""
    """Name of the stream of symbols that it writes in their place, one for each stored value, for a coder; "": none."""

    @property
    def symbol_bits(self) -> int:
        """Bits of such a symbol."""
        return 0

    def fitted(self, keep: Tensor, value_bits: float, planned_bits: Callable[[Tensor], float]) -> StorageFormat:
        """The format with all its options settled: those of the fewest bits for ``keep``, where they were left open.

        ``planned_bits`` tells what a coder takes for so many of each symbol.
        """
        return self

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
        """The positions of ``held [rows cols]`` as plain tensors; symbols uint8, one for each value."""

    @abstractmethod
    def read(self, parts: Mapping[str, Tensor], rows: int, cols: int) -> Tensor:
        """Undo :meth:`write`.

        Raises:
            ValueError: if the tensors are not of the right kind or size, or say what cannot be.
        """

    def places(self, symbols: Iterable[Tensor], rows: int, cols: int) -> Iterator[Tensor]:
        """Where the values stand in the matrix row after row, some at a time, of a format that writes ``symbols``.

        Raises:
            ValueError: if the symbols say what cannot be.
        """
        raise NotImplementedError


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
