"""From what a person types to a checkpoint folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..core.errors import CheckpointError
from .gguf import convert_gguf

_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "*.py"]


def locate(model: str | Path) -> Path:
    """The checkpoint folder of a path, a ``.gguf`` file, ``pkg:PACKAGE`` (a model inside a Python package) or a hub id.

    A GGUF file is converted once into the cache. A hub id needs the network, unless it was fetched before.

    Raises:
        CheckpointError: if there is no such model.
    """
    text = str(model)
    if text.startswith("pkg:"):
        return locate(_in_package(text.removeprefix("pkg:")))
    path = Path(text).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file.")
        return convert_gguf(path)
    if path.exists():
        if path.is_file():
            raise CheckpointError(f"{path} is a file. Give the folder with config.json, a .gguf file or a hub id.")
        return path
    if text.count("/") > 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(f"{path}: no such folder. Give a checkpoint folder, a .gguf file or a hub id.")
    return _from_hub(text)


def _in_package(name: str) -> Path:
    """The model file or folder inside an installed package, found without importing it."""
    package = name.replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None  # of a dotted name the parent is imported
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"pkg:{name}: no such package is installed. Install it with pip (see the README's demo).")
    root = Path(next(iter(spec.submodule_search_locations)))
    folders = {path.parent for path in root.rglob("config.json")}
    whole = sorted(folder for folder in folders if folders.isdisjoint(folder.parents))  # no parts, such as 1_Pooling
    found = sorted(root.rglob("*.gguf")) or whole
    if len(found) != 1:
        raise CheckpointError(f"pkg:{name}: {len(found)} models are in {root}; give the path of one.")
    return found[0]


def _from_hub(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{repo}: no folder of that name here, and the hub does not give it ({reason}). Check the name, the network "
            "and, for gated models, your token."
        ) from error
