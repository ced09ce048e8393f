"""The journal: what of a run is done, so that a killed run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.errors import NumericalError, OutputError, ProofError
from .disk import system_errors, write_atomically
from .work_folder import WorkFolder

PLAN, DONE, OUTPUT = "plan.json", "done.jsonl", "output"


class Journal:
    """The folder ``.OUT.prunus-partial`` beside the output: plan, finished blocks, saved state and unfinished output.

    Each finished block is one line of ``done.jsonl``, written after its bytes are on the disk. What cannot be read there
    is done again. Without a plan, or with a plan but no output, the folder is what a finished run left behind. A ``costly``
    plan, one that was searched for, is kept also where no block is done.
    """

    def __init__(self, target: Path, costly: bool = False) -> None:
        self.target = target
        self._costly = costly
        self._work = WorkFolder(target, "prunus-partial")
        self.folder = self._work.path

    @property
    def output(self) -> Path:
        """Where the output grows until it is complete."""
        return self.folder / OUTPUT

    @property
    def unfinished(self) -> bool:
        """Whether a run was begun here and not finished."""
        return (self.folder / PLAN).is_file() and not (self.entries() and not self.output.is_dir())

    def check_free(self, resume: bool) -> None:
        """Raise OutputError if an unfinished run is here that is not to be resumed."""
        if self.unfinished and not resume:
            aside = self._work.set_aside
            before = f", once {aside}, which was to be replaced, has its name back" if aside else ""
            raise OutputError(
                f"{self.target}: an unfinished run is there ({len(self.entries())} parts done). "
                f"Go on with --resume, or start anew after removing {self.folder}{before}."
            )

    def stored_plan(self) -> dict[str, Any] | None:
        """The plan of the unfinished run."""
        return self._begun()["plan"] if self.unfinished else None

    def begin(self, plan: dict[str, Any], digest: str, resume: bool) -> list[dict[str, Any]]:
        """Start or go on; the entries of the finished blocks.

        Raises:
            OutputError: if the target exists, an unfinished run is there and ``resume`` was not asked for, it was
                planned otherwise, another process is at work on it, or the disk refuses.
        """
        self._work.take()
        try:
            if not self.unfinished:
                self._work.empty()
                write_atomically(self.folder / PLAN, json.dumps({"digest": digest, "plan": plan}, indent=1))
                return []
            self.check_free(resume)
            self._check_same(plan, digest)
            return self.entries()
        except OSError as error:
            self.abandon()
            raise OutputError(
                f"{self.folder}: cannot be written ({error.strerror or error}). Free some space or give another -o."
            ) from error
        except BaseException:
            self.close()
            raise

    def entries(self) -> list[dict[str, Any]]:
        """The finished blocks in order."""
        path = self.folder / DONE
        if not path.is_file():
            return []
        entries = []
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            try:
                entries.append(json.loads(line))
            except ValueError:
                break
        return entries

    def mark(self, entry: dict[str, Any]) -> None:
        """Record a finished block; durable on return."""
        path = self.folder / DONE
        kept = "".join(json.dumps(old) + "\n" for old in self.entries()) if path.is_file() else ""
        write_atomically(path, kept + json.dumps(entry) + "\n")

    def finish(self, overwrite: bool = False) -> None:
        """Give the output its final name and clear the rest away; ``overwrite`` drops what had the name before.

        Raises:
            OutputError: if something has the final name and ``overwrite`` was not asked for.
        """
        if self.target.exists() and not overwrite:
            raise OutputError(f"{self.target} appeared while the run went on; the finished output is in {self.output}.")
        self._work.give(self.output)
        self.discard()

    def discard(self) -> None:
        """Clear the folder away, the plan first: a kill on the way leaves nothing that could be resumed by mistake."""
        (self.folder / PLAN).unlink(missing_ok=True)
        self._work.remove()

    def abandon(self) -> None:
        """Let go after an error: what is done stays for a later resume, and where nothing is, nothing is left."""
        if self.entries() or self._costly:
            self.close()
        else:
            self.discard()

    @contextmanager
    def kept_on_error(self) -> Iterator[None]:
        """Within this context an error lets go of the folder first; what is done stays, and the error says how to go on.

        Raises:
            OutputError: in place of what the system says of files.
            ProofError, NumericalError: with where what was done is kept.
        """
        try:
            with system_errors():
                yield
        except OSError as error:
            self.abandon()
            where = error.filename2 or error.filename or self.folder
            raise OutputError(
                f"{where}: {error.strerror or error}. Free some space or mend the disk, then --resume."
            ) from error
        except (ProofError, NumericalError) as error:
            self.abandon()
            kept = f" What was done is kept in {self.folder}: remove that to start anew." if self.unfinished else ""
            raise type(error)(f"{error}{kept}") from error
        except BaseException:
            self.abandon()
            raise

    def close(self) -> None:
        """Let go of the lock."""
        self._work.release()

    def _begun(self) -> dict[str, Any]:
        """What :meth:`begin` wrote: ``plan`` and ``digest``."""
        begun: dict[str, Any] = json.loads((self.folder / PLAN).read_text())
        return begun

    def _check_same(self, plan: dict[str, Any], digest: str) -> None:
        stored = self._begun()
        if stored["digest"] == digest:
            return
        changed = _differences(stored["plan"], plan)
        raise OutputError(
            f"{self.target}: the unfinished run there was planned otherwise ({'; '.join(changed[:5])}). "
            f"Repeat its settings to resume it, or remove {self.folder} to start anew."
        )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line for key in {**old, **new} for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    if old == new or path == "model":
        return []
    short = [str(value) if len(str(value)) < 60 else "…" for value in (old, new)]
    return [f"{path}: {short[0]} then, {short[1]} now"]
