"""The command that a run can be repeated with."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any


def command_of(verb: str, record: Mapping[str, Any], default: Mapping[str, Any], always: Collection[str] = ()) -> str:
    """``prunus VERB MODEL -o OUT`` with all settings that are not the ``default``, and those that are ``always`` said."""
    words = ["prunus", verb, shlex.quote(str(record["model"])), "-o", "OUT"]
    for key, value in record["recipe"].items():
        if value is None or (value == default[key] and key not in always):
            continue
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag.removeprefix('--')}")
            continue
        for item in (value or ["none"]) if isinstance(value, list) else [value]:
            text = shlex.quote(str(item))
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return " ".join(words)
