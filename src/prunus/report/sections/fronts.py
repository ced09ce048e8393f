"""Quality against sparsity and against speed, of all models of all comparisons on the same text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..document import Block, Picture
from ..pictures import front_svg
from ..words import Words


def blocks(records: Sequence[Mapping[str, Any]], words: Words) -> Iterator[Block]:
    """Two pictures a text that models were judged on."""
    texts: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        recipe = record["recipe"]
        models = texts[(recipe["text"], recipe["seqlen"], record["tokens"])]
        models.update({str(model["model"]): model for model in record["models"]})
    for models in texts.values():
        zeros = [
            (name, 100 * (1 - model["nonzeros"] / model["parameters"]), model["perplexity"]["value"])
            for name, model in models.items()
        ]
        speeds = [
            (name, model["decode_tokens_per_second"]["median"], model["perplexity"]["value"])
            for name, model in models.items()
            if model["decode_tokens_per_second"]
        ]
        for points, axis, shows in ((zeros, "sparsity_axis", "quality_sparsity"), (speeds, "speed_axis", "quality_speed")):
            if len(points) > 1:
                said = words(shows)
                yield Picture(front_svg(points, words(axis), words("perplexity_axis"), said, words("front")), said)
