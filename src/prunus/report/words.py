"""What reports say, in several languages: one TOML file a language, with the same keys in all."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from ..core.errors import RecipeError

LANGUAGES = ("en", "zh-Hant")


class Words:
    """Sentences of a language by their keys.

    >>> Words("en")("size")
    'size on disk'
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._sentences = _read(language)

    def __call__(self, key: str, **values: object) -> str:
        return self._sentences[key].format(**values)


@cache
def _read(language: str) -> dict[str, str]:
    if language not in LANGUAGES:
        raise RecipeError([f"lang '{language}' is none of {', '.join(LANGUAGES)}"])
    sentences: dict[str, str] = tomllib.loads(
        (files("prunus.report") / "languages" / f"{language}.toml").read_text(encoding="utf-8")
    )
    return sentences
