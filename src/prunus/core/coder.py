"""Coder: how a stream of small whole numbers becomes bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor

CHUNK = 1 << 20
"""Symbols that are read at a time, by every coder: what is decoded side by side stays side by side."""


class Coder(ABC):
    """How symbols (codes of values, gaps between them) become bytes.

    A symbol is a whole number below 2^bits, bits from 1 to 8. A stream called NAME is written as the tensor NAME, and as
    ``NAME_PART`` for what else it takes to read it.
    """

    extra_parts: ClassVar[tuple[str, ...]] = ()
    """What is written beside the stream."""

    def parts(self, name: str) -> tuple[str, ...]:
        """Names of a stream's tensors."""
        return (name, *(f"{name}_{part}" for part in self.extra_parts))

    def require(self) -> None:  # noqa: B027 - most need nothing
        """Raise MissingLibraryError if it takes a library that is not installed."""

    @abstractmethod
    def planned_bits(self, counts: Tensor) -> float:
        """Bits of a stream in which symbol i occurs ``counts[i]`` times, all that is written beside it included."""

    @abstractmethod
    def write(self, name: str, symbols: Tensor, bits: int) -> dict[str, Tensor]:
        """The tensors of a stream, of ``symbols`` uint8 ``[n]``."""

    @abstractmethod
    def read(self, name: str, parts: Mapping[str, Tensor], count: int, bits: int) -> Iterator[Tensor]:
        """The ``count`` symbols of a stream, uint8, :data:`CHUNK` at a time.

        Raises:
            ValueError: if the tensors are not of the right kind or size, or were not written by this coder.
        """
