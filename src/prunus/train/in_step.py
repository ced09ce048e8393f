"""A step of an optimizer over sparse layers: what it is shown of them, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from ..core.errors import RecipeError
from ..core.schedule import Schedule
from .held import HeldMasks
from .layers import SparseLayer, hold_gradients
from .optimizers import forget, leaves_zeros


class InStep:
    """Shows an optimizer gradients and weights of ``layers`` as a schedule wants them, and makes dropped weights zero
    behind it. Its methods are told of the optimizer's steps (:class:`~prunus.train.optimizers.Steps`)."""

    def __init__(self, layers: Sequence[SparseLayer], schedule: Schedule, optimizer: Optimizer) -> None:
        self.taken = False
        """Whether the optimizer has made a step that nobody has counted yet."""
        self._layers, self._schedule, self._optimizer = layers, schedule, optimizer
        self._zero_stays = leaves_zeros(optimizer)
        self._met = self._restored = self._looking = False
        self._decay = 0.0
        self._hold()

    def expect(self, looking: bool, decay: float) -> None:
        """Of the next step: whether the gradients of dropped weights are looked at, and how much they decay by."""
        for layer in self._layers if self._looking else ():
            layer.gradient = None
        self._looking, self._decay = looking, decay

    def put(self) -> None:
        """Dropped weights become zero in the model, and in what the optimizer keeps of those that are not trained."""
        if self._schedule.keeps_dense:
            for layer in self._layers:
                layer.show_dense()
                layer.show_sparse()
        else:
            self._held.hold_weights()
        if not self._schedule.trains_dropped:
            forget(self._optimizer, self._held.masks)

    def arrived(self, number: int) -> None:
        """A layer has a gradient: dropped weights need none, and what looks at gradients in front of the optimizer, as
        clipping by their norm does, is not to see it."""
        layer = self._layers[number]
        if not self._met or layer.is_behind:
            self._meet()
        if not (self._looking or self._schedule.trains_dropped or self._schedule.keeps_scores):
            layer.hold_gradient()

    def restored(self) -> None:
        """The optimizer has another past, which may be one of dropped weights."""
        self._restored = True

    def before(self, scale: float) -> None:
        """Gradients, times a scale, are there: they become as the optimizer is to see them, and dropped weights that it
        trains are put in their places.

        Raises:
            RecipeError: if nobody has counted the last step, though the schedule goes by them.
        """
        self._catch_up()
        if self.taken and self._schedule.needs_steps:
            told = "step() was not called behind the last step of the optimizer, without which no mask ever changes"
            raise RecipeError([told])
        trained = [(layer, layer.parameter.grad) for layer in self._layers if layer.parameter.grad is not None]
        if self._looking:
            for layer, gradient in trained:
                layer.gradient = gradient.clone()
        if self._schedule.keeps_scores:
            for layer, gradient in trained:
                if layer.score is not None:
                    unscaled = gradient if scale == 1 else gradient / scale
                    layer.score = self._schedule.moved(layer.score, layer.values, unscaled)
        if self._schedule.trains_dropped:
            for layer, gradient in trained:
                gradient.add_(layer.values - layer.parameter, alpha=self._decay * scale)
        else:
            hold_gradients(self._layers)
        if self._schedule.keeps_dense:
            for layer in self._layers:
                layer.show_dense()

    def after(self) -> None:
        """The weights were trained: dropped ones are zero."""
        self.taken = True
        if self._schedule.keeps_dense:
            for layer in self._layers:
                layer.show_sparse()
        elif not self._zero_stays:
            self._held.hold_weights()

    def _catch_up(self) -> None:
        """What others have done since the last step is known: where the model is, its weights, the optimizer's past."""
        if not self._met or any(layer.is_behind for layer in self._layers):
            self._meet()
        if self._restored and not self._schedule.trains_dropped:
            forget(self._optimizer, self._held.masks)
        self._restored = False
        for layer in self._layers:
            layer.take_over()

    @torch.no_grad()
    def _meet(self) -> None:
        """Before the first step: be where the model is by now, and make sure that it has the weights that it had."""
        self._met = True
        for layer in self._layers:
            layer.follow()
            layer.require_zeros()
        self._hold()

    def _hold(self) -> None:
        self._held = HeldMasks({layer.parameter: layer.mask for layer in self._layers})
