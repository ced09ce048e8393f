"""Modes of modules for a while, and what batch norms know of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.errors import CalibrationError
from .feed import BatchRun


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context all modules are in evaluation mode; then each is in its own again, frozen norms too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def free_norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch norms whose running statistics may be taken anew: those that evaluation mode does not freeze in a model that
    is being trained."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    return [norm for norm in norms if norm.training or not model.training]


@torch.no_grad()
def recalibrate(norms: Sequence[_BatchNorm], runs: Sequence[BatchRun]) -> None:
    """These batch norms take their running statistics anew from ``runs`` of the model they are in, the mean over all
    inputs. Batches of one input, of which they may know no deviation, are left out where there are others.

    Raises:
        CalibrationError: if there are none of more values.
    """
    useful = [run for run in runs if run.inputs > 1] or list(runs)
    modes = [(norm, norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    try:
        for run in useful if norms else ():
            seen += run.inputs
            for norm in norms:
                norm.momentum = run.inputs / seen
            run()
    except ValueError as error:  # of one value alone
        raise CalibrationError(
            f"data: batch norms cannot be recalibrated on it ({error}). Give batches of two inputs or more."
        ) from error
    finally:
        for norm, momentum, training in modes:
            norm.momentum = momentum
            norm.train(training)
