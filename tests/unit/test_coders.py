"""Symbols come back from every coder, in as few bytes as arithmetic says, and what was damaged is refused."""

from __future__ import annotations

import heapq
import itertools
import math
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.coders.ans import ANS, MOST, SEAL, TOTAL, frequencies
from prunus.coders.fixed import Fixed
from prunus.coders.huffman import BATCH, LONGEST, Huffman, code_lengths
from prunus.core import registry
from prunus.core.coder import CHUNK
from prunus.core.errors import MissingLibraryError

CODERS = [Fixed(), Huffman(), ANS()]


def drawn(count: int, bits: int, skew: float, seed: int) -> Tensor:
    """Symbols of which the first are more frequent: the share of each is ``skew`` of the one before."""
    generator = torch.Generator().manual_seed(seed)
    shares = skew ** torch.arange(1 << bits, dtype=torch.float64)
    return torch.multinomial(shares, count, replacement=True, generator=generator).to(torch.uint8)


def back(coder, parts: dict[str, Tensor], count: int, bits: int) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.uint8), *coder.read("codes", parts, count, bits)])


def entropy(symbols: Tensor) -> float:
    shares = torch.bincount(symbols).double() / len(symbols)
    return -float((shares[shares > 0] * shares[shares > 0].log2()).sum())


@given(st.integers(1, 8), st.one_of(st.integers(0, 40), st.integers(BATCH - 2, 2 * BATCH + 2)),
       st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.integers(0, 99))  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_symbols_come_back(bits: int, count: int, skew: float, seed: int) -> None:
    symbols = drawn(max(count, 1), bits, skew, seed)[:count]
    for coder in CODERS:
        parts = coder.write("codes", symbols, bits)
        assert sorted(parts) == sorted(coder.parts("codes"))
        assert torch.equal(back(coder, parts, count, bits), symbols)
        size = 8 * sum(part.nbytes for part in parts.values())
        planned = coder.planned_bits(torch.bincount(symbols, minlength=1 << bits))
        assert size - 8 < planned <= size if coder != ANS() else abs(size - planned) <= 32


def test_long_streams_are_read_chunk_by_chunk() -> None:
    symbols = drawn(2 * CHUNK + 12_345, 5, 0.8, 0)
    for coder in CODERS:
        chunks = list(coder.read("codes", coder.write("codes", symbols, 5), len(symbols), 5))
        assert [len(chunk) for chunk in chunks] == [CHUNK, CHUNK, 12_345]
        assert torch.equal(torch.cat(chunks), symbols)


def heap_cost(counts: list[int]) -> int:
    """Bits of Huffman's own code, from a heap: every join of two puts a bit on all that is below."""
    heap, total = [count for count in counts if count], 0
    heapq.heapify(heap)
    if len(heap) == 1:
        return heap[0]
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=256))
@settings(deadline=None, max_examples=60)
def test_a_code_costs_what_huffman_s_does(counts: list[int]) -> None:
    lengths = code_lengths(np.array(counts), 64)
    assert int(np.dot(lengths, counts)) == heap_cost(counts)
    assert all((length > 0) == (count > 0) for length, count in zip(lengths, counts, strict=True))


@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.integers(3, 4))
@settings(deadline=None, max_examples=40)
def test_with_few_bits_it_is_the_best_of_all_prefix_codes(counts: list[int], longest: int) -> None:
    """Every choice of lengths that keeps Kraft's inequality is some prefix code's."""
    best = min(
        sum(length * count for length, count in zip(lengths, counts, strict=True))
        for lengths in itertools.product(range(1, longest + 1), repeat=len(counts))
        if sum(2.0**-length for length in lengths) <= 1
    )
    found = code_lengths(np.array(counts), longest)
    assert int(np.dot(found, counts)) == best
    assert found.max() <= longest


def test_a_code_is_never_longer_than_a_table_has_room_for() -> None:
    """Counts of Fibonacci want a code as long as there are symbols."""
    fibonacci = [1, 1]
    while len(fibonacci) < 26:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert code_lengths(np.array(fibonacci), 64).max() == 25
    lengths = code_lengths(np.array(fibonacci), LONGEST)
    assert lengths.max() == LONGEST
    assert (0.5**lengths).sum() == 1
    symbols = torch.arange(26, dtype=torch.uint8).repeat_interleave(torch.tensor(fibonacci))
    symbols = symbols[torch.randperm(len(symbols))]
    assert torch.equal(back(Huffman(), Huffman().write("codes", symbols, 5), len(symbols), 5), symbols)


@pytest.mark.parametrize(("bits", "skew"), [(5, 0.8), (4, 0.99), (8, 0.97), (2, 0.1), (1, 0.02)])
def test_on_long_streams_ans_is_at_the_entropy_and_huffman_s_batches_cost_little(bits: int, skew: float) -> None:
    symbols = drawn(400_000, bits, skew, 0)
    least = entropy(symbols) * len(symbols)
    parts = ANS().write("codes", symbols, bits)
    assert least <= 8 * parts["codes"].nbytes <= 1.005 * least + 64
    coded = Huffman().write("codes", symbols, bits)
    assert coded["codes_sizes"].nbytes < 0.01 * coded["codes"].nbytes
    assert least <= 8 * coded["codes"].nbytes < least + len(symbols)


def decoded_by_hand(parts: dict[str, Tensor], count: int) -> list[int]:
    """A stream of numeral systems read as docs/packed-format.md says, in whole numbers of Python."""
    shares = parts["codes_frequencies"].tolist()
    starts = [0, *itertools.accumulate(shares)]
    words = np.frombuffer(parts["codes"].numpy().tobytes(), "<u4").tolist()
    state, found = 0, []
    while words and state < 1 << 32:
        state = state << 32 | words.pop()
    for _ in range(count):
        place = state % TOTAL
        symbol = next(number for number, end in enumerate(starts[1:]) if place < end)
        found.append(symbol)
        state = state // TOTAL * shares[symbol] + place - starts[symbol]
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
    assert (state, words) == (SEAL, [])
    return found


@pytest.mark.parametrize(("bits", "skew"), [(5, 0.8), (8, 0.99), (3, 0.0), (1, 0.5)])
def test_whole_numbers_alone_read_what_ans_writes(bits: int, skew: float) -> None:
    symbols = drawn(3000, bits, skew, 1)
    assert decoded_by_hand(ANS().write("codes", symbols, bits), 3000) == symbols.tolist()


def read_by_hand(parts: dict[str, Tensor], count: int) -> list[int]:
    """A prefix code read bit by bit: codes in the order of their lengths, those of one length in that of the symbols."""
    lengths = parts["codes_lengths"].tolist()
    code, before, symbols = 0, 0, {}
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - before
        symbols[length, code], before, code = symbol, length, code + 1
    bits = iter(np.unpackbits(parts["codes"].numpy(), bitorder="little").tolist())
    found: list[int] = []
    while len(found) < count:
        word, length = 0, 0
        while (length, word) not in symbols:
            word, length = word << 1 | next(bits), length + 1
        found.append(symbols[length, word])
    return found


@pytest.mark.parametrize(("bits", "skew"), [(5, 0.8), (8, 0.9), (3, 0.0)])
def test_bit_by_bit_a_prefix_code_reads_the_same(bits: int, skew: float) -> None:
    symbols = drawn(5000, bits, skew, 1)
    assert read_by_hand(Huffman().write("codes", symbols, bits), 5000) == symbols.tolist()


@given(st.lists(st.integers(0, 1 << 38), min_size=2, max_size=256))
@settings(deadline=None, max_examples=60)
def test_frequencies_are_whole_and_complete(counts: list[int]) -> None:
    shares = frequencies(np.array(counts))
    assert shares.sum() == TOTAL
    assert 1 <= shares.min() <= shares.max() <= MOST
    whole = sum(counts)
    for count, share in zip(counts, shares, strict=True):
        if whole and count < 0.99 * whole:
            assert abs(share / TOTAL - count / whole) < 0.02


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever is changed, what comes out is an error in words, or as many symbols as were asked for."""
    coder = data.draw(st.sampled_from(CODERS))
    bits, count = data.draw(st.sampled_from([2, 5, 8])), 3000
    parts = {name: part.clone() for name, part in coder.write("codes", drawn(count, bits, 0.8, 0), bits).items()}
    name = data.draw(st.sampled_from(sorted(parts)))
    kind = data.draw(st.sampled_from(["flip", "cut", "drop", "dtype", "count", "noise"]))
    if kind == "flip":
        view = parts[name].view(torch.uint8)
        view[data.draw(st.integers(0, view.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        parts[name] = parts[name][: data.draw(st.integers(0, len(parts[name]) - 1))]
    elif kind == "drop":
        del parts[name]
    elif kind == "dtype":
        parts[name] = parts[name].to(torch.float64)
    elif kind == "count":
        count = data.draw(st.sampled_from([0, 1, 2999, 3001, 1 << 20, 1 << 40, 1 << 62]))
    else:
        parts[name] = torch.randint(0, 100, parts[name].shape).to(parts[name].dtype)
    with suppress(ValueError):
        assert sum(len(chunk) for chunk in coder.read("codes", parts, count, bits)) == count


@pytest.mark.parametrize("coder", [Huffman(), ANS()])
def test_a_stream_that_was_cut_is_refused(coder) -> None:
    parts = coder.write("codes", drawn(4000, 5, 0.8, 0), 5)
    for length in range(0, parts["codes"].numel(), 97):
        with pytest.raises(ValueError, match="its codes|of its codes"):
            back(coder, {**parts, "codes": parts["codes"][:length]}, 4000, 5)


def test_numeral_systems_show_every_flipped_bit_by_themselves() -> None:
    """A prefix code may find its step again behind a flipped bit; here what is left at the end is never the seal."""
    parts = ANS().write("codes", drawn(4000, 5, 0.8, 0), 5)
    for place in torch.randint(0, 8 * parts["codes"].numel(), (300,)).tolist():
        broken = parts["codes"].clone()
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="its codes"):
            back(ANS(), {**parts, "codes": broken}, 4000, 5)


def test_few_bytes_cannot_be_many_symbols() -> None:
    parts = ANS().write("codes", torch.zeros(1000, dtype=torch.uint8), 5)
    with pytest.raises(ValueError, match="too many for"):
        next(ANS().read("codes", parts, 1 << 40, 5))
    assert 1000 * math.log2(TOTAL / MOST) < 8 * parts["codes"].nbytes < 1000 * math.log2(TOTAL / MOST) + 64


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ANS().write("codes", torch.zeros(10, dtype=torch.uint8), 2)
    monkeypatch.setitem(sys.modules, "constriction", None)
    for work in (ANS().require, lambda: ANS().write("codes", torch.zeros(1, dtype=torch.uint8), 2),
                 lambda: list(ANS().read("codes", parts, 10, 2))):  # fmt: skip
        with pytest.raises(MissingLibraryError, match=r"pip install 'prunus\[ans\]'"):
            work()
    assert ANS().planned_bits(torch.tensor([3, 4])) > 0  # arithmetic needs none


def test_every_coder_is_registered() -> None:
    assert set(registry.coder.entries()) == {"fixed", "huffman", "ans"}
