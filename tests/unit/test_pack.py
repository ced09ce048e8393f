"""Packed weights unpack to the same bytes, take what arithmetic says, and are refused when damaged."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import prunus
from matrices import pairs, same_bytes, sparse
from prunus.coders.ans import ANS
from prunus.coders.fixed import Fixed
from prunus.coders.huffman import Huffman
from prunus.core import registry
from prunus.core.errors import CheckpointError
from prunus.storage.bitmask import Bitmask
from prunus.storage.bits import pack_bits, unpack_bits
from prunus.storage.columns import Columns
from prunus.storage.dense import Dense
from prunus.storage.gaps import Gaps
from prunus.storage.nm import NMStorage
from prunus.storage.packed import PackedWeight, smallest_storage
from prunus.storage.values import FLOATS, Values

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 21))


@given(SHAPES, st.sampled_from([0.0, 0.03, 0.5, 1.0]), st.integers(0, 99), st.sampled_from(list(FLOATS)))
@settings(deadline=None, max_examples=60)
def test_float_weights_unpack_to_the_same_bytes(shape: tuple[int, int], density: float, seed: int, kind: str) -> None:
    weight = sparse(*shape, density, seed, FLOATS[kind])
    some = (Bitmask(), Columns(), Dense(), Gaps(), Gaps(1), Gaps(3), smallest_storage(weight, Values(kind)))
    for storage, coder in zip(some, itertools.cycle([Fixed(), Huffman(), ANS()]), strict=False):
        packed = PackedWeight.of(weight, storage, Values(kind), coder=coder)
        again = PackedWeight.from_parts(packed.about(), packed.parts)
        assert same_bytes(again.unpack(), weight)
        again.check()
        assert same_bytes(again.unpack(), weight)  # also from what was looked through


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (2, 8), (1, 2), (3, 16), (1, 16), (5, 7)])
def test_nm_weights_unpack_to_the_same_bytes_and_need_no_search(n: int, m: int) -> None:
    weight = pairs(5, 3 * m, n, m)
    weight[2] = 0  # a row without survivors holds n a group all the same
    weight[3, :m] = -0.0
    packed = PackedWeight.of(weight, NMStorage(n, m), Values("float32"))
    assert packed.count == 5 * 3 * n
    assert same_bytes(PackedWeight.from_parts(packed.about(), packed.parts).unpack(), weight)
    assert packed.parts["positions"].numel() == 5 * -(-3 * min(m, n * (m - 1).bit_length()) // 8)


def test_special_values_survive() -> None:
    weight = torch.tensor([[float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45, -1.5, 0.0]])
    for storage in (Bitmask(), Columns(), Dense()):
        assert same_bytes(PackedWeight.of(weight, storage, Values("float32")).unpack(), weight)


@pytest.mark.parametrize(("kind", "group"), [("int8", 0), ("int8", 32), ("int4", 0), ("int4", 32)])
def test_codes_are_near_and_exact_on_their_own_grid(kind: str, group: int) -> None:
    weight = pairs(6, 64)
    packed = PackedWeight.of(weight, NMStorage(), Values(kind, group))
    coarse = packed.unpack()
    step = packed.scales.float().repeat_interleave(64 // packed.scales.shape[1], dim=1)
    assert ((coarse - weight).abs() <= (step if kind == "int4" else 0.51 * step) * 1.5).all()
    assert torch.equal(coarse == 0, (coarse == 0) | (weight == 0))
    again = PackedWeight.of(coarse, Bitmask(), Values(kind, group), packed.scales)
    assert torch.equal(PackedWeight.from_parts(again.about(), again.parts).unpack(), coarse)


def test_sizes_are_what_arithmetic_says() -> None:
    weight = pairs(256, 512)
    for storage, values, bits in (
        (Bitmask(), Values("float32"), 1 + 16),
        (Bitmask(), Values("bfloat16"), 1 + 8),
        (NMStorage(), Values("int8"), 1 + 4 + 16 / 512),
        (NMStorage(), Values("int4", 64), 1 + 2 + 16 / 64),
        (Columns(), Values("float32"), 8 + 16 + 32 / 512),
    ):
        packed = PackedWeight.of(weight, storage, values)
        assert packed.nbytes == packed.planned_bytes == bits * 256 * 512 / 8


def test_the_smallest_storage_is_chosen() -> None:
    values = Values("bfloat16")
    assert smallest_storage(pairs(8, 64), values) == NMStorage(2, 4)  # as many bits as a mask, and no row need be searched
    assert smallest_storage(pairs(8, 64, 1, 4), values) == NMStorage(1, 4)
    assert smallest_storage(sparse(8, 64, 0.5, 0), values) == Bitmask()
    assert smallest_storage(sparse(8, 640, 0.01, 0), values) == Columns()
    assert smallest_storage(torch.randn(8, 64), values) == Dense()


@given(st.integers(0, 40), st.integers(0, 99))
@settings(deadline=None)
def test_bits_come_back(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.rand(3, count, generator=generator) < 0.5
    assert torch.equal(unpack_bits(pack_bits(bits), count), bits)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever is changed, what comes out is an error in words or a weight of the right shape, never a crash."""
    names = st.sampled_from([Bitmask(), NMStorage(), NMStorage(1, 4), Columns(), Dense(), Gaps(), Gaps(1)])
    storage = data.draw(names)
    values = data.draw(st.sampled_from([Values("float32"), Values("int8"), Values("int4", 8), Values("shared3")]))
    coder = data.draw(st.sampled_from([Fixed(), Huffman(), ANS()]))
    packed = PackedWeight.of(pairs(4, 16, 1, 4), storage, values, coder=coder)
    about, parts = packed.about(), {name: part.clone() for name, part in packed.parts.items()}
    kind = data.draw(st.sampled_from(["flip", "cut", "shape", "drop", "dtype", "options", "coder", "count"]))
    name = data.draw(st.sampled_from(sorted(parts)))
    if kind == "flip":
        view = parts[name].view(torch.uint8).flatten()
        view[data.draw(st.integers(0, view.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        parts[name] = parts[name][: data.draw(st.integers(0, len(parts[name]) - 1))]
    elif kind == "shape":
        about["shape"] = data.draw(
            st.sampled_from([[0, 16], [-4, 16], [4, 17], [1 << 40, 1 << 40], [16], "x", [8, 8], [4, 1 << 33]])
        )
    elif kind == "drop":
        del parts[name]
    elif kind == "dtype":
        parts[name] = parts[name].to(torch.float64)
    elif kind == "coder":
        about["coder"] = data.draw(st.sampled_from([{"name": "fixed"}, {"name": "huffman"}, {"name": "ans"}, {}, "x"]))
    elif kind == "count":
        about["stored"] = data.draw(st.sampled_from([0, -1, 15, 17, 64, 65, 1 << 60]))
    else:
        about["storage"] = data.draw(
            st.sampled_from(
                [
                    {"name": "nm", "n": 3, "m": 4},
                    {"name": "none"},
                    {},
                    {"name": "nm", "n": 9, "m": 4},
                    None,
                    {"name": "gaps", "bits": 3},
                    {"name": "gaps", "bits": 0},
                    {"name": "gaps", "bits": 9},
                ]
            )
        )
    weight = None
    with suppress(ValueError):
        weight = PackedWeight.from_parts(about, parts).unpack()
    assert weight is None or list(weight.shape) == about["shape"]


def test_every_format_is_registered() -> None:
    assert set(registry.storage.entries()) == {"bitmask", "columns", "dense", "gaps", "nm"}


def test_values_that_their_kind_cannot_hold_are_refused() -> None:
    weight = torch.tensor([[1e6, 0.0, -2.0, 0.0]])
    with pytest.raises(ValueError, match=r"up to 1e\+06, too large for float16"):
        PackedWeight.of(weight, Bitmask(), Values("float16"))
    with pytest.raises(ValueError, match="NaN or Inf"):
        PackedWeight.of(weight / 0, Bitmask(), Values("int8"))


def test_weights_without_a_config_are_packed_and_come_back(tmp_path) -> None:
    """A module's state dict: every matrix and convolution, biases as they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 40))
    prunus.prune(model, method="magnitude", sparsity=0.8)
    (tmp_path / "weights").mkdir()
    save_file(model.state_dict(), tmp_path / "weights" / "model.safetensors")
    found = prunus.pack(tmp_path / "weights", tmp_path / "packed")
    assert {layer.name: layer.shape for layer in found.layers} == {"0.weight": (16, 3, 3, 3), "3.weight": (40, 64)}
    assert found.packed_bytes < found.plain_bytes
    prunus.unpack(tmp_path / "packed", tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "weights/model.safetensors").read_bytes()
    prunus.pack(
        tmp_path / "weights", tmp_path / "packed", storage="gaps", values="shared5", coder="huffman", overwrite=True
    )
    prunus.unpack(tmp_path / "packed", tmp_path / "shared")
    shared = load_file(tmp_path / "shared/model.safetensors")
    assert torch.equal(shared["0.weight"] != 0, model[0].weight != 0)
    assert len(shared["3.weight"].unique()) <= 32
    with pytest.raises(CheckpointError, match="no config"):
        prunus.evaluate(tmp_path / "weights")
