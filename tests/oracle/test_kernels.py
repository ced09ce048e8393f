"""Every kernel of every instruction set here against dense, on odd shapes, empty rows and matrices of zeros."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunus.core.storage import StorageFormat
from prunus.runtime.arranged import arrange
from prunus.runtime.library import Kernels, kernels
from prunus.runtime.linear import PackedLinear
from prunus.storage.bitmask import Bitmask
from prunus.storage.columns import Columns
from prunus.storage.dense import Dense
from prunus.storage.nm import NMStorage
from prunus.storage.packed import PackedWeight
from prunus.storage.values import Values

SHAPES = ((1, 4), (3, 64), (37, 100), (64, 576), (129, 1028), (5, 2500), (7, 384), (2, 5120))
BATCHES = (1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 64, 70, 131)
CASES: list[tuple[StorageFormat, Values]] = [
    (Bitmask(), Values("float32")),
    (Bitmask(), Values("bfloat16")),
    (Bitmask(), Values("float16")),
    (Bitmask(), Values("int8")),
    (Bitmask(), Values("int4")),
    (NMStorage(), Values("float32")),
    (NMStorage(), Values("int8")),
    (NMStorage(), Values("int4")),
    (NMStorage(1, 4), Values("int8")),
    (Columns(), Values("float32")),
    (Columns(), Values("bfloat16")),
    (Dense(), Values("bfloat16")),
    (Dense(), Values("int8")),
    (Dense(), Values("int4")),
]


def levels() -> list[Kernels]:
    found = kernels()
    assert found is not None, "no kernels: CI has a compiler"
    return found.levels()


def weight(rows: int, cols: int, storage: StorageFormat, kind: str = "random") -> Tensor:
    generator = torch.Generator().manual_seed(rows * 10007 + cols)
    dense = torch.randn(rows, cols, generator=generator)
    if kind == "zero":
        return torch.zeros(rows, cols)
    if isinstance(storage, NMStorage):
        scores = torch.rand(rows, cols // storage.m, storage.m, generator=generator)
        keep = torch.zeros_like(scores, dtype=torch.bool).scatter_(2, scores.topk(storage.n, -1).indices, True).flatten(1)
    elif isinstance(storage, Dense):
        keep = torch.ones(rows, cols, dtype=torch.bool)
    else:
        keep = torch.rand(rows, cols, generator=generator) < (0.04 if isinstance(storage, Columns) else 0.5)
    if kind == "rows":  # some empty, some full
        keep[::3] = False
        keep[1::3] |= not isinstance(storage, NMStorage)
    return dense * keep


def rounded(x: Tensor) -> Tensor:
    """Activations as the kernels round them: 8 bits, a scale for 64 columns."""
    blocks = torch.nn.functional.pad(x, (0, -x.shape[1] % 64)).unflatten(1, (-1, 64))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return ((blocks / scale.clamp_min(1e-30)).round() * scale).flatten(1)[:, : x.shape[1]]


@pytest.mark.parametrize(("storage", "values"), CASES, ids=lambda case: str(case))
@pytest.mark.parametrize("kind", ["random", "rows", "zero"])
def test_kernels_equal_dense(storage: StorageFormat, values: Values, kind: str) -> None:
    for rows, cols in SHAPES:
        for group in (0, 64, 128, 192, 512) if values.coded else (0,):
            if group and cols % group:
                continue
            packed = PackedWeight.of(weight(rows, cols, storage, kind), storage, Values(values.kind, group))
            dense, arranged = packed.unpack().float(), arrange(packed)
            assert arranged is not None
            for level in levels():
                assert torch.equal(level.decode(arranged.matrix, 0, rows), dense), level.name
                linear = PackedLinear(arranged, None, level)
                for batch in BATCHES:
                    x = torch.randn(batch, cols, generator=torch.Generator().manual_seed(batch))
                    seen = rounded(x) if values.coded else x
                    wanted = seen.double() @ dense.double().T
                    most = seen.double().abs().sum(1, keepdim=True) * dense.double().abs().amax(1)
                    off = ((linear(x) - wanted).abs() / most.clamp_min(1e-30)).max()  # what is all zero is so exactly
                    assert off < (2e-5 if values.coded else 1e-6), (level.name, rows, cols, batch, group)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e-4, 3e3])
def test_scales_are_read_in_the_16_bits_of_the_checkpoint(dtype: torch.dtype, size: float) -> None:
    """float16 ones that are subnormal (of weights about 1e-4, scales are about 3e-6) among them."""
    for storage, values in (case for case in CASES if case[1].scaled):
        for cols, group in ((1088, 0), (1088, 64), (128, 64)):
            packed = PackedWeight.of((weight(9, cols, storage) * size).to(dtype), storage, Values(values.kind, group))
            dense = torch.zeros(9, cols)
            dense[packed.held] = packed.codes.float()
            dense.unflatten(1, (packed.scales.shape[1], -1)).mul_(packed.scales.float().unsqueeze(-1))
            arranged = arrange(packed)
            assert arranged is not None
            x = torch.randn(11, cols, generator=torch.Generator().manual_seed(0))
            wanted = rounded(x).double() @ dense.double().T
            for level in levels():
                assert torch.equal(level.decode(arranged.matrix, 0, 9), dense), level.name
                for batch in (1, 4, 11):
                    off = (PackedLinear(arranged, None, level)(x[:batch]) - wanted[:batch]).abs().max()
                    assert off < 2e-5 * cols * dense.abs().max(), (level.name, storage, values, cols, group)


def test_rows_are_unpacked_from_the_middle() -> None:
    packed = PackedWeight.of(weight(37, 100, Bitmask()), Bitmask(), Values("float32"))
    arranged = arrange(packed)
    assert arranged is not None
    for level in levels():
        assert torch.equal(level.decode(arranged.matrix, 11, 9), packed.unpack()[11:20])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_comes_out_as_none(bad: float) -> None:
    for storage, values in CASES:
        packed = PackedWeight.of(weight(8, 64, storage), storage, values)
        arranged = arrange(packed)
        assert arranged is not None
        x = torch.ones(1, 64)
        x[0, 5] = bad
        touched = packed.unpack()[:, 5] != 0
        for level in levels():
            assert not torch.isfinite(PackedLinear(arranged, None, level)(x))[0, touched].any()


def test_groups_that_no_kernel_has_are_left_to_torch() -> None:
    assert arrange(PackedWeight.of(weight(4, 96, Dense()), Dense(), Values("int8", 32))) is None


def test_tokens_of_any_shape_and_dtype() -> None:
    packed = PackedWeight.of(weight(37, 100, Bitmask()), Bitmask(), Values("bfloat16"))
    arranged = arrange(packed)
    assert arranged is not None
    bias = torch.randn(37)
    linear = PackedLinear(arranged, bias, levels()[-1])
    x = torch.randn(2, 3, 100, dtype=torch.bfloat16)
    wanted = torch.nn.functional.linear(x.float(), packed.unpack().float(), bias)
    torch.testing.assert_close(linear(x), wanted.bfloat16())
    assert linear(x[:, :0]).shape == (2, 0, 37)
    torch.testing.assert_close(linear(x.float().transpose(0, 1)), wanted.transpose(0, 1))
    with pytest.raises(ValueError, match="a layer of 100 inputs"):
        linear(x[..., :99])
