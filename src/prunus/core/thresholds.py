"""Thresholds of activations: which entries of a layer's input count as zero, whatever token is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class InputThreshold:
    """One input of a block: entries of at most ``threshold`` in magnitude count as zero.

    ``layers`` are those that read it, by their paths in the model, with their shapes (rows, cols); ``level`` the share of
    entries that lay below on the calibration text, ``nbytes`` what the layers' weights take as they are stored.
    """

    layers: Mapping[str, tuple[int, int]]
    level: float
    threshold: float
    nbytes: int

    @property
    def name(self) -> str:
        """The first of the layers stands for them all."""
        return next(iter(self.layers))


@dataclass(frozen=True)
class Thresholds:
    """All inputs of a model, found at ``dense_tokens`` tokens that every text begins with unchanged.

    ``fingerprint`` is the checkpoint's they were found for.
    """

    fingerprint: str
    dense_tokens: int
    inputs: tuple[InputThreshold, ...]

    @property
    def nbytes(self) -> int:
        """What the weights of all layers take."""
        return sum(one.nbytes for one in self.inputs)


@dataclass(frozen=True)
class Skipped:
    """How much of the input of some ``layers`` counted as zero on some text, as a share of its entries."""

    layers: tuple[str, ...]
    level: float
    sparsity: float


@dataclass(frozen=True)
class ActivationUse:
    """What thresholds came to on some text.

    ``sparsity`` is the share of entries that counted as zero, inputs weighted by the bytes of the layers that read them;
    ``weight_bytes`` what the weights of these layers take as they are stored, ``bytes_not_read`` what of them a token could
    leave unread. The first ``dense_tokens`` of every window are left as they are and not counted.
    """

    file: str
    dense_tokens: int
    sparsity: float
    weight_bytes: int
    bytes_not_read: int
    inputs: tuple[Skipped, ...]
