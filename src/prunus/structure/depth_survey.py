"""What is known of a model's blocks before some of them go: from a pass of the dense model, or passes without blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..core.depth import DepthSurvey, Passage
from ..core.progress import Progress
from ..measure.quality import Perplexity
from ..stream.scratch import passing_folder
from ..stream.sources import CheckpointSource
from ..stream.trunk import Limits, Trunk

LOSS_WINDOWS, LOSS_LENGTH = 8, 256
"""Most windows that the loss without blocks is measured on, and of each the most tokens."""


def survey_depth(source: CheckpointSource, windows: Tensor, limits: Limits, progress: Progress) -> DepthSurvey:
    """Of a model on ``windows [samples seqlen]``.

    Both of its passes raise UnsupportedModelError if blocks hand each other more than hidden states, so that none can be
    left out.
    """
    few = windows[:LOSS_WINDOWS, :LOSS_LENGTH]
    return DepthSurvey(
        len(source.blocks),
        partial(pass_through, source, windows, limits, progress),
        partial(loss_without, source, few, limits, progress),
    )


def _require_plain(trunk: Trunk) -> None:
    trunk.require_plain(
        [],
        "blocks can be left out of one stack only that hands on hidden states alone. Say what stays "
        "by --neurons, --heads …",
    )


@torch.no_grad()
def pass_through(source: CheckpointSource, windows: Tensor, limits: Limits, progress: Progress) -> Passage:
    """What blocks do to the hidden states of ``windows [samples seqlen]``."""
    count = len(source.blocks)
    cosine, last = torch.zeros(count, dtype=torch.float64), []
    progress.start("Surveying blocks", count)
    with passing_folder() as folder:
        trunk = Trunk(source, windows, limits.batch_tokens, limits.budget, folder)
        trunk.embed()
        _require_plain(trunk)
        last.append(_last(trunk))
        for index in range(count):
            block = source.load(index)
            source.expect(index + 1)
            for number, batch in enumerate(trunk.batches):
                entering = trunk.state.read(batch, source.device).float()
                leaving = trunk.run(block, index, number).hidden.float()
                cosine[index] += functional.cosine_similarity(entering, leaving, dim=-1).sum().double().cpu()
                trunk.state.write(batch, leaving.to(trunk.state.dtype))
            trunk.state.advance()
            last.append(_last(trunk))
            source.release(index)
            progress.step()
        trunk.close()
    return Passage((cosine / windows.numel()).float(), torch.stack(last))


def _last(trunk: Trunk) -> Tensor:
    """The hidden states of each window's last token, ``[windows width]``."""
    return torch.cat([trunk.state.read(batch, torch.device("cpu"))[:, -1].float() for batch in trunk.batches])


@torch.no_grad()
def loss_without(source: CheckpointSource, windows: Tensor, limits: Limits, progress: Progress,
                 choices: Sequence[Sequence[int]]) -> list[float]:  # fmt: skip
    """The mean loss a token with each choice of blocks left out. What begins alike is run once, as far as its hidden
    states are within the limits' budget."""
    trunk = Trunk(source, windows, limits.batch_tokens, limits.budget, None)
    trunk.embed()
    _require_plain(trunk)
    entering = [trunk.state.read(batch, source.device) for batch in trunk.batches]
    most = max(1, limits.budget // sum(state.nbytes for state in entering))
    parties = [choices[k : k + most] for k in range(0, len(choices), most)]
    progress.start("Leaving out blocks", len(source.blocks) * len(parties))
    losses = [loss for party in parties for loss in _losses(trunk, entering, party, progress)]
    trunk.close()
    return losses


def _losses(trunk: Trunk, entering: list[Tensor], choices: Sequence[Sequence[int]], progress: Progress) -> list[float]:
    source = trunk.source
    groups: list[tuple[list[int], list[Tensor]]] = [(list(range(len(choices))), entering)]
    for index in range(len(source.blocks)):
        block = source.load(index)
        source.expect(index + 1)
        after = []
        for members, states in groups:
            without = [member for member in members if index in choices[member]]
            rest = [member for member in members if index not in choices[member]]
            if without:
                after.append((without, states))
            if rest:
                after.append((rest, [trunk.run(block, index, k, hidden).hidden for k, hidden in enumerate(states)]))
        source.release(index)
        groups = after
        progress.step()
    source.load_outside(head=True)
    losses = [0.0] * len(choices)
    for members, states in groups:
        found = Perplexity()
        for number, batch in enumerate(trunk.batches):
            for k in range(batch.stop - batch.start):
                window = slice(batch.start + k, batch.start + k + 1)
                found.add(trunk.head(window, states[number][k : k + 1]), trunk.windows[window])
        for member in members:
            losses[member] = found.loss
    source.release_outside()
    return losses
