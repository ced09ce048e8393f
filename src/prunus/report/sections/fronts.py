"""Quality against sparsity and against speed, of all models of all comparisons on the same text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..document import Block, Picture
from ..names import short_names
from ..pictures import Point, front_svg
from ..words import Words


def blocks(comparisons: Sequence[Mapping[str, Any]], pruned: Sequence[Mapping[str, Any]], words: Words) -> Iterator[Block]:
    """Two pictures a text that models were judged on; models that the records ``pruned`` say one method made are one
    series."""
    methods = {str(record.get("output")): str(record["method"]) for record in pruned if "method" in record}
    texts: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in comparisons:
        recipe = record["recipe"]
        models = texts[(recipe["text"], recipe["seqlen"], record["tokens"])]
        models.update({str(model["model"]): model for model in record["models"]})
    for models in texts.values():
        labels, up, front = _series(list(models), methods), words("perplexity_axis"), words("front")
        zeros, speeds = [], []
        for name, model in models.items():
            height, speed = model["perplexity"]["value"], model["decode_tokens_per_second"]
            share = round(100 * (1 - model["nonzeros"] / model["parameters"]), 1)  # no few zeros more make a front
            zeros.append(Point(labels[name], share, share, share, height))
            if speed:
                speeds.append(Point(labels[name], speed["median"], speed["least"], speed["most"], height))
        if len(zeros) > 1:
            said = words("quality_sparsity")
            yield Picture(front_svg(zeros, words("sparsity_axis"), up, said, front, joined=True), said)
        if len(speeds) > 1:
            said = words("quality_speed")
            yield Picture(front_svg(speeds, words("speed_axis"), up, said, front), said)


def _series(models: Sequence[str], methods: Mapping[str, str]) -> dict[str, str]:
    """What each model's point is called: the method that made it and others, or its own name.

    >>> _series(["dense", "lab/a", "lab/b", "lab/c"], {"lab/a": "wanda", "lab/b": "wanda", "lab/c": "magnitude"})
    {'dense': 'dense', 'lab/a': 'wanda', 'lab/b': 'wanda', 'lab/c': 'c'}
    """
    count = Counter(methods[model] for model in models if model in methods)
    return {
        model: methods[model] if count[methods.get(model, "")] > 1 else name
        for model, name in zip(models, short_names(models), strict=True)
    }
