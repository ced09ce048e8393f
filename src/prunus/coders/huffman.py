"""A prefix code, the shortest there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ..core.coder import CHUNK, Coder
from ..core.registry import coder
from ..core.storage import expect

LONGEST = 15
"""Bits of the longest code."""
BATCH = 2048
"""Symbols of a batch. Batches are decoded side by side: one symbol of each in a step."""


_PIECE = 128 * BATCH
"""Symbols that are written at a time."""


@final
@coder(
    "huffman",
    paper="https://doi.org/10.1109/JRPROC.1952.273898",
    cost="less than a bit a symbol above the entropy",
)
@dataclass(frozen=True)
class Huffman(Coder):
    """Whole bits a symbol, the fewest on the whole, 15 at most; canonical, so that the lengths tell the codes.

    Beside the stream: ``lengths`` uint8 ``[2^bits]``, the bits of every symbol's code (0: it does not occur), and ``sizes``
    int16, the bits of every 2,048 symbols, which let them be decoded side by side: 0.8% of the stream at most.

    >>> parts = Huffman().write("gaps", torch.tensor([0, 0, 0, 2, 0, 1], dtype=torch.uint8), 2)
    >>> parts["gaps_lengths"].tolist(), parts["gaps_sizes"].tolist()
    ([1, 2, 2, 0], [8])
    """

    extra_parts: ClassVar[tuple[str, ...]] = ("lengths", "sizes")

    def planned_bits(self, counts: Tensor) -> float:
        lengths = code_lengths(counts.numpy(), LONGEST)
        batches = -(-int(counts.sum()) // BATCH)
        return int((counts.numpy() * lengths).sum()) + 8 * len(counts) + 16 * batches

    def write(self, name: str, symbols: Tensor, bits: int) -> dict[str, Tensor]:
        lengths = code_lengths(np.bincount(symbols.numpy(), minlength=1 << bits), LONGEST)
        codes = _reversed_codes(lengths)
        pieces, sizes, carried = [], [], np.zeros(0, np.uint8)
        for chunk in symbols.split(_PIECE):
            widths = lengths[chunk.numpy()]
            places = np.cumsum(widths) - widths
            within = np.arange(widths.sum(), dtype=np.int64) - np.repeat(places, widths)
            stream = np.repeat(codes[chunk.numpy()], widths) >> within & 1
            stream = np.concatenate([carried, stream.astype(np.uint8)])
            whole = len(stream) // 8 * 8
            pieces.append(np.packbits(stream[:whole], bitorder="little"))
            carried = stream[whole:]
            sizes.append(np.add.reduceat(widths, np.arange(0, len(widths), BATCH)) if len(widths) else widths)
        pieces.append(np.packbits(carried, bitorder="little"))
        return {
            name: torch.from_numpy(np.concatenate(pieces)),
            f"{name}_lengths": torch.from_numpy(lengths.astype(np.uint8)),
            f"{name}_sizes": torch.from_numpy(np.concatenate(sizes).astype(np.int16)),
        }

    def read(self, name: str, parts: Mapping[str, Tensor], count: int, bits: int) -> Iterator[Tensor]:
        lengths = expect(parts, f"{name}_lengths", torch.uint8, (1 << bits,)).numpy().astype(np.int64)
        batches = -(-count // BATCH)
        sizes = expect(parts, f"{name}_sizes", torch.int16, (batches,)).numpy().astype(np.int64)
        ends = np.cumsum(sizes)
        stream = expect(parts, name, torch.uint8, (-(-int(ends[-1] if batches else 0) // 8),)).numpy()
        symbols_of = np.full(batches, BATCH)
        symbols_of[-1:] = count - BATCH * (batches - 1)
        if not ((symbols_of <= sizes) & (sizes <= LONGEST * symbols_of)).all():
            raise ValueError(f"batches of its {name} have fewer bits than symbols, or more than {LONGEST} for each")
        table = _table(lengths, name) if count else np.zeros(1, np.uint16)
        for first in range(0, batches, CHUNK // BATCH):
            some = slice(first, first + CHUNK // BATCH)
            yield torch.from_numpy(_decoded(stream, table, ends[some] - sizes[some], ends[some], symbols_of[some], name))


def code_lengths(counts: np.ndarray, longest: int) -> np.ndarray:
    """Bits ``[n]`` of an optimal prefix code for symbols that occur so often, none above ``longest``.

    Package-merge (https://doi.org/10.1145/79147.79150): a code of length l is l coins of 2⁻¹ … 2⁻ˡ, each worth the symbol's
    count; the cheapest coins that come to n − 1 are had by pairing those of one size and mixing the pairs with the next.

    >>> code_lengths(np.array([8, 1, 0, 1]), 15).tolist(), code_lengths(np.array([0, 3]), 15).tolist()
    ([1, 2, 0, 2], [0, 1])
    """
    lengths = np.zeros(len(counts), np.int64)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    if len(order) < 2:
        lengths[order] = 1
        return lengths
    leaves = counts[order].astype(np.int64)
    merged, whose = leaves, []
    is_leaf = np.ones(len(leaves), bool)
    for level in range(longest):
        if level:
            pairs = merged[: len(merged) // 2 * 2].reshape(-1, 2).sum(1)
            merged = np.concatenate([leaves, pairs])
            place = np.argsort(merged, kind="stable")
            merged, is_leaf = merged[place], place < len(leaves)
        whose.append(is_leaf)
    taken = 2 * len(leaves) - 2
    for is_leaf in reversed(whose):
        own = int(is_leaf[:taken].sum())
        lengths[order[:own]] += 1
        taken = 2 * (taken - own)
    return lengths


def _reversed_codes(lengths: np.ndarray) -> np.ndarray:
    """Canonical codes ``[n]`` with their first bit lowest: shorter ones first, those of a length in the symbols' order."""
    codes, code, before = np.zeros(len(lengths), np.int64), 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[symbol])
        if length:
            code <<= length - before
            codes[symbol], before = int(f"{code:0{length}b}"[::-1], 2), length
            code += 1
    return codes


def _table(lengths: np.ndarray, name: str) -> np.ndarray:
    """By the next bits of a stream: symbol · 16 + bits of its code; 0 where no code begins so."""
    used = lengths[lengths > 0]
    filled = (1 << LONGEST >> used).sum() if len(used) and used.max() <= LONGEST else 0
    if filled != 1 << LONGEST and used.tolist() != [1]:
        raise ValueError(f"the lengths of its {name} are those of no prefix code")
    widest = int(used.max())
    table, codes = np.zeros(1 << widest, np.uint16), _reversed_codes(lengths)
    for symbol in np.flatnonzero(lengths):
        table[codes[symbol] :: 1 << lengths[symbol]] = symbol << 4 | lengths[symbol]
    return table


def _decoded(stream: np.ndarray, table: np.ndarray, starts: np.ndarray, ends: np.ndarray, counts: np.ndarray,
             name: str) -> np.ndarray:  # fmt: skip
    """The symbols of some batches, which begin and end at these bits and have so many each."""
    base = int(starts[0]) // 8
    some = np.concatenate([stream[base : -(-int(ends[-1]) // 8)], np.zeros(2, np.uint8)]).astype(np.uint32)
    windows = some[:-2] | some[1:-1] << 8 | some[2:] << 16
    places, mask = starts - 8 * base, np.uint32(len(table) - 1)
    found = np.empty((BATCH, len(starts)), np.uint8)
    for step in range(int(counts.max())):
        entries = table.take(windows.take(places >> 3, mode="clip") >> (places & 7).astype(np.uint32) & mask)
        found[step] = entries >> 4
        places += entries & 15 if step < counts[-1] else np.where(counts > step, entries & 15, 0)
    if (places != ends - 8 * base).any():
        raise ValueError(f"codes of its {name} do not end where their batches do")
    if int(ends[-1]) % 8 and -(-int(ends[-1]) // 8) == len(stream) and stream[-1] >> int(ends[-1]) % 8:
        raise ValueError(f"bits are set beyond the last of its {name}")
    return found.T.ravel()[: int(counts.sum())]
