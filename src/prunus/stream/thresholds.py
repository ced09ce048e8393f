"""Thresholds found block by block, on the inputs that cut blocks before leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.greedy import greedy_levels
from ..activations.quantiles import Histogram, Quantiles
from ..core.errors import NumericalError, UnsupportedModelError
from ..core.progress import Progress
from ..core.site import Site
from ..core.sparsity import zeros
from ..core.stats import Needs
from ..core.thresholds import InputThreshold
from ..models.listed import is_expert
from ..models.thresholding import CutInputs, windows_of
from ..observe.observer import Observer
from ..observe.waves import Wave
from .heap import reused_memory
from .probe import never_run
from .scratch import passing_folder
from .sources import Source
from .trunk import Limits, Trunk

_GREEDY_TOKENS = 1024
"""Tokens on which a block's output error is taken, trial after trial: inputs differ by far more than its noise."""


@dataclass(frozen=True)
class Wanted:
    """A share ``sparsity`` of every block's weight bytes is not to be read: the same share of every input (``step`` None),
    or shares found greedily, ``step`` of the block's bytes at a time. The first ``dense_tokens`` of a window are not cut.
    """

    sparsity: float
    step: float | None
    dense_tokens: int


def cut_sites(source: Source, windows: Tensor) -> tuple[list[Site], dict[str, str]]:
    """Linear layers in the blocks whose inputs can be cut, and the others with the reason.

    Raises:
        UnsupportedModelError: if none can be.
    """
    sites: list[Site] = []
    left: dict[str, str] = {}
    silent = never_run(source, [site for found in source.found for site in found.sites], windows)
    for block, found in zip(source.blocks, source.found, strict=True):
        left |= {name: reason for name, (_, reason) in found.on_request.items()} | found.unsupported
        for site in found.sites:
            if is_expert(block, site):
                left[site.name] = "an expert: which tokens it is handed is for a router to say"
            elif site.name in silent:
                left[site.name] = "its layer never runs"
            else:
                sites.append(site)
    if not sites:
        raise UnsupportedModelError(f"{type(source.model).__name__}: no linear layer in its blocks has inputs to cut.")
    return sites, left


def find_thresholds(source: Source, sites: Sequence[Site], windows: Tensor, wanted: Wanted, limits: Limits,
                    progress: Progress) -> list[InputThreshold]:  # fmt: skip
    """A threshold for every input that ``sites`` read, in the order in which the model computes.

    Three passes over each block: two to find the quantiles, exactly and without keeping activations, one through the block
    with its inputs cut, so that the next block's levels hold on what it will be handed.

    Raises:
        UnsupportedModelError: if the blocks cannot be followed one by one.
        NumericalError: if activations become NaN or Inf.
    """
    found: list[InputThreshold] = []
    few = windows[: max(1, _GREEDY_TOKENS // windows.shape[1])]
    with passing_folder() as folder, reused_memory(), ExitStack() as stack:
        trunk = Trunk(source, windows, limits.batch_tokens, limits.budget, folder)
        sample = Trunk(source, few, limits.batch_tokens, limits.budget, folder, "few") if wanted.step is not None else None
        trunks = [trunk] if sample is None else [trunk, sample]
        for one in trunks:
            one.embed()
            stack.callback(one.close)
        progress.start("Finding thresholds", len(source.blocks))
        for index in range(len(source.blocks)):
            block = source.load(index)
            source.expect(index + 1)
            mine = [site for site in sites if site.block == index]
            inputs = _Block(source, block, index, wanted).find(mine, trunk, sample) if mine else []
            groups = [(tuple(one.layers), one.threshold) for one in inputs]
            with CutInputs({source.prefix(index): block}, groups, wanted.dense_tokens):
                for one in trunks:
                    one.advance(block, index)
            source.release(index)
            found += inputs
            progress.step()
    return found


@dataclass(frozen=True)
class _Block:
    """One loaded block on its way."""

    source: Source
    block: nn.Module
    index: int
    wanted: Wanted

    def find(self, sites: Sequence[Site], trunk: Trunk, sample: Trunk | None) -> list[InputThreshold]:
        """A threshold for each input of the block's Sites; levels are found on the ``sample``, where they differ."""
        groups = self._groups(sites, trunk)
        histograms = {name: Histogram() for name in groups}
        self._read(trunk, {name: histogram.add for name, histogram in histograms.items()})
        sizes = {name: sum(site.numel * site.dtype.itemsize for site in group) for name, group in groups.items()}
        levels = dict.fromkeys(groups, self.wanted.sparsity)
        if sample is not None and self.wanted.step is not None:
            levels = greedy_levels(sizes, self.wanted.sparsity, self.wanted.step, self._error(sample, groups))
        quantiles = {name: Quantiles(histograms[name], [level]) for name, level in levels.items()}
        self._read(trunk, {name: one.add for name, one in quantiles.items()})
        return [
            InputThreshold(
                {site.name: (site.rows, site.cols) for site in group}, levels[name],
                quantiles[name].thresholds()[0], sizes[name],
            )
            for name, group in groups.items()
        ]  # fmt: skip

    def _groups(self, sites: Sequence[Site], trunk: Trunk) -> dict[str, list[Site]]:
        """Sites by the input they share, under the first one's name."""
        observer = Observer(self.block, self.source.prefix(self.index), Wave(tuple(sites)), Needs.NOTHING)
        with observer:
            observer.watch(next(trunk.runs(self.block, self.index)))
        return {observed.sites[0].name: observed.sites for observed in observer.result()}

    def _read(self, trunk: Trunk, seen: Mapping[str, Callable[[Tensor], object]]) -> None:
        """One pass of the block as it is; ``seen`` is told the entries, of tokens that may be cut, of each input."""
        tokens = trunk.windows.shape[1]
        with watched(self.source.model, seen, tokens, self.wanted.dense_tokens):
            for run in trunk.runs(self.block, self.index):
                try:
                    run()
                except NumericalError as error:
                    raise NumericalError(f"{self.source.prefix(self.index)}: {error}") from error

    def _error(self, sample: Trunk, groups: Mapping[str, Sequence[Site]]) -> Callable[[Mapping[str, float]], float]:
        """The squared distance of the block's output, its inputs cut at given levels, from what it is with none cut."""
        kept: dict[str, list[Tensor]] = {name: [] for name in groups}
        with watched(self.source.model, {name: rows.append for name, rows in kept.items()}, sample.windows.shape[1],
                     self.wanted.dense_tokens):  # fmt: skip
            plain = [run().hidden for run in sample.runs(self.block, self.index)]
        ordered = {name: torch.cat([rows.flatten() for rows in found]).abs().sort().values for name, found in kept.items()}

        def error(levels: Mapping[str, float]) -> float:
            cuts = []
            for name, group in groups.items():
                rank = zeros(len(ordered[name]), levels[name])
                cuts.append((tuple(site.name for site in group), float(ordered[name][rank - 1]) if rank else 0.0))
            with CutInputs({self.source.prefix(self.index): self.block}, cuts, self.wanted.dense_tokens):
                runs = sample.runs(self.block, self.index)
                return sum(float((run().hidden - before).square().sum()) for run, before in zip(runs, plain, strict=True))

        return error


@contextmanager
def watched(model: Any, seen: Mapping[str, Callable[[Tensor], object]], tokens: int, dense_tokens: int) -> Iterator[None]:
    """Within this context ``seen`` is told what each of these layers is handed, the first tokens of every window aside."""

    def tell(told: Callable[[Tensor], object], module: nn.Module, args: tuple[Any, ...]) -> None:
        told(windows_of(args[0].detach(), tokens)[:, dense_tokens:])

    with ExitStack() as hooks:
        for name, told in seen.items():
            handle = model.get_submodule(name).register_forward_pre_hook(partial(tell, told))
            hooks.callback(handle.remove)
        yield
