"""Outputs that take the place of what is there: only of an earlier checkpoint."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import OutputError


def check_free(target: Path, overwrite: bool) -> None:
    """Raise OutputError if something has the name ``target`` and ``overwrite`` was not asked for."""
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already. Give another -o, or --overwrite to replace it once the run is done.")


def check_replaceable(target: Path, model: Path, typed: str | Path) -> None:
    """Whether what has the name ``target`` may go, for an output made from the folder ``model``, asked for as ``typed``.

    Raises:
        OutputError: if it is the model itself, has the model in it, is no checkpoint, or is a folder in use.
    """
    place, source = target.resolve(), model.resolve()
    asked = Path(typed).expanduser().resolve()  # of a GGUF file the folder is one in the cache
    if place == source:
        raise OutputError(f"{target} is the model itself. Give another -o: the source is never written to.")
    if place.is_mount() or Path.cwd().is_relative_to(place):
        reason = "a disk is mounted there" if place.is_mount() else "it is, or holds, the folder that you are in"
        raise OutputError(f"{target} cannot be given to a finished output: {reason}. Give a new folder in it.")
    if not target.exists():
        return
    for inside in (source, asked):
        if inside.is_relative_to(place) and inside.exists():
            raise OutputError(f"{target} has the model in it, {inside}, which would go with it. Give another -o.")
    checkpoint = (target / "config.json").is_file() and any(target.glob("*.safetensors"))
    if not checkpoint and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{target} is neither a checkpoint nor an empty folder, so it is not replaced. Give another -o.")
