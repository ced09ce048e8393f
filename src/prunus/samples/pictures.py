"""Pictures of any size as tensors of one size."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import MissingLibraryError

_MARGIN = 256 / 224
"""How much larger than the cut-out a picture is made before its middle is cut out, as is usual on ImageNet."""


def need_pillow(what: str) -> None:
    """Raise MissingLibraryError if Pillow, which decodes pictures, is not installed."""
    if find_spec("PIL") is None:
        raise MissingLibraryError(f"{what} needs Pillow to decode pictures, which is not installed: pip install pillow")


def is_grey(picture: Any) -> bool:
    """Whether a Pillow picture has no colours."""
    return picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;16")


def as_tensor(picture: Any, size: int, grey: bool) -> Tensor:
    """A Pillow picture as ``uint8 [C H W]``: with a ``size`` scaled so that its shorter side is 8/7 of it, then the middle
    cut out; else as large as it is. Of 16 bits the upper are taken.

    Raises:
        ValueError: if its pixels have 32 bits, of which nothing says what white is.
    """
    if picture.mode.startswith("I;16"):
        from PIL import Image

        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; make it one of 8 or 16")
    picture = picture.convert("L" if grey else "RGB")
    if size and picture.size != (size, size):
        width, height = picture.size
        scale = size * _MARGIN / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.resize((width, height), resample=2).crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1).contiguous()
