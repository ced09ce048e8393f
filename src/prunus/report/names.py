"""What models are called where there is little room."""

from __future__ import annotations

from collections.abc import Sequence

ABREAST = 4
"""So many models have room beside each other."""


def short_name(model: str) -> str:
    """The end of a path or an id.

    >>> short_name("somebody/their-model"), short_name("/home/me/half/")
    ('their-model', 'half')
    """
    return model.rstrip("/").rpartition("/")[2]


def short_names(models: Sequence[str]) -> list[str]:
    """The same of several, where that tells them apart.

    >>> short_names(["me/half", "me/third"]), short_names(["me/half", "you/half"])
    (['half', 'third'], ['me/half', 'you/half'])
    """
    short = [short_name(model) for model in models]
    return short if len(set(short)) == len(short) else list(models)


def column_names(models: Sequence[str], dense: str, pruned: str) -> list[str]:
    """What the columns of a comparison are called: two models ``dense`` and ``pruned``, others by their names.

    >>> column_names(["me/whole", "me/half"], "dense", "pruned"), column_names(["me/whole"], "dense", "pruned")
    (['dense', 'pruned'], ['whole'])
    """
    return [dense, pruned] if len(models) == 2 else short_names(models)
