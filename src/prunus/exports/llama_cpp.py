"""llama.cpp, where it is installed: as node-llama-cpp in a folder that ``PRUNUS_LLAMA_CPP`` names, or `llama-bench`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ResourceError
from ..runtime.decode import Decoded

FOLDER = "PRUNUS_LLAMA_CPP"
"""Environment variable: the folder in which ``npm install node-llama-cpp`` was run."""
_LIBRARY = Path("node_modules") / "node-llama-cpp" / "dist" / "index.js"


def unavailable() -> str | None:
    """Why llama.cpp cannot be run; None where it can."""
    folder = os.environ.get(FOLDER)
    if folder and not (Path(folder).expanduser() / _LIBRARY).is_file():
        return f"{FOLDER} is {folder}, and no node-llama-cpp is installed there"
    if folder and shutil.which("node") is None:
        return "node-llama-cpp needs node, which is not on the PATH"
    if folder or shutil.which("llama-bench"):
        return None
    return f"neither llama-bench is on the PATH nor does {FOLDER} name a folder with node-llama-cpp"


class LlamaCpp:
    """A GGUF file that stays loaded in llama.cpp; of `llama-bench`, which knows no requests, one process a measurement."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        self._path, self._threads = path, threads
        folder = os.environ.get(FOLDER)
        self._process: subprocess.Popen[str] | None = None
        if folder:
            library = Path(folder).expanduser().resolve() / _LIBRARY
            script = str(files("prunus.exports") / "llama_cpp.mjs")
            words = ["node", script, str(library), str(path), str(threads), str(context)]
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            self._answer()

    def decode(self, ids: Tensor, new_tokens: int) -> Decoded:
        """The likeliest ``new_tokens`` after a prompt ``ids [1 tokens]``, timed; `llama-bench` has no tokens to tell."""
        if self._process is None:
            return self._benched(ids.shape[1], new_tokens)
        found = self.ask({"ids": ids[0].tolist(), "count": new_tokens})
        prefill, *steps = found["seconds"]
        return Decoded(torch.tensor([found["ids"]]), prefill, steps)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request (see ``llama_cpp.mjs``)."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        """The next line that is an answer: llama.cpp itself may print others."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        _, told = self._process.communicate()
        raise _ended(told)

    def _benched(self, prompt: int, new_tokens: int) -> Decoded:
        sizes = ["-p", str(prompt), "-n", str(new_tokens - 1), "-t", str(self._threads)]
        words = ["llama-bench", "-m", str(self._path), *sizes, "-ngl", "0", "-r", "1", "-o", "json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _ended(done.stderr)
        found = {entry["n_gen"] > 0: float(entry["avg_ts"]) for entry in json.loads(done.stdout)}
        return Decoded(torch.empty(1, 0, dtype=torch.int64), prompt / found[False], [1 / found[True]] * (new_tokens - 1))


def _ended(told: str) -> ResourceError:
    last = (told.strip().splitlines() or ["nothing was said"])[-1]
    return ResourceError(f"llama.cpp ended on the way ({last[:200]}). Leave it out: choose others with --way.")
