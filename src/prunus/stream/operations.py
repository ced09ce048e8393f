"""What a token costs in floating-point operations, from shapes and counts of zeros alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..models.numbers import attended, least_experts
from .sources import CheckpointSource


@dataclass(frozen=True)
class TokenOperations:
    """Operations (twice the multiplications) a token of a causal forward pass: of ``dense`` weights, and as if those that
    are zero cost nothing. Of experts those count that a token is sent to; norms, activations and embeddings do not."""

    dense: float
    nonzero: float


def token_operations(source: CheckpointSource, nonzeros: Mapping[str, int], seqlen: int) -> TokenOperations:
    """Those of a checkpoint's matrices and head, ``nonzeros`` by names on disk, and of attention to half of ``seqlen``
    tokens."""
    model, sites = source.model, [site for found in source.found for site in found.sites]
    head = model.get_output_embeddings()
    names = {name for name, value in model.named_parameters() if head is not None and value is head.weight}
    stacked = {site.parameter: site.layout.stacked for site in sites}
    sizes = {name: value.numel() for name, value in model.named_parameters() if name in names | set(stacked)}
    attention = 2.0 * seqlen * attended(source.config) * len(source.blocks)
    dense = nonzero = attention
    for name, size in sizes.items():
        entries = [source.checkpoint.entry(disk) for disk in source.names.sources[name]]
        stored = sum(entry.nbytes // entry.dtype.itemsize for entry in entries)
        kept = sum(nonzeros[disk] for disk in source.names.sources[name])
        parameter = model.get_parameter(name)
        share = min(1.0, least_experts(source.config) / len(parameter)) if stacked.get(name) else 1.0
        dense += 2 * size * share
        nonzero += 2 * size * share * kept / stored
    return TokenOperations(dense, nonzero)
