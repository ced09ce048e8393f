"""What shared weights take behind each stage of Deep Compression, as the tables of the paper have it (arXiv:1510.00149)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..coders.ans import ANS
from ..coders.fixed import Fixed
from ..coders.huffman import Huffman
from ..core.coder import Coder
from .packed import PackedWeight

CODED: dict[str, Coder] = {"shared": Fixed(), "huffman": Huffman(), "ans": ANS()}
"""The stages behind pruning, and the coder of each."""


@dataclass(frozen=True)
class Stages:
    """Bits and bytes of a layer, or of several together, by stage: ``pruned`` (survivors in fp32 and their positions),
    ``shared`` (codes, positions, codebook), then ``huffman`` or ``ans``, all tables included.

    ``stored`` are the values that are stored of ``weights``: the ``kept`` ones, and zeros where the positions need some.
    ``code_bits`` and ``position_bits`` are for each of these; ``ratios`` are dense fp32 bytes ÷ ``nbytes``. Bytes of the
    coder that was used are those in the file, the others those of arithmetic.
    """

    weights: int
    kept: int
    stored: int
    code_bits: dict[str, float]
    position_bits: dict[str, float]
    nbytes: dict[str, int]
    ratios: dict[str, float]

    @classmethod
    def of(cls, packed: PackedWeight, kept: int) -> Stages:
        """Those of a layer whose weights are shared, of which ``kept`` are not zero."""
        weights, positions = packed.rows * packed.cols, packed.position_bits(Fixed())
        nbytes = {"pruned": -(-(32 * packed.count + int(positions)) // 8)}
        nbytes |= {
            stage: packed.nbytes if coder == packed.coder else round(packed.planned_bytes_by(coder))
            for stage, coder in CODED.items()
        }
        each = max(1, packed.count)
        return cls(
            weights, kept, packed.count,
            {stage: coder.planned_bits(packed.code_counts) / each for stage, coder in CODED.items()},
            {stage: packed.position_bits(coder) / each for stage, coder in CODED.items()},
            nbytes, _ratios(weights, nbytes),
        )  # fmt: skip

    @classmethod
    def together(cls, layers: Sequence[Stages]) -> Stages:
        """Those of several layers: sums, and bits a value on the whole."""
        weights, kept, stored = (sum(getattr(one, name) for one in layers) for name in ("weights", "kept", "stored"))
        nbytes = {stage: sum(one.nbytes[stage] for one in layers) for stage in layers[0].nbytes}
        codes, positions = (
            {stage: sum(getattr(one, name)[stage] * one.stored for one in layers) / max(1, stored) for stage in CODED}
            for name in ("code_bits", "position_bits")
        )
        return cls(weights, kept, stored, codes, positions, nbytes, _ratios(weights, nbytes))


def _ratios(weights: int, nbytes: dict[str, int]) -> dict[str, float]:
    """How many times smaller than fp32."""
    return {stage: 4 * weights / max(1, size) for stage, size in nbytes.items()}
