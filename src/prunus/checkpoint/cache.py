"""Where prunus keeps converted models between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$PRUNUS_CACHE``, else ``$XDG_CACHE_HOME/prunus``, else ``~/.cache/prunus``."""
    chosen = os.environ.get("PRUNUS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunus"
