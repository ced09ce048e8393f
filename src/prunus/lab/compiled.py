"""Networks whose forward and backward passes are compiled."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..core.errors import RecipeError


def forget_compiled(device: torch.device) -> None:
    """Forget what was compiled of networks before: past a number of versions torch would carry a network out as it stands
    and say so only in a log.

    Raises:
        RecipeError: if torch cannot compile here, for want of a compiler.
    """
    torch.compiler.reset()
    try:
        torch.compile(_twice)(torch.ones(2, device=device))
    except Exception as error:  # each of torch's backends has errors of its own
        reason = " ".join(str(error).split())
        raise RecipeError([f"compile: torch cannot compile on this machine ({reason[:300]}); leave it out"]) from error


def compiled(model: nn.Module) -> nn.Module:
    """The same network, compiled anew for each of the few shapes of its batches; its parameters are the model's own."""
    return cast(nn.Module, torch.compile(model, dynamic=False))


def _twice(x: Tensor) -> Tensor:
    return x + x
