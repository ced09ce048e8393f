"""Engines that a person would run the model with instead, where they are installed, for `bench` to time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from time import perf_counter

import torch
from torch import Tensor

from ..core.errors import CheckpointError, RecipeError, ResourceError, UnsupportedModelError
from ..core.progress import Progress, Silent
from ..runtime.decode import Decoded
from ..stream.scratch import passing_folder
from . import gguf, llama_cpp, onnx
from .llama_cpp import LlamaCpp
from .written import Request


class Engine(ABC):
    """A model loaded in an engine; ``weight_bytes`` are read to decode a token."""

    weight_bytes: int

    @abstractmethod
    def decode(self, ids: Tensor, new_tokens: int) -> Decoded:
        """The likeliest ``new_tokens`` after prompts ``ids [batch tokens]``, timed."""

    @abstractmethod
    def close(self) -> None:
        """End what was started."""


@dataclass(frozen=True)
class Sizes:
    """What an engine has to be ready for."""

    threads: int
    tokens: int
    batch: int


@dataclass(frozen=True)
class Kind:
    """How to come by an engine: why it is ``unavailable`` (None: it is not), and to ``start`` it in a folder of its own."""

    unavailable: Callable[[], str | None]
    start: Callable[[Request, Path, Sizes], Engine]
    batches: bool = True


class _OnnxRuntime(Engine):
    def __init__(self, path: Path, threads: int) -> None:
        self._session = onnx.Session(path, threads)
        self.weight_bytes = onnx.product_bytes(path)

    def decode(self, ids: Tensor, new_tokens: int) -> Decoded:
        self._session.forget()
        start = perf_counter()
        following = [self._session(ids)[:, -1].argmax(-1, keepdim=True)]
        prefill, steps = perf_counter() - start, []
        for _ in range(new_tokens - 1):
            start = perf_counter()
            following.append(self._session(following[-1])[:, -1].argmax(-1, keepdim=True))
            steps.append(perf_counter() - start)
        return Decoded(torch.cat(following, dim=1), prefill, steps)

    def close(self) -> None:
        self._session.forget()


class _LlamaCpp(Engine):
    def __init__(self, path: Path, sizes: Sizes) -> None:
        self.weight_bytes = gguf.product_bytes(path)
        self._process = LlamaCpp(path, sizes.threads, sizes.tokens)

    def decode(self, ids: Tensor, new_tokens: int) -> Decoded:
        return self._process.decode(ids, new_tokens)

    def close(self) -> None:
        self._process.close()


def _onnx_unavailable() -> str | None:
    try:
        onnx.require_packages()
    except RecipeError as error:
        return error.faults[0]
    return None


def _onnxruntime(request: Request, place: Path, sizes: Sizes, *, int8: bool) -> Engine:
    path = place.parent / "onnx" / onnx.FILE
    if not path.is_file():  # the other of the two may have written it
        path.parent.mkdir()
        try:
            onnx.write(request, path.parent, Silent())
        except BaseException:
            rmtree(path.parent)
            raise
    if int8:
        path = onnx.quantised(path, place / onnx.FILE)
    return _OnnxRuntime(path, sizes.threads)


def _llama_cpp(request: Request, place: Path, sizes: Sizes, *, dtype: str) -> Engine:
    gguf.write(Request(request.folder, dtype, request.trust_remote_code), place, Silent())
    return _LlamaCpp(place / gguf.FILE, sizes)


ENGINES = {
    "onnxruntime": Kind(_onnx_unavailable, partial(_onnxruntime, int8=False)),
    "onnxruntime int8": Kind(_onnx_unavailable, partial(_onnxruntime, int8=True)),
    "llama.cpp": Kind(llama_cpp.unavailable, partial(_llama_cpp, dtype="float32"), batches=False),
    "llama.cpp q8_0": Kind(llama_cpp.unavailable, partial(_llama_cpp, dtype="q8_0"), batches=False),
}
"""By name: ONNX Runtime in fp32, and with weights and activations rounded to 8 bits (``quantize_dynamic``); llama.cpp in
fp32, and with weights in blocks of 32 codes of 8 bits."""


def engine_faults(names: Sequence[str], batch: int) -> list[str]:
    """Why engines of these names cannot be run with so many prompts at once."""
    found = []
    for name, kind in ENGINES.items():
        single = batch > 1 and not kind.batches
        reason = kind.unavailable() or (f"it takes one prompt at a time, not {batch}" if single else None)
        if name in names and reason:
            found.append(f"the way '{name}' cannot be run: {reason}")
    return found


@dataclass(frozen=True)
class Running:
    """Engines by name, and a line for each reason why others were left out."""

    engines: dict[str, Engine]
    left_out: list[str]


@contextmanager
def running(ways: Sequence[str] | None, request: Request, sizes: Sizes, progress: Progress) -> Iterator[Running]:
    """The engines among ``ways`` with the model of a request, ready; of None all that are installed and know the model.

    Raises:
        UnsupportedModelError: if an engine that was asked for by name does not know the model.
        ResourceError: if one does not start, or takes more memory than there is.
    """
    out: dict[str, list[str]] = {}
    names = []
    for name in ENGINES:
        reason = "; ".join(engine_faults([name], sizes.batch))
        if ways is None and reason:
            out.setdefault(reason.partition(": ")[2] or reason, []).append(name)
        elif ways is None or name in ways:
            names.append(name)
    with passing_folder() as folder, ExitStack() as stack:
        found: dict[str, Engine] = {}
        progress.start("Writing for engines", len(names))
        for name in names:
            place = folder / name.replace(" ", "-")
            place.mkdir()
            try:
                found[name] = ENGINES[name].start(request, place, sizes)
                stack.callback(found[name].close)
            except (UnsupportedModelError, CheckpointError, ResourceError) as error:
                if ways is not None:
                    raise
                out.setdefault(str(error), []).append(name)
            progress.step(name)
        yield Running(found, [f"{' and '.join(names)} left out: {reason.rstrip('.')}." for reason, names in out.items()])
