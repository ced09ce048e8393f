"""A pruning run: what came of it, and sparsity and error by block and layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from ..document import Block, Folded, Paragraph, Picture, Table
from ..pictures import map_svg
from ..words import Words


def title(record: Mapping[str, Any], words: Words) -> str:
    """What was pruned."""
    return words("prune", model=record["model"])


def blocks(record: Mapping[str, Any], words: Words) -> Iterator[Block]:
    """All of it."""
    sites = record["sites"]
    yield Paragraph(
        words(
            "prune_lead",
            method=record["method"],
            sparsity=f"{record['sparsity']:.2%}",
            layers=len(sites),
            total=f"{record['sparsity_total']:.2%}",
            seconds=f"{record['seconds']:.0f}",
            memory=f"{record['peak_memory_bytes'] / 2**30:.2f} GiB",
        )
    )
    judged = record["evaluation"]
    if judged:
        before, after = f"{judged['dense']:.3f}", f"{judged['pruned']:.3f}"
        yield Paragraph(words("evaluation", tokens=judged["tokens"], text=judged["text"], dense=before, pruned=after))
    inside = [site for site in sites if site["block"] is not None]
    if inside:
        zeros = [(site["block"], site["layer"], 100 * site["sparsity"]) for site in inside]
        errors = [(site["block"], site["layer"], site["rel_error"]) for site in inside]
        for cells, key in ((zeros, "layer_map_sparsity"), (errors, "layer_map_error")):
            shows = words(key.replace("map", "map_shows"))
            yield Picture(map_svg(cells, words("block"), words(key)), shows)
    yield Folded(words("layers"), [_layers(sites, words)])
    notes = list(dict.fromkeys(note for site in sites for note in site["notes"]))
    if notes:
        yield Folded(words("notes"), [Paragraph(note) for note in notes])


def _layers(sites: list[Mapping[str, Any]], words: Words) -> Table:
    kinds: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for site in sites:
        kinds[site["layer"]].append(site)
    rows = [
        [
            kind, str(len(ones)), "×".join(map(str, ones[0]["shape"])),
            f"{sum(one['sparsity'] for one in ones) / len(ones):.2%}",
            f"{sum(one['rel_error'] for one in ones) / len(ones):.4f}", f"{max(one['rel_error'] for one in ones):.4f}",
        ]
        for kind, ones in kinds.items()
    ]  # fmt: skip
    return Table([words(key) for key in ("layers", "count", "shape", "sparsity", "error", "worst")], rows)
