"""The command line: one file a verb, heavy imports inside."""

from __future__ import annotations

from .app import main

__all__ = ["main"]
