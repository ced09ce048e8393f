"""Shared weights and gaps: k-means against the definition, fillers where they belong, sizes by arithmetic."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from matrices import pairs, same_bytes, sparse
from prunus.coders.ans import ANS
from prunus.coders.fixed import Fixed
from prunus.coders.huffman import Huffman
from prunus.core.coder import CHUNK, Coder
from prunus.storage.bitmask import Bitmask
from prunus.storage.codebook import nearest, shared_values
from prunus.storage.dense import Dense
from prunus.storage.gaps import Gaps, gap_counts, run_counts
from prunus.storage.nm import NMStorage
from prunus.storage.packed import PackedWeight, smallest_storage
from prunus.storage.stages import CODED, Stages
from prunus.storage.values import SHARED, Values


def lloyd(weights: Tensor, centroids: Tensor, steps: int = 1000) -> Tensor:
    """k-means as it is written down: every weight to the nearest centroid, every centroid to the mean of its weights."""
    for _ in range(steps):
        owner = (weights.double()[:, None] - centroids).abs().argmin(1)
        moved = torch.stack([
            weights[owner == k].double().mean() if (owner == k).any() else centroids[k] for k in range(len(centroids))
        ])  # fmt: skip
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids[owner.unique()]


def equal_steps(weights: Tensor, count: int) -> Tensor:
    return torch.linspace(float(weights.min()), float(weights.max()), count, dtype=torch.float64)


def squared_error(weights: Tensor, values: Tensor) -> float:
    return float((weights.double()[:, None] - values.double()).abs().min(1).values.square().sum())


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_centroids_are_those_of_k_means_and_no_worse_than_from_equal_steps(bits: int) -> None:
    weights = torch.randn(3000) * 0.05
    found = shared_values(weights, 1 << bits)
    torch.testing.assert_close(lloyd(weights, found.double(), steps=1), found.double(), rtol=1e-5, atol=1e-7)
    linear = lloyd(weights, equal_steps(weights, 1 << bits))
    assert squared_error(weights, found) <= squared_error(weights, linear) * (1 + 1e-9)


def test_each_beginning_is_taken_where_it_ends_better() -> None:
    """Lumps of few values each want equal steps; a few weights far out, as language models have, the density."""
    lumps = torch.cat([torch.randn(n) * 0.01 + x for n, x in ((5000, -1.0), (5, -1 / 3), (5000, 1 / 3), (5, 1.0))])
    torch.testing.assert_close(shared_values(lumps, 4).double(), lloyd(lumps, equal_steps(lumps, 4)), rtol=1e-5, atol=1e-7)
    tailed = torch.distributions.StudentT(3.0).sample((20_000,))
    linear = lloyd(tailed, equal_steps(tailed, 16))
    assert squared_error(tailed, shared_values(tailed, 16)) < 0.8 * squared_error(tailed, linear)


@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 99), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(deadline=None, max_examples=60)
def test_each_weight_has_the_value_nearest_to_it(most: int, count: int, seed: int, dtype: torch.dtype) -> None:
    weights = torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(dtype)
    found = shared_values(weights, most)
    assert 1 <= len(found) <= most
    assert (found.diff() > 0).all()
    given_, best = found[nearest(weights, found).long()].double(), (weights.double()[:, None] - found.double()).abs()
    torch.testing.assert_close((weights.double() - given_).abs(), best.min(1).values)
    assert len(nearest(weights, found).unique()) == len(found)  # none is left without weights


@given(st.tuples(st.integers(1, 9), st.integers(1, 21)), st.sampled_from([0.0, 0.1, 0.6, 1.0]),
       st.sampled_from(["shared2", "shared5", "shared8"]), st.integers(0, 99))  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_what_has_few_values_comes_back_and_what_has_many_keeps_its_zeros(shape, density, kind, seed) -> None:
    few = torch.randn((1 << SHARED[kind]) - 1, generator=torch.Generator().manual_seed(seed))
    weight = sparse(*shape, density, seed).abs()
    tuned = torch.where(weight != 0, few[(weight * 1e6).long() % len(few)], torch.zeros(()))
    for storage, coder in itertools.product((Bitmask(), Gaps(1), Gaps(), Dense()), (Fixed(), Huffman(), ANS())):
        packed = PackedWeight.of(tuned, storage, Values(kind), coder=coder)
        assert same_bytes(PackedWeight.from_parts(packed.about(), packed.parts).unpack(), tuned)
        many = PackedWeight.of(weight, storage, Values(kind), coder=coder).unpack()
        assert torch.equal(many != 0, weight != 0)


def test_zero_has_a_place_in_the_codebook_only_where_zeros_are_stored() -> None:
    weight = torch.where(pairs(8, 64) != 0, torch.randint(1, 5, (8, 64)).float(), torch.zeros(()))
    assert PackedWeight.of(weight, Bitmask(), Values("shared2")).parts["codebook"].tolist() == [1, 2, 3, 4]
    assert PackedWeight.of(weight, Gaps(8), Values("shared2")).parts["codebook"].tolist() == [1, 2, 3, 4]
    for storage in (Gaps(1), Dense()):
        codebook = PackedWeight.of(weight, storage, Values("shared2")).parts["codebook"]
        assert len(codebook) == 4
        assert 0 in codebook
    weight[0, :4] = 0  # 2:4 stores two of them
    assert 0 in PackedWeight.of(weight, NMStorage(), Values("shared3")).parts["codebook"]


def test_values_of_narrow_weights_are_such_as_they_can_hold() -> None:
    weight = sparse(16, 64, 0.5, 0, torch.bfloat16)
    packed = PackedWeight.of(weight, Bitmask(), Values("shared3"))
    codebook = packed.parts["codebook"]
    assert codebook.dtype == torch.float32
    assert torch.equal(codebook, codebook.bfloat16().float())
    again = PackedWeight.of(packed.unpack(), Bitmask(), Values("shared3"))
    assert torch.equal(again.parts["codebook"], codebook)


def plain_gaps(keep: Tensor, bits: int) -> tuple[list[bool], list[int]]:
    """Fillers and gaps, weight by weight."""
    held, gaps, run = [], [], 0
    for kept in keep.flatten().tolist():
        stored = kept or run == (1 << bits) - 1
        held.append(stored)
        if stored:
            gaps.append(run)
        run = 0 if stored else run + 1
    return held, gaps


@given(st.tuples(st.integers(1, 9), st.integers(1, 90)), st.sampled_from([0.0, 0.02, 0.3, 1.0]), st.integers(1, 8),
       st.integers(0, 99))  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_gaps_and_fillers_are_those_of_the_definition(shape, density: float, bits: int, seed: int) -> None:
    keep = sparse(*shape, density, seed) != 0
    storage, (held, gaps) = Gaps(bits), plain_gaps(keep, bits)
    assert storage.holds(keep).flatten().tolist() == held
    parts = storage.write(storage.holds(keep))
    assert parts["gaps"].tolist() == gaps
    assert torch.equal(storage.read(parts, *shape), storage.holds(keep))
    counts = gap_counts(*run_counts(keep), bits)
    assert counts.tolist() == torch.bincount(parts["gaps"], minlength=1 << bits).tolist()


@pytest.mark.parametrize("coder", [Fixed(), Huffman(), ANS()])
@pytest.mark.parametrize("density", [0.5, 0.2, 0.03])
def test_the_bits_of_a_gap_are_those_of_the_fewest_bytes(coder: Coder, density: float) -> None:
    weight = sparse(128, 1024, density, 0).abs()
    for values in (Values("float32"), Values("shared4")):
        chosen = PackedWeight.of(weight, Gaps(), values, coder=coder)
        sizes = [PackedWeight.of(weight, Gaps(bits), values, coder=coder).nbytes for bits in range(1, 9)]
        exact = isinstance(coder, Fixed) or not values.coded  # else codes count by their width before they are coded
        assert chosen.nbytes <= min(sizes) + 8 if exact else chosen.nbytes <= 1.05 * min(sizes)
        assert chosen.nbytes == pytest.approx(chosen.planned_bytes, abs=8)


def test_gaps_that_lead_nowhere_are_refused() -> None:
    storage = Gaps(2)
    for gaps in ([3, 3, 3], [0], []):
        with pytest.raises(ValueError, match="lead beyond|end at"):
            storage.read({"gaps": torch.tensor(gaps, dtype=torch.uint8)}, 2, 5)


def test_for_distribution_the_smallest_may_be_gaps() -> None:
    weight = sparse(64, 640, 0.3, 0)
    assert smallest_storage(weight, Values("float32")) == Bitmask()
    assert isinstance(smallest_storage(weight, Values("shared4"), ANS()), Gaps)
    assert smallest_storage(pairs(8, 64), Values("shared4"), Huffman()) == NMStorage(2, 4)


def test_a_large_weight_is_unpacked_in_chunks_to_the_same_bytes() -> None:
    weight = sparse(1024, 2700, 0.6, 0).abs()
    assert int((weight != 0).sum()) > 1.5 * CHUNK
    for storage, coder in ((Gaps(), Huffman()), (Bitmask(), ANS()), (Gaps(), Fixed())):
        packed = PackedWeight.of(weight, storage, Values("float32"), coder=coder)
        assert same_bytes(PackedWeight.from_parts(packed.about(), packed.parts).unpack(), weight)
        shared = PackedWeight.of(weight, storage, Values("shared4"), coder=coder)
        assert shared.planned_bytes == pytest.approx(shared.nbytes, rel=1e-3 if coder == ANS() else 1e-5)
        again = PackedWeight.of(shared.unpack(), storage, Values("shared4"), coder=coder)
        assert all(torch.equal(again.parts[name], part) for name, part in shared.parts.items())


@pytest.mark.parametrize("coder", [Fixed(), Huffman(), ANS()])
def test_stages_are_what_packing_in_each_way_would_take(coder: Coder) -> None:
    weight = sparse(256, 1024, 0.3, 0)
    packed = PackedWeight.of(weight, Gaps(4), Values("shared5"), coder=coder)
    stages = Stages.of(packed, int((weight != 0).sum()))
    assert stages.nbytes["pruned"] == PackedWeight.of(weight.abs(), Gaps(4), Values("float32")).nbytes
    for stage, other in CODED.items():
        size = PackedWeight.of(weight, Gaps(4), Values("shared5"), coder=other).nbytes
        assert stages.nbytes[stage] == size if other == coder else abs(stages.nbytes[stage] - size) <= 8
        parts = stages.stored * (stages.code_bits[stage] + stages.position_bits[stage]) / 8 + 4 * 32
        assert parts == pytest.approx(size, abs=16)
    assert stages.code_bits["shared"] == 5
    assert stages.position_bits["shared"] == 4
    assert list(stages.ratios.values()) == sorted(stages.ratios.values())  # each stage takes less than the one before
    twice = Stages.together([stages, stages])
    assert twice.ratios == stages.ratios
    assert twice.code_bits == pytest.approx(stages.code_bits)
    assert twice.nbytes["ans"] == 2 * stages.nbytes["ans"]


def test_an_empty_matrix_is_packed_or_refused_in_words() -> None:
    weight = torch.zeros(64, 512)
    kinds = ("shared4", "int8", "int4", "bfloat16")
    for coder, kind, storage in itertools.product((Fixed(), Huffman(), ANS()), kinds, (Gaps(), Bitmask(), Dense())):
        packed = PackedWeight.of(weight, storage, Values(kind), coder=coder)
        assert torch.equal(PackedWeight.from_parts(packed.about(), packed.parts).unpack(), weight)
    with pytest.raises(ValueError, match=r"said to be 8192×8192, and it has \d+ bytes"):
        PackedWeight.of(torch.zeros(1, 1).expand(8192, 8192), Gaps(8), Values("shared4"), coder=ANS())
