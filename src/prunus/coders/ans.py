"""Asymmetric numeral systems, through the library constriction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ..core.coder import CHUNK, Coder
from ..core.errors import MissingLibraryError
from ..core.registry import coder
from ..core.storage import expect

TOTAL = 1 << 24
"""What frequencies add up to."""
MOST = TOTAL - (1 << 17)
"""The highest frequency: a symbol takes 0.011 bits at least, so that bytes bound how many there are."""
SEAL = 0x6E757270
"""What the coder holds before the first symbol is written; after the last is read it must be all that is left."""
_BITS, _WORD, _STATE = 24, 32, 64


@final
@coder("ans", paper="arXiv:1311.2540", cost="the entropy; needs the library constriction")
@dataclass(frozen=True)
class ANS(Coder):
    """Fractions of bits: as many as the symbol's frequency is worth (Duda's asymmetric numeral systems).

    Beside the stream, whose bytes are words of 32 bits, the lowest byte first: ``frequencies`` int32 ``[2^bits]``, whole
    numbers of at least 1 that add up to 2^24. They are all that decoding computes with: the same symbols everywhere.
    """

    extra_parts: ClassVar[tuple[str, ...]] = ("frequencies",)

    def require(self) -> None:
        _library()

    def planned_bits(self, counts: Tensor) -> float:
        shares = frequencies(counts.numpy())
        stream = float((counts.numpy() * (_BITS - np.log2(shares))).sum())
        return -(-(stream + _WORD) // _WORD) * _WORD + 32 * len(counts)

    def write(self, name: str, symbols: Tensor, bits: int) -> dict[str, Tensor]:
        library = _library()
        shares = frequencies(np.bincount(symbols.numpy(), minlength=1 << bits))
        model, stack = _model(library, shares), library.stream.stack.AnsCoder(np.array([SEAL], np.uint32))
        for chunk in reversed(symbols.split(CHUNK)):
            stack.encode_reverse(chunk.numpy().astype(np.int32), model)
        stream = np.frombuffer(stack.get_compressed().astype("<u4").tobytes(), np.uint8)
        return {
            name: torch.from_numpy(stream.copy()),
            f"{name}_frequencies": torch.from_numpy(shares.astype(np.int32)),
        }

    def read(self, name: str, parts: Mapping[str, Tensor], count: int, bits: int) -> Iterator[Tensor]:
        library = _library()
        shares = expect(parts, f"{name}_frequencies", torch.int32, (1 << bits,)).numpy().astype(np.int64)
        if shares.min() < 1 or shares.max() > MOST or shares.sum() != TOTAL:
            raise ValueError(f"the frequencies of its {name} are not from 1 to {MOST}, or do not add up to {TOTAL}")
        stream = parts.get(name, torch.empty(0))
        expect(parts, name, torch.uint8, (max(4, stream.numel() // 4 * 4),))
        least = count * float(_BITS - np.log2(MOST))
        if least > 8 * stream.numel() + _STATE:
            raise ValueError(f"its {name} are said to be {count}, too many for {stream.numel()} bytes")
        words = np.require(stream.numpy().view("<u4"), np.uint32, ["A", "C"])
        if not words[-1]:
            raise ValueError(f"the stream of its {name} ends in nothing")
        model, stack = _model(library, shares), library.stream.stack.AnsCoder(words)
        for first in range(0, count, CHUNK):
            yield torch.from_numpy(stack.decode(model, min(CHUNK, count - first)).astype(np.uint8))
        if stack.get_compressed().tolist() != [SEAL]:
            raise ValueError(f"the stream of its {name} does not end where it began")


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Whole numbers from 1 to :data:`MOST` that add up to :data:`TOTAL`, in proportion to ``counts [n]`` as near as may be.

    >>> frequencies(np.array([3, 1])).tolist(), frequencies(np.array([0, 9, 0])).tolist()
    ([12582912, 4194304], [65536, 16646144, 65536])
    """
    free = TOTAL - len(counts)
    shares = 1 + counts.astype(np.int64) * free // max(1, int(counts.sum()))
    first = int(shares.argmax())
    shares[first] = min(shares[first] + TOTAL - int(shares.sum()), MOST)
    others = np.arange(len(counts)) != first
    left = TOTAL - int(shares.sum())
    shares[others] += left // (len(counts) - 1)
    shares[int(others.argmax())] += left % (len(counts) - 1)
    return shares


def _model(library: Any, shares: np.ndarray) -> Any:
    """A model that gives every symbol exactly its share of 2^24.

    constriction spreads 2^24 less the number of symbols in proportion to what it is given, rounded down, and adds one to
    each. Of shares that are one less than what is wanted all its steps are exact.
    """
    return library.stream.model.Categorical((shares - 1).astype(np.float32), perfect=False)


def _library() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise MissingLibraryError(
            "the coder 'ans' needs the library constriction, which is not installed. Install it (pip install "
            "'prunus[ans]'), or pack with --coder huffman."
        ) from error
    return constriction
