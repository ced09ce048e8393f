"""Couplings of a model that is brought into memory a block at a time: a few tokens go through one block of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..models.experts import every_expert
from ..models.recorder import Recorder
from ..models.sites import is_stacked_experts
from ..models.skeleton import model_inputs
from ..stream.probe import traits
from ..stream.sources import Source
from ..stream.trunk import Trunk
from .coupling import Coupling, Place, Traced, couplings_of
from .labels import Field, field_of
from .trace import new_tracer, own_all
from .tracer import Tracer

STREAM = Place("residual stream", 0)
_TOKENS = 8


@dataclass
class Followed:
    """What was found: the couplings inside each block, the one of the residual stream, and what has to stay.

    ``stream`` is None where the stream's width cannot be cut; ``fixed[STREAM]`` says why.
    """

    blocks: list[tuple[Coupling, ...]] = field(default_factory=list)
    stream: Coupling | None = None
    fixed: dict[Place, str] = field(default_factory=dict)


def follow(source: Source, vocabulary: int) -> Followed:
    """Trace every kind of block of a Source, and what is outside the blocks.

    Raises:
        UnsupportedModelError: if the blocks cannot be followed one by one.
    """
    windows = (torch.arange(1, _TOKENS + 1) % vocabulary).unsqueeze(0)
    trunk = Trunk(source, windows, _TOKENS, 1 << 30, None)
    trunk.embed()
    found = Followed()
    parts = [_outside(source, windows)]
    parts += _together(source, trunk) if trunk.shares_state else _by_kind(source, trunk)
    trunk.close()
    streams = []
    for number, part in enumerate(parts):
        own = [coupling for coupling in part.couplings if STREAM not in coupling.members]
        if number:
            found.blocks.append(tuple(own))
        streams += [coupling for coupling in part.couplings if STREAM in coupling.members]
        found.fixed = {**part.fixed, **found.fixed}
    if STREAM not in found.fixed:
        found.stream = _joined(streams)
    return found


def _by_kind(source: Source, trunk: Trunk) -> list[Traced]:
    """One trace for each kind of block, the same for all of its kind but for their names."""
    known: dict[Any, tuple[str, Traced]] = {}
    found = []
    for index, block in enumerate(source.blocks):
        prefix = source.prefix(index)
        inside = tuple((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
        kind = (type(block), traits(block), inside)
        if kind not in known:
            tracer, stream = _begin(source, source.load(index), prefix)
            entering = _labelled(tracer, trunk.state.read(slice(0, 1), source.device), stream)
            with tracer.following(block, prefix), every_expert(block):
                output = trunk.call(index).run(block, entering)
            _end(tracer, output.hidden, stream)
            known[kind] = (prefix, couplings_of(tracer.links))
            source.release(index)
        first, traced = known[kind]
        found.append(traced if first == prefix else _renamed(traced, first, prefix))
    return found


def _together(source: Source, trunk: Trunk) -> list[Traced]:
    """One trace over all blocks, for those that hand each other more than hidden states; a coupling may span several."""
    tracer = new_tracer()
    stream = tracer.links.new(STREAM.tensor, 0, trunk.state.shape[-1])
    hidden, extras = _labelled(tracer, trunk.state.read(slice(0, 1), source.device), stream), ()
    for index in range(len(source.blocks)):
        block, prefix = source.load(index), source.prefix(index)
        own_all(tracer, block, _stacks(block, prefix), prefix)
        with tracer.following(block, prefix), every_expert(block):
            hidden, extras = trunk.call(index).run(block, hidden, extras)
        source.release(index)
    _end(tracer, hidden, stream)
    whole = couplings_of(tracer.links)
    homes = [f"{source.prefix(index)}." for index in range(len(source.blocks))]
    found = []
    for home in homes:
        own = tuple(coupling for coupling in whole.couplings if coupling.first.tensor.startswith(home))
        found.append(Traced(own, {}))
    rest = tuple(coupling for coupling in whole.couplings if STREAM in coupling.members)
    found[0] = Traced((*found[0].couplings, *(one for one in rest if one not in found[0].couplings)), whole.fixed)
    return found


@torch.no_grad()
def _outside(source: Source, windows: Tensor) -> Traced:
    """Embeddings, final norm and head."""
    model = source.model
    source.load_outside(head=True)
    tracer = new_tracer()
    stacks = {id(block) for block in source.blocks}
    for path, module in model.named_modules():
        if not any(id(module) == one for one in stacks) and not source.is_inside(path):
            own_all(tracer, _Alone(module), {}, path)
    inputs = model_inputs(model, windows.to(source.device))
    recorder = Recorder(source.blocks)
    with tracer.following(model):
        entering, _ = recorder.record(partial(model.base_model, **inputs))
        width = entering.shape[-1]
        stream = tracer.links.new(STREAM.tensor, 0, width)
        _end(tracer, entering, stream)
        behind = entering.clone()
        tracer.set(behind, [Field((behind.dim() - 1,), stream)])
        output = recorder.finish(partial(model, **inputs), behind)
    tracer.fix(tracer.of(output.logits), "entries of the vocabulary")
    source.release_outside()
    return couplings_of(tracer.links)


class _Alone(nn.Module):
    """A module's own parameters, without those of modules inside it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._parameters = module._parameters


def _begin(source: Source, block: nn.Module, prefix: str) -> tuple[Tracer, Any]:
    tracer = new_tracer()
    width = int(source.model.config.get_text_config().hidden_size)
    stream = tracer.links.new(STREAM.tensor, 0, width)
    own_all(tracer, block, _stacks(block, prefix), prefix)
    return tracer, stream


def _labelled(tracer: Tracer, hidden: Tensor, stream: Any) -> Tensor:
    tracer.set(hidden, [Field((hidden.dim() - 1,), stream)])
    return hidden


def _end(tracer: Tracer, hidden: Tensor, stream: Any) -> None:
    """What leaves is the stream that entered."""
    last = hidden.dim() - 1
    leaving = field_of(tracer.of(hidden), last)
    if leaving is None or leaving.dims != (last,):
        tracer.fix_atoms(stream, "hidden states that cannot be followed through a block")
    else:
        tracer.links.tie(stream, leaving.atoms)


def _stacks(block: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Parameters that hold a matrix, or a bias, for each expert."""
    return {
        f"{prefix}.{path}.{key}": parameter
        for path, module in block.named_modules()
        if is_stacked_experts(module)
        for key, parameter in module.named_parameters(recurse=False)
    }


def _renamed(traced: Traced, first: str, prefix: str) -> Traced:
    """The same trace of another block of the kind."""

    def name(text: str) -> str:
        return prefix + text.removeprefix(first) if text.startswith(f"{first}.") or text == first else text

    def places(members: Mapping[Place, Any]) -> dict[Place, Any]:
        return {place._replace(tensor=name(place.tensor)): value for place, value in members.items()}

    couplings = [Coupling(places(one.members), tuple(map(name, one.averaged))) for one in traced.couplings]
    fixed = {place: reason.replace(f"(in {first}", f"(in {prefix}") for place, reason in places(traced.fixed).items()}
    return Traced(tuple(couplings), fixed)


def _joined(streams: Sequence[Coupling]) -> Coupling | None:
    """One coupling of the stream, its units in the order of its places."""
    members: dict[Place, Tensor] = {}
    averaged: list[str] = []
    for part in streams:
        order = part.members[STREAM].flatten().argsort()
        members |= {place: positions[order] for place, positions in part.members.items() if place != STREAM}
        averaged += part.averaged
    return Coupling(members, tuple(averaged)) if members else None
