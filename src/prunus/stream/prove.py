"""What a run must prove before it calls itself done, read back from the written bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.source import Checkpoint
from ..core.errors import ProofError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.mask import covered
from ..core.matmul import FastLinears
from ..core.plan import Plan
from ..core.progress import Progress
from ..measure.memory import available_memory_bytes
from ..models.reload import check_loading, load_whole, reload_bytes
from .evaluate import forwarded, open_source
from .sources import CheckpointSource

TOLERANCE = 1e-3
"""Most that logits may be apart, in standard deviations of theirs."""


@dataclass(frozen=True)
class Proof:
    """What was found in the written bytes."""

    site_sparsity: Mapping[str, float]
    sparsity: float
    sparsity_total: float
    nonzeros: int
    parameters: int
    reload: str

    def to_json(self) -> dict[str, Any]:
        return {
            "sparsity": self.sparsity,
            "sparsity_total": self.sparsity_total,
            "nonzeros": self.nonzeros,
            "parameters": self.parameters,
            "reload": self.reload,
        }


def prove(source: Checkpoint, output: Path, plan: Plan, results: list[dict[str, Any]], progress: Progress,
          budget: int, trust_remote_code: bool = False) -> Proof:  # fmt: skip
    """Check the written checkpoint against its source and its plan.

    Same tensors, shapes and dtypes; no NaN or Inf; each Site's pattern, and as many zeros as its solver left; every other
    tensor bit for bit as it was (tied weights thereby still tied); and, where ``budget`` bytes of memory allow, a plain
    ``from_pretrained`` that misses nothing and computes what the streamed model computes.

    Raises:
        ProofError: naming the first check that failed.
    """
    written = Checkpoint.open(output)
    if written.names != source.names or any(_kind(written, name) != _kind(source, name) for name in source.names):
        raise ProofError(f"{output}: tensors, shapes or dtypes are not those of {source.folder}.")
    reader = open_source(output, torch.float32, torch.device("cpu"), trust_remote_code)
    sparsity = _check_sites(reader, plan, results, progress)
    pruned = reader.disk_names([step.site for step in plan.steps])
    counted = reader.parameters_on_disk()
    nonzeros = parameters = 0
    progress.start("Comparing bytes", len(source.names))
    for name in source.names:
        tensor = written.read(name)
        if name in pruned and not all_finite(tensor):
            raise ProofError(f"{output}: tensor '{name}' holds NaN or Inf.")
        if name in counted:
            parameters += tensor.numel()
            nonzeros += int(torch.count_nonzero(tensor))
        if name not in pruned and not torch.equal(_bits(tensor), _bits(source.read(name))):
            raise ProofError(f"{output}: tensor '{name}' was not to be touched, but differs from {source.folder}.")
        progress.step()
    weights = sum(step.site.numel for step in plan.steps)
    zeros = sum(sparsity[step.site.name] * step.site.numel for step in plan.steps)
    return Proof(
        sparsity, zeros / weights if weights else 0.0, 1 - nonzeros / parameters, nonzeros, parameters,
        reloaded(output, written, reader, few_ids(reader), budget, progress, trust_remote_code),
    )  # fmt: skip


def _check_sites(
    reader: CheckpointSource, plan: Plan, results: list[dict[str, Any]], progress: Progress
) -> dict[str, float]:
    solved = {record["name"]: record for record in results}
    found = {}
    progress.start("Checking patterns", len(plan.steps))
    for step in plan.steps:
        weight = reader.matrix(step.site)
        dense = solved[step.site.name].get("experts", {}).get("dense", ())
        cover = covered(weight, step.pattern, dense)
        broken = step.pattern.violation(cover) if len(cover) else None
        if broken:
            raise ProofError(f"{step.site.name}: the written weights break {step.pattern}: {broken}.")
        nonzeros = int(torch.count_nonzero(weight))
        left = solved[step.site.name]["nonzeros"]
        if nonzeros != left:
            raise ProofError(f"{step.site.name}: {nonzeros} written weights are not zero, the solver left {left}.")
        found[step.site.name] = int((~cover).sum()) / step.site.numel
        progress.step()
    return found


def _kind(checkpoint: Checkpoint, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
    entry = checkpoint.entry(name)
    return entry.dtype, entry.shape


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def require_finite(output: Path, written: Checkpoint, progress: Progress) -> None:
    """Read everything back.

    Raises:
        ProofError: naming the first tensor that holds NaN or Inf.
    """
    progress.start("Reading it back", len(written.names))
    for name in written.names:
        if not all_finite(written.read(name)):
            raise ProofError(f"{output}: tensor '{name}' holds NaN or Inf.")
        progress.step()


def reloaded(output: Path, written: Checkpoint, reader: CheckpointSource, ids: torch.Tensor, budget: int,
             progress: Progress, trust_remote_code: bool, streamed: torch.Tensor | None = None) -> str:  # fmt: skip
    """Load the output as its user will: nothing missing, and for ``ids [1 tokens]`` the logits of the streamed model.

    ``streamed`` are those, where they are known.

    Raises:
        ProofError: if something is missing or other logits come out.
    """
    needed = reload_bytes(written)
    if needed > budget:
        return f"not tried: it needs {needed / 2**30:.1f} GiB of memory, --memory-budget is {budget / 2**30:.1f}"
    if needed > available_memory_bytes():
        return f"not tried: it needs {needed / 2**30:.1f} GiB of memory, less are free"
    problem = ""
    if streamed is None:  # first, so that both models are never in memory at once
        streamed, problem = streamed_logits(reader, ids, progress)
    progress.start("Loading it whole", 1)
    model, info = load_whole(output, torch.float32, trust_remote_code)
    check_loading(output, info, reader.names.strangers)
    progress.step()
    loaded = "from_pretrained: nothing missing, mismatched or unexpected"
    if streamed is None:
        return f"{loaded}; logits not compared ({problem})"
    with torch.no_grad(), FastLinears():  # as the streamed model: a damaged model makes much of a product rounded otherwise
        whole = model(input_ids=ids, use_cache=False).logits.float()
    difference = distance(streamed, whole)
    if not difference < TOLERANCE:
        raise ProofError(
            f"{output}: the reloaded model's logits are {difference:.2g} standard deviations from those of the same "
            "tensors streamed block by block. One of the two runs the model wrongly; please report it."
        )
    return f"{loaded}; logits within {difference:.1g} of the streamed"


def few_ids(reader: CheckpointSource) -> torch.Tensor:
    """Some tokens ``[1 16]`` to try a model on."""
    return torch.arange(1, 17).remainder(reader.config.get_text_config().vocab_size).unsqueeze(0)


def distance(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, in standard deviations of what is ``wanted``."""
    return float((logits - wanted).abs().max() / wanted.std().clamp_min(1e-12))


def streamed_logits(reader: CheckpointSource, ids: torch.Tensor, progress: Progress) -> tuple[torch.Tensor | None, str]:
    """Logits of ``ids [1 tokens]``; None, and why, where the model cannot be run block by block."""
    try:
        with torch.no_grad(), forwarded(reader, ids, ids.numel(), progress, "Running what was written") as trunk:
            ((_, logits),) = trunk.logits()
    except UnsupportedModelError as error:
        return None, str(error)
    return logits, ""
