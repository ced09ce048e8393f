"""What is chosen before the run, from one pass of the dense model: the residual stream's channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.progress import Progress
from ..core.roles import Importance
from ..core.site import Site
from ..core.stats import Needs, Stats
from ..core.units import Reader, Units
from ..observe.waves import Wave, waves
from ..stream.gradients import Gradients
from ..stream.scratch import passing_folder
from ..stream.solve_block import observe
from ..stream.sources import CheckpointSource
from ..stream.trunk import Limits, Trunk
from .chooser import column_dim, entry_of
from .coupling import Coupling, Place


def stream_scores(source: CheckpointSource, stream: Coupling, importance: Importance, windows: Tensor | None,
                  limits: Limits, gradients: Gradients | None, progress: Progress) -> Tensor:  # fmt: skip
    """What each channel of the residual stream is worth, ``[units]``: the sum over everything in the blocks that reads it.

    Where the importance is an error of outputs, each layer's is relative to its output, so that none outweighs the others.
    """
    needs = importance.needs.of_inputs
    total = torch.zeros(stream.units, dtype=torch.float64)
    progress.start("Surveying channels", len(source.blocks))
    with passing_folder() as folder:
        trunk = Trunk(source, windows, limits.batch_tokens, limits.budget, folder) if windows is not None else None
        if trunk is not None:
            trunk.embed()
        for index, block in enumerate(source.blocks):
            source.load(index)
            sites = [site for site in source.found[index].sites if _reads(stream, site)]
            if needs and trunk is not None:
                for wave in waves(sites, needs, limits.budget):
                    runs = trunk.runs(block, index)
                    for found in observe(block, source.prefix(index), wave, needs, runs):
                        for site in found.sites:
                            total += _scores(source, stream, importance, site, wave, found.stats, gradients)
                trunk.advance(block, index)
            else:
                for site in sites:
                    total += _scores(source, stream, importance, site, Wave((site,)), None, gradients)
            source.release(index)
            progress.step()
        if trunk is not None:
            trunk.close()
    return total


def _reads(stream: Coupling, site: Site) -> bool:
    dim = column_dim(site)
    return any((place.tensor, place.dim) == (site.parameter, dim) for place in stream.members)


def _scores(source: CheckpointSource, stream: Coupling, importance: Importance, site: Site, wave: Wave, stats: Stats | None,
            gradients: Gradients | None) -> Tensor:  # fmt: skip
    """The scores that one Site's inputs give, the mean over the matrices of a stack."""
    weight = source.matrix(site)
    entries = range(site.batch) if wave.experts is None or not site.layout.stacked else wave.experts
    own: Mapping[str, Tensor] = gradients.of(site) if gradients is not None else {}
    found = torch.zeros(stream.units, dtype=torch.float64)
    for row, entry in enumerate(entries):
        place = Place(site.parameter, column_dim(site), entry if site.layout.stacked else None)
        columns = stream.members.get(place, stream.members.get(place._replace(entry=None)))
        if columns is None:
            continue
        one = entry_of(stats, row) if stats is not None else Stats.none()
        if stats is not None and not int(one.tokens.sum()):
            continue
        moments = {name: moment[entry] for name, moment in own.items()}
        reader = Reader(weight[entry], columns.to(weight.device), one, site.name, moments)
        scores = importance.score(Units(stream.units, (reader,))).double().cpu()
        if Needs.GRAM in importance.needs or Needs.SUM in importance.needs:
            scores /= scores.sum().clamp_min(1e-30)
        found += scores
    return found / max(1, len(entries))
