"""The table of a packed checkpoint."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..storage.stages import CODED, Stages


def packed_table(found: Any) -> RenderableType:
    """Layers by what they are in their block and how they are stored; files before, after and by arithmetic."""
    kinds: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for layer in found.layers:
        layer_role = role(layer.name)
        how = layer.values if layer.coder == "fixed" else f"{layer.values} {layer.coder}"
        kinds[layer_role, "×".join(map(str, layer.shape)), short(layer.storage), how].append(layer)
    table = Table(title=Text(f"{found.model} packed"))
    table.add_column("layers", no_wrap=True)
    table.add_column("stored as")
    for name in ("count", "zeros", "B/weight", "error"):
        table.add_column(name, justify="right")
    for (layer_role, shape, storage, values), layers in kinds.items():
        weights = sum(math.prod(layer.shape) for layer in layers)
        nbytes = sum(layer.nbytes for layer in layers)
        zeros = sum(layer.sparsity * math.prod(layer.shape) for layer in layers) / weights
        error = max(layer.error for layer in layers)
        table.add_row(
            Text(f"{layer_role} {shape}"), f"{storage} {values}", str(len(layers)), f"{zeros:.2%}",
            f"{nbytes / weights:.4f}", f"{error:.2g}",
        )  # fmt: skip
    before, after, planned = (size / 1e6 for size in (found.plain_bytes, found.packed_bytes, found.planned_bytes))
    line = (
        f"{before:.1f} MB to {after:.1f} MB ({after / before:.1%}); positions, values, scales and all that was not "
        f"packed are {planned:.1f} MB, the header makes {after / planned - 1:+.2%} of it.\n"
        "Every layer was read back and unpacked. "
        f"Written to {found.output}; prunus.load runs it, prunus generate tries it, prunus bench times it."
    )
    return Group(table, *([_stage_table(found)] if found.stages else []), Text(line))


def _stage_table(found: Any) -> RenderableType:
    """Shared weights stage by stage, as Deep Compression's tables are: how many times smaller than fp32."""
    shared = [layer for layer in found.layers if layer.stages is not None]
    coder = shared[0].coder if shared[0].coder in CODED else "huffman"
    table = Table(
        title=Text(f"fp32 bytes ÷ bytes, stage by stage; bits before and after {coder}"), box=SIMPLE_HEAD, padding=0
    )
    table.add_column("layers", no_wrap=True)
    for name in ("weights", "kept", "code", "gap", *shared[0].stages.ratios):
        table.add_column(name, justify="right", no_wrap=True)
    kinds: dict[str, list[Stages]] = defaultdict(list)
    for layer in shared:
        kinds[role(layer.name)].append(layer.stages)
    for layer_role, stages in {**kinds, "together": [layer.stages for layer in shared]}.items():
        one = Stages.together(stages)
        bits = (f"{each['shared']:.2g}→{each[coder]:.2f}" for each in (one.code_bits, one.position_bits))
        ratios = (f"{ratio:.2f}" for ratio in one.ratios.values())
        table.add_row(layer_role, f"{one.weights / 1e6:.3g}M", f"{one.kept / one.weights:.0%}", *bits, *ratios)
    return table


def role(name: str) -> str:
    """What a layer of this name is in its block.

    >>> role("model.layers.3.mlp.up_proj.weight")
    'mlp.up_proj'
    """
    return re.sub(r"^.*?\.\d+\.", "", name).removesuffix(".weight")


def short(storage: str) -> str:
    """A storage format as people say it.

    >>> short("nm:n=2,m=4"), short("gaps:bits=3"), short("bitmask")
    ('2:4', 'gaps', 'bitmask')
    """
    return re.sub(r"^gaps:bits=\d+$", "gaps", re.sub(r"^nm:n=(\d+),m=(\d+)$", r"\1:\2", storage))
