"""Sparsifier: zeros held or moved while a model is trained, in anybody's loop."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.errors import NumericalError, RecipeError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.schedule import Schedule
from ..criteria.random import Random
from ..models.modules import unwrapped
from ..train.chooser import Asked, Chooser
from ..train.exchange import exchange
from ..train.held import HeldMasks
from ..train.in_step import InStep
from ..train.masks import Masks
from ..train.optimizers import Steps, Told, torch_optimizer, trained_by
from .prepare import choice_of
from .sparse_settings import checked

_PRIME = 1_000_003


@dataclass(frozen=True)
class Sparse:
    """What training came to: ``masks`` by parameter, zeros a layer, ``steps``, and what was ``left`` dense and why."""

    masks: Masks
    sparsity: float
    layers: Mapping[str, float]
    steps: int
    left: Mapping[str, str]


class Sparsifier:
    """Holds or moves zeros of a model while it is trained.

    >>> model = nn.Linear(8, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> sparsity = Sparsifier(model, optimizer, "fixed", sparsity=0.5)
    >>> for _ in range(3):
    ...     model(torch.ones(2, 8)).square().sum().backward()
    ...     optimizer.step()
    ...     sparsity.step()
    >>> sparsity.finish().sparsity
    0.5

    Parameters keep their names and are what they were, so that states load anywhere; between two steps of the optimizer
    every dropped weight is zero. Hooks of the optimizer do that: gradients of what is dropped are taken away before its
    step, so that its state for them stays zero, and cleared where masks change.

    Args:
        model: any module, compiled or in DistributedDataParallel or not.
        optimizer: any of torch's, but LBFGS, or alike. What it does not train is left as it is.
        schedule: ``fixed``, ``gradual``, ``set``, ``rigl``, ``movement``, ``srste``, with options (``"rigl:alpha=0.2"``).
        steps: of the optimizer, all together: what schedules in shares of training are told by.
        masks: those to begin with; without them the schedule's own, for ``fixed`` without a sparsity what is zero now.
        state: what :meth:`state_dict` gave: goes on from there. The model and the optimizer have their own states by then.
        settings: ``sparsity`` (a share, or N:M), ``pattern``, ``criterion`` (``magnitude``, ``random``), ``allocation`` (if
            none is given, the schedule's), ``include`` and ``exclude`` (globs over layers), ``set``, ``seed``,
            ``skip_unsupported``, as :func:`prunus.prune` has them.

    Raises:
        RecipeError: if settings do not fit together, or the model.
        UnsupportedModelError: if the model or the optimizer cannot be trained so.
        NumericalError: if weights are NaN or Inf.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, schedule: str | Schedule = "fixed", *,
                 steps: int | None = None, masks: Mapping[str, Tensor] | None = None,
                 state: Mapping[str, Any] | None = None, **settings: Any) -> None:  # fmt: skip
        self.model = unwrapped(model)
        self.optimizer = torch_optimizer(optimizer)
        self.schedule, recipe = checked(schedule, steps, settings)
        self.steps = steps or 0
        self._chance = torch.Generator().manual_seed(recipe.seed * _PRIME + 1)  # not the numbers that weights began as
        self._asked = Asked(
            recipe.build_method(), recipe.wanted(), recipe.pins(), recipe.loose_pattern(), choice_of(recipe)
        )  # fmt: skip
        self._chooser = Chooser(self.model, self._asked, trained_by(self.optimizer))
        self.layers = self._chooser.layers()
        if not self.layers:
            raise UnsupportedModelError(
                "the optimizer has none of the model's layers: make it of model.parameters() as they are now."
            )
        for layer in self.layers:
            layer.check()
        self._still = self._chooser.still_layers()
        self.done = self.skipped = 0
        self._told_of_the_empty = self._called = False
        self._risen = self.schedule.first(1.0)
        self._keep()
        self._in_step = InStep(self.layers, self.schedule, self.optimizer)
        self._look()
        if state is None:
            self._begin(masks)
            self._in_step.put()
        else:
            self.load_state_dict(state)
        told = Told(self._in_step.before, self._after, self._in_step.restored, self._in_step.arrived)
        self._hooks = Steps(self.optimizer, told, [layer.parameter for layer in self.layers])
        self._warn()

    @property
    def sparsity(self) -> float:
        """The share of zeros among the weights of all layers that it looks after."""
        return 1 - sum(layer.live for layer in self.layers) / sum(layer.mask.numel() for layer in self.layers)

    @property
    def dense_gradients(self) -> float:
        """In which share of steps the schedule looks at the gradients of dropped weights: what it costs beside zeros."""
        return self.schedule.dense_gradients()

    @property
    def masks(self) -> Masks:
        """The masks as they are now, by parameter, with the zeros of layers that the optimizer does not train."""
        still = [layer for layer in self._still if layer.live < layer.mask.numel()]
        return Masks({layer.site.parameter: layer.mask != 0 for layer in [*self.layers, *still]})

    def step(self) -> None:
        """A step of the optimizer is done: masks change if they are due. One that was skipped, by a gradient scaler, does
        not count.

        Raises:
            NumericalError: if masks are due, and weights or gradients have become NaN or Inf.
            RecipeError: if another Sparsifier has its layers by now.
        """
        self._require_mine()
        self._called = True
        if not self._in_step.taken:
            self.skipped += any(not all_finite(one.parameter.grad) for one in self.layers if one.parameter.grad is not None)
            return
        self._in_step.taken = False
        self.done += 1
        if not self.schedule.trains_dropped and self.schedule.due(self.done, self.steps):
            with torch.no_grad():
                self._change()
                self._in_step.put()
        self._look()

    @torch.no_grad()
    def finish(self, early: bool = False) -> Sparse:
        """Training is over, or ``early`` over: the zeros stay in the model, the optimizer is free.

        Where steps were skipped, the last masks are those that were due behind them.

        Raises:
            RecipeError: if the schedule did not come to its end, nor is it known to be early, or dropped weights are not
                zero, because others were loaded. Training can go on then.
            NumericalError: if weights have become NaN or Inf.
        """
        self._require_mine()
        if self._called and not self.done + self.skipped:
            kind = type(self.optimizer).__name__
            told = f"{kind}, which the Sparsifier was made with, made no step: make it with the optimizer whose "
            raise RecipeError([told + "step() is called"])
        self._require_finite()
        for layer in self.layers:
            layer.require_zeros()
        target = self.schedule.sparsity(self.steps, self.steps, 1.0)
        if self._risen < target - 1e-6 and not early:
            if self.done + self.skipped < self.steps:
                wanted = "" if self._asked.target is None else f", {self._asked.target.sparsity * target:.1%} were wanted"
                told = f"the model is {self.sparsity:.1%} sparse behind {self.done} steps{wanted} behind {self.steps}"
                raise RecipeError([f"{told}: call step() behind every step of the optimizer, and say how many (steps=)"])
            self._choose(self.steps)
            self._in_step.put()
        self._hooks.remove()
        for layer in self.layers:
            layer.parameter.add_(0.0)  # -0.0 becomes 0.0
            layer.dense = layer.score = None
        layers = {layer.site.name: 1 - layer.live / layer.mask.numel() for layer in self.layers}
        return Sparse(self.masks, self.sparsity, layers, self.done, self._chooser.selection.untouched)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which training goes on as if it had not stopped."""
        layers = {layer.site.parameter: layer.state() for layer in self.layers}
        kind = type(self.schedule).__name__
        return {
            "schedule": kind, "steps": self.steps, "step": self.done, "stepped": self._in_step.taken,
            "skipped": self.skipped, "risen": self._risen, "chance": self._chance.get_state(), "layers": layers,
        }  # fmt: skip

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the model has the weights that it had then.

        Raises:
            RecipeError: if it is of another schedule or other layers, of more or fewer steps, or the model has other
                weights. Nothing is taken from it then.
        """
        if state["schedule"] != type(self.schedule).__name__:
            told = f"the state is of the schedule {state['schedule']}, this one is {type(self.schedule).__name__}"
            raise RecipeError([told])
        mine, theirs = {layer.site.parameter for layer in self.layers}, set(state["layers"])
        if mine != theirs:
            raise RecipeError([f"the state is of other layers than the model's: {sorted(mine ^ theirs)[0]} is in one only"])
        if state["steps"] != self.steps:
            told = f"the state is of training in {state['steps']} steps, this is one in {self.steps}, of which shares are "
            raise RecipeError([f"{told}others: say the same steps=, or begin anew with its masks"])
        for layer in self.layers:
            layer.require_fit(state["layers"][layer.site.parameter])
        for layer in self.layers:
            layer.load(state["layers"][layer.site.parameter])
        self.done, self.skipped = state["step"], state["skipped"]
        self._in_step.taken, self._risen = state["stepped"], state["risen"]
        self._chance.set_state(state["chance"].cpu())
        self._look()

    def _keep(self) -> None:
        """What is kept beside the parameters: dropped values, scores. Chance scores every weight once, if
        the sparsity rises by it."""
        by_chance = isinstance(self._asked.method.criterion, Random) and self._risen < 1
        for layer in self.layers:
            weight = layer.parameter.detach()
            if self.schedule.keeps_dense:
                layer.dense = weight.clone()
            if self.schedule.keeps_scores:
                layer.score = torch.zeros_like(weight, dtype=torch.float32)
            elif by_chance:
                layer.score = torch.rand(weight.shape, generator=self._chance).to(weight.device)

    def _begin(self, masks: Mapping[str, Tensor] | None) -> None:
        """The first masks."""
        if masks is not None:
            self._take(masks)
        elif self._asked.target is None and not self._asked.pins:
            for layer in self.layers:
                layer.mask_zeros()
            if all(layer.live == layer.mask.numel() for layer in self.layers):
                raise RecipeError(["nothing is zero that could be held: say the sparsity=, or prune the model first"])
            empty = [layer.site.name for layer in self.layers if not layer.parameter.any()]
            if empty:
                told = f"{empty[0]} holds nothing but zeros ({len(empty)} such layers): trained, for layers may begin so; "
                warnings.warn(f"{told}give masks= to hold them", stacklevel=4)
        else:
            self._chooser.choose(self.layers, lambda target: target)  # whatever does not fit is told now
            if self._risen < 1:
                self._chooser.choose(self.layers, self.schedule.first)
            self._warn_of_the_empty()

    def _take(self, masks: Mapping[str, Tensor]) -> None:
        by_name = {layer.site.parameter: layer for layer in [*self.layers, *self._still]}
        strangers = [name for name in masks if name not in by_name or masks[name].shape != by_name[name].mask.shape]
        if strangers:
            raise RecipeError([f"masks of '{name}': the model has no such layer of that shape" for name in strangers])
        for name, mask in masks.items():
            by_name[name].mask.copy_(mask != 0)
        HeldMasks({layer.parameter: layer.mask for layer in self._still}).hold_weights()
        target = self._asked.target
        if target is not None and self._risen == 1 and not self._asked.pins and abs(self.sparsity - target.sparsity) > 0.01:
            told = f"the masks are {self.sparsity:.1%} sparse, and stay so with this schedule; sparsity={target.sparsity:g}"
            raise RecipeError([f"{told} was asked for: say that of the masks"])

    def _look(self) -> None:
        """What the next step is to be."""
        looking = self.schedule.needs_gradient and self.schedule.due(self.done + 1, self.steps)
        self._in_step.expect(looking, self.schedule.decay(self.done + 1, self.steps))

    def _warn(self) -> None:
        """Tell of what will come to nothing."""
        if self.schedule.exchanges and not any(self.schedule.due(step, self.steps) for step in range(1, self.steps + 1)):
            told = f"masks never change in {self.steps} steps of this schedule: let them change more often (every=)"
            warnings.warn(told, stacklevel=3)

    def _warn_of_the_empty(self) -> None:
        empty = [layer.site.name for layer in self.layers if not layer.mask.any()]
        if empty and not self._told_of_the_empty:
            self._told_of_the_empty = True
            told = f"{empty[0]} has lost all of its weights ({len(empty)} such layers): choose another allocation, or "
            warnings.warn(f"{told}keep some of them by set=", stacklevel=4)

    def _after(self) -> None:
        """The optimizer has made a step: masks of dropped weights that it trains are chosen anew in it."""
        if self.schedule.trains_dropped and self.schedule.due(self.done + 1, self.steps):
            self._choose(self.done + 1)
        self._in_step.after()

    def _choose(self, step: int) -> None:
        """The masks of a step."""
        self._chooser.choose(self.layers, lambda target: self.schedule.sparsity(step, self.steps, target))
        self._risen = self.schedule.sparsity(step, self.steps, 1.0)

    def _change(self) -> None:
        """New masks."""
        self._require_finite()
        if not self.schedule.exchanges:
            self._choose(self.done)
            self._warn_of_the_empty()
            return
        share = self.schedule.exchanged(self.done, self.steps)
        for layer in self.layers:
            if self.schedule.needs_gradient and layer.gradient is None:
                continue  # nothing was learnt of it in this step
            exchange(layer, share, self.schedule.growth(layer.gradient, layer.mask, self._chance))

    def _require_mine(self) -> None:
        """Raise RecipeError if another Sparsifier looks after the layers."""
        if self._hooks.replaced:
            raise RecipeError(["another Sparsifier has been made for the same layers, which has them now: use that one"])

    def _require_finite(self) -> None:
        """Raise NumericalError if weights are NaN or Inf, or RecipeError if they are the model's no more."""
        for layer in self.layers:
            if not all_finite(layer.values) or (layer.gradient is not None and not all_finite(layer.gradient)):
                told = f"{layer.site.name}: its weights or their gradients are NaN or Inf behind {self.done} steps."
                raise NumericalError(f"{told} Try a lower learning rate.")
            if self.model.get_parameter(layer.site.parameter) is not layer.parameter:
                raise RecipeError([f"{layer.site.name} has got another parameter since the Sparsifier was made"])
