"""What an export gives back: what was written, and what its reader made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import NumericalError, ProofError
from ..core.progress import Progress
from ..measure.quality import Divergence


@dataclass(frozen=True)
class Check:
    """What was written, loaded by ``reader`` and run on ``tokens`` real tokens, beside the model in fp32.

    ``largest`` is the largest difference of two logits, ``scale`` the largest logit of the model, ``kl`` the mean
    KL(model ‖ written) a token in nats, ``agreement`` the fraction of tokens of which both think the same likeliest.
    ``rounding`` is the largest error of a weight, as a part of what the format's rounding may do to it (at most 1; 0: no
    weight was rounded).
    """

    reader: str
    tokens: int
    largest: float
    scale: float
    kl: float
    agreement: float
    rounding: float = 0.0


@dataclass(frozen=True)
class Written:
    """A finished export: its layout in words, bytes of the tensors before and after, and what a person should know of it.

    ``layers`` counts those whose weights were packed or rounded.
    """

    layout: str
    layers: int
    plain_bytes: int
    packed_bytes: int
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What is to be exported: a checkpoint's ``folder``, in which ``dtype`` (``auto``: the stored one)."""

    folder: Path
    dtype: str = "auto"
    trust_remote_code: bool = False


Writer = Callable[[Request, Path, Progress], Written]
"""Writes the files of one format into an empty folder, loads them and compares."""


def compared(reader: str, wanted: Tensor, found: Tensor, tolerance: float | None, rounding: float = 0.0) -> Check:
    """How far what was written is from the model: logits ``[windows tokens vocabulary]`` of both on the same ids.

    ``tolerance`` is the largest difference allowed, as a part of the largest logit; None where rounded weights explain it.

    Raises:
        NumericalError: if the model's own logits are not finite.
        ProofError: if they differ by more, in shape, or are not finite.
    """
    if not bool(torch.isfinite(wanted).all()):
        raise NumericalError(
            "the model's own logits hold NaN or Inf: its weights are damaged, there is nothing to compare."
        )
    if wanted.shape != found.shape:
        raise ProofError(f"{reader} gives logits of {list(found.shape)}, the model {list(wanted.shape)}. Please report it.")
    largest, scale = float((wanted - found).abs().max()), float(wanted.abs().max())
    if not math.isfinite(largest) or (tolerance is not None and largest > tolerance * scale):
        raise ProofError(
            f"{reader} computes other logits than the model: they differ by {largest:.3g}, where "
            f"{(tolerance or 0) * scale:.3g} would be rounding. Nothing was written. Please report it."
        )
    apart = Divergence()
    apart.add(wanted, found)
    return Check(reader, wanted[..., 0].numel(), largest, scale, apart.kl, apart.agreement, rounding)
