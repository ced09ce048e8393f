"""An outline: what a model cut to certain sizes comes to, checked before anything is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.errors import RecipeError
from ..models.depth import shallower
from ..models.names import untie
from ..models.numbers import LAYERS, shapes, with_numbers
from ..models.skeleton import build_skeleton
from ..stream.sources import CheckpointSource
from .axes import Anatomy, Finder
from .block_cutter import tasks_by_block
from .chooser import Task
from .cut import Kept
from .dry_run import fault_of_running, misfit
from .follow import follow
from .output import new_prefixes
from .sizes import config_of


@dataclass(frozen=True)
class Outliner:
    """Outlines of what one model can be cut to. ``vocabulary``: how many token ids it takes."""

    source: CheckpointSource
    anatomy: Anatomy
    vocabulary: int
    trust_remote_code: bool = False

    def outline(self, sizes: Mapping[str, int], blocks: Sequence[int]) -> Outline:
        """The model with these sizes of axes and these blocks left.

        Raises:
            RecipeError: if there is no such model, it would not be what the cut leaves, or it does not run.
        """
        source = self.source
        numbers = config_of(self.anatomy, sizes)
        config = with_numbers(shallower(source.config, blocks), numbers)
        listed = ", ".join(f"{key} = {value}" for key, value in {**numbers, LAYERS: len(blocks)}.items())
        if shapes(config, {}, source.model.dtype, self.trust_remote_code) is None:
            raise RecipeError([f"no model can be built with {listed}: cut less, or along fewer axes at once"])
        model = build_skeleton(config, source.model.dtype, self.trust_remote_code)
        for target in set(model.all_tied_weights_keys) - set(source.model.all_tied_weights_keys):  # type: ignore[arg-type]
            untie(model, target)
        found = Outline(self, dict(sizes), tuple(blocks), config, numbers, model)
        fault = misfit(source, model, found.stand_ins(), found.prefixes)
        fault = fault or fault_of_running(source, model, found.prefixes, self.vocabulary)
        if fault:
            raise RecipeError(
                [f"a model with {listed} is not what would be left, or does not run ({fault}): choose other sizes"]
            )
        return found


@dataclass(frozen=True)
class Outline:
    """The smaller ``model``, its parameters on ``meta``, its ``config``, and the ``numbers`` in which that differs."""

    of: Outliner
    sizes: Mapping[str, int]
    blocks: tuple[int, ...]
    config: Any
    numbers: Mapping[str, Any]
    model: Any

    @cached_property
    def prefixes(self) -> dict[str, str]:
        """From the paths of the blocks that stay to those that they will have."""
        return new_prefixes(self.of.source, self.blocks)

    def stand_ins(self) -> list[Kept]:
        """As many units as will stay, of every group the first."""
        found = []
        for name, size in self.sizes.items():
            axis = self.of.anatomy.axes[name]
            for one in axis.couplings:
                each = torch.arange(axis.units(one, size) // axis.groups)
                starts = torch.arange(axis.groups).unsqueeze(1) * (one.units // axis.groups)
                found.append(Kept(one, (starts + each).flatten()))
        return found

    def fixed(self, channels: Tensor | None) -> list[Kept]:
        """What is chosen before the blocks are gone through: the ``channels`` of the residual stream that stay."""
        return [Kept(self.of.anatomy.axes["width"].couplings[0], channels)] if channels is not None else []

    def tasks(self) -> dict[int, list[Task]]:
        """What is to be chosen of each block that stays while the blocks are gone through."""
        tasks = []
        for name in ("kv_groups", *(other for other in self.sizes if other != "kv_groups")):
            if name in self.sizes:
                axis = self.of.anatomy.axes[name]
                couplings = axis.couplings[1:] if name == "width" else axis.couplings
                tasks += [Task(one, axis.units(one, self.sizes[name]), axis.groups, name) for one in couplings]
        return {index: found for index, found in tasks_by_block(self.of.source, tasks).items() if index in self.blocks}


def is_buildable(source: CheckpointSource, trust_remote_code: bool, changes: Mapping[str, int]) -> bool:
    """Whether there is a model with these ``changes`` to the numbers of a source's config."""
    return shapes(source.config, changes, source.model.dtype, trust_remote_code) is not None


def anatomy_of(source: CheckpointSource, vocabulary: int, trust_remote_code: bool = False) -> Anatomy:
    """Along what a model can be cut, and along what not, with the reasons."""
    return Finder(source.config, source.model.dtype, follow(source, vocabulary), trust_remote_code).anatomy()
