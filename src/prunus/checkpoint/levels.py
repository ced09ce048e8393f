"""Scales and zeros of quantised weights, beside the weights themselves: ``grid.prunus`` in a checkpoint's folder.

The checkpoint holds plain weights, scale · (code − zero), which any engine reads; with this file the codes can be had back
exactly. It is a safetensors file, but is not called one: engines take every ``*.safetensors`` in a folder for the model's.
A block's levels are written before the block is marked as done, and gathered when the run ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..core.errors import CheckpointError
from .safetensors_file import write_file

FILE = "grid.prunus"


def keep_levels(folder: Path, index: int, levels: Mapping[str, Tensor]) -> None:
    """Write the levels of a finished block; ``levels`` are named ``PARAMETER.scales`` and ``PARAMETER.zeros``."""
    path = folder / f"levels-{index:05d}.safetensors"
    write_file(path.with_suffix(".new"), levels)
    path.with_suffix(".new").replace(path)


def gather_levels(folder: Path, output: Path, grid: Mapping[str, Any]) -> None:
    """Put all blocks' levels into one file in ``output``, with what the ``grid`` is."""
    levels: dict[str, Tensor] = {}
    for path in sorted(folder.glob("levels-?????.safetensors")):
        levels |= load_file(path)
    write_file(output / FILE, levels, {"grid": json.dumps(dict(grid))})


@dataclass(frozen=True)
class StoredLevels:
    """Levels in a checkpoint's folder: ``scales [batch rows groups]`` by parameter, and ``zeros`` where there are any."""

    grid: dict[str, Any]
    scales: dict[str, Tensor]
    zeros: dict[str, Tensor]

    @classmethod
    def open(cls, folder: Path) -> StoredLevels:
        """Read them.

        Raises:
            CheckpointError: if there are none, or the file is not prunus's.
        """
        path = folder / FILE
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: no {FILE} there, so its weights lie on no grid that is known. Prune the model with a grid "
                "first (--grid int:bits=4,group=64; with --sparsity 0 it is only quantised)."
            )
        try:
            with safe_open(path, "pt") as file:
                grid = json.loads((file.metadata() or {})["grid"])
            tensors = load_file(path)
        except Exception as error:  # safetensors' own is no public class
            raise CheckpointError(f"{path}: cannot be read ({error}). Prune the model anew.") from error
        if not isinstance(grid, dict) or not {"name", "bits", "group", "symmetric"} <= grid.keys():
            raise CheckpointError(f"{path}: does not say what its grid is ({str(grid)[:60]}). Prune the model anew.")
        parts = (
            {name.removesuffix(end): t for name, t in tensors.items() if name.endswith(end)}
            for end in (".scales", ".zeros")
        )
        return cls(grid, *parts)

    def codes(self, parameter: str, weight: Tensor) -> Tensor:
        """The whole numbers ``[batch rows cols]``, in fp32, that a weight of the same shape stands for.

        Raises:
            CheckpointError: if it does not lie on the grid.
        """
        for levels in (held[parameter] for held in (self.scales, self.zeros) if parameter in held):
            if levels.shape[:-1] != weight.shape[:-1] or not levels.numel() or weight.shape[-1] % levels.shape[-1]:
                shapes = f"{list(levels.shape)} of them for weights {list(weight.shape)}"
                raise CheckpointError(f"{parameter}: scales in {FILE} do not fit, {shapes}. Prune the model anew.")
        scales = self._wide(self.scales[parameter], weight)
        zeros = self._wide(self.zeros[parameter], weight) if parameter in self.zeros else torch.zeros(())
        codes = (weight.float() / scales).round_() + zeros
        if not torch.equal(((codes - zeros) * scales).to(weight.dtype), weight):
            raise CheckpointError(f"{parameter}: its weights are not those that {FILE} belongs to. Prune the model anew.")
        return codes

    @staticmethod
    def _wide(levels: Tensor, weight: Tensor) -> Tensor:
        """``levels [batch rows groups]`` for every column of the weight."""
        return levels.float().repeat_interleave(weight.shape[-1] // levels.shape[-1], dim=-1)
