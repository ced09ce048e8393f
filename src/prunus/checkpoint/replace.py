"""Outputs that take the place of what is there: only of an earlier checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..core.errors import CheckpointError, OutputError

EXPORTED = (".gguf", ".onnx", ".pt2")
"""What files with weights end in that `export` writes beside ``prunus.json``."""
RUNS = ("*/seed-*/model.safetensors", "seed-*/level-*/*/model.safetensors")
"""Where `train` leaves the weights of its runs, beside ``prunus.json``."""


def check_free(target: Path, overwrite: bool) -> None:
    """Raise OutputError if something has the name ``target`` and ``overwrite`` was not asked for."""
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already. Give another -o, or --overwrite to replace it once the run is done.")


def check_free_file(path: Path, overwrite: bool, what: str, read: Callable[[Path], object]) -> None:
    """Whether a file of ``what`` can be written here; one that is to be replaced is first ``read`` as such.

    Raises:
        OutputError: if it is there and not to be replaced or no such file, is a folder, or has no folder to lie in.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, and a file is to be written. Choose another -o.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already. Choose another -o, or --overwrite.")
    if path.exists():
        try:
            read(path)
        except CheckpointError as error:
            raise OutputError(f"{path}: holds no {what}, so it is not replaced. Choose another -o.") from error
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}. Make it, or choose another -o.")


def check_replaceable(target: Path, model: Path, typed: str | Path, what: str = "the model") -> None:
    """Whether what has the name ``target`` may go, for an output made from the folder ``model``, asked for as ``typed``;
    ``what`` that is to the run.

    Raises:
        OutputError: if it is the model itself, has the model in it, is no checkpoint, has another checkpoint in it, lies in
            one, or is a folder in use.
    """
    place, source = target.resolve(), model.resolve()
    asked = Path(typed).expanduser().resolve()  # of a GGUF file the folder is one in the cache
    if place == source:
        raise OutputError(f"{target} is {what} itself. Give another -o: what a run reads is never written to.")
    for inside in (source, asked):
        if inside.is_relative_to(place) and inside.exists():
            raise OutputError(f"{target} has {what} in it, {inside}, which would go with it. Give another -o.")
    check_place(target)


def check_place(target: Path) -> None:
    """Whether what has the name ``target`` may go, whatever the new output is made from.

    Raises:
        OutputError: if it is no checkpoint, has another checkpoint in it, lies in one, or is a folder in use.
    """
    place = target.resolve()
    above = next((parent for parent in place.parents if _is_checkpoint(parent)), None)
    if above is not None:
        raise OutputError(f"{target} lies in a checkpoint, {above}, which would be mixed up with it. Give another -o.")
    if place.is_mount() or Path.cwd().is_relative_to(place):
        reason = "a disk is mounted there" if place.is_mount() else "it is, or holds, the folder that you are in"
        raise OutputError(f"{target} cannot be given to a finished output: {reason}. Give a new folder in it.")
    if not target.exists():
        return
    if not _is_checkpoint(target) and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{target} is neither a checkpoint nor an empty folder, so it is not replaced. Give another -o.")
    if _has_runs(target):
        return
    within = next((found.parent for found in target.glob("*/**/config.json") if _is_checkpoint(found.parent)), None)
    if within is not None:
        raise OutputError(f"{target} has another checkpoint in it, {within}, which would go with it. Give another -o.")


def _is_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint is there, what was packed or exported of one, or what a training recipe left."""
    if any((folder / known).is_file() for known in ("config.json", "prunus.json")) and any(folder.glob("*.safetensors")):
        return True
    if _has_runs(folder):
        return True
    return (folder / "prunus.json").is_file() and any(any(folder.glob(f"*{kind}")) for kind in EXPORTED)


def _has_runs(folder: Path) -> bool:
    """Whether a training recipe, or a search for tickets, left its runs there."""
    return (folder / "prunus.json").is_file() and any(any(folder.glob(runs)) for runs in RUNS)
