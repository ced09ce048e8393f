"""What recipes have in common: read from a TOML file or plain settings, every fault told at once."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Self

from .core.errors import RecipeError
from .core.registry import suggest

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Settings:
    """A frozen dataclass of what a person asks, named as the command line names it."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """A checked recipe from plain settings.

        Raises:
            RecipeError: with every fault at once.
        """
        raise NotImplementedError

    @classmethod
    def read(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """A recipe from a TOML file; ``overrides`` that are not None win.

        Raises:
            RecipeError: if the file cannot be read or has unknown keys; all faults at once.
        """
        try:
            table = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError([f"{path}: {(error.strerror or str(error)).lower()}"]) from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RecipeError([f"{path}: cannot be read as TOML ({error})"]) from error
        return cls.of({**table, **{k: v for k, v in (overrides or {}).items() if v is not None}})

    @classmethod
    def either(cls, recipe: Self | None, settings: Mapping[str, Any]) -> Self:
        """The recipe that was given, or one of the settings.

        Raises:
            RecipeError: if both were given, or the settings have faults.
        """
        if recipe is not None and settings:
            raise RecipeError([f"give either a recipe or settings, not both ({', '.join(settings)})"])
        return recipe if recipe is not None else cls.of(settings)


def named(settings: Mapping[str, Any], known: Collection[str], faults: list[str]) -> Iterator[tuple[str, Any]]:
    """Settings by their fields' names, paths as text; the unknown join the ``faults``."""
    for key, value in settings.items():
        name = key.replace("-", "_")
        if name in known:
            yield name, str(value) if isinstance(value, PurePath) else value
        else:
            faults.append(f"unknown setting '{key}'{suggest(name, known)}")


def listed(value: Any) -> tuple[Any, ...]:
    """Several values, or one, as a tuple."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
