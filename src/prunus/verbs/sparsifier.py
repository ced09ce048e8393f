"""Sparsifier: zeros held or moved while a model is trained, in anybody's loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import ASGD, LBFGS, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from ..core.errors import NumericalError, RecipeError, UnsupportedModelError
from ..core.finite import all_finite
from ..core.schedule import Schedule
from ..models.modules import unwrapped
from ..train.exchange import exchange
from ..train.held import HeldMasks
from ..train.layers import Asked, Chooser, SparseLayer
from ..train.masks import Masks, packed, unpacked
from .prepare import choice_of
from .sparse_settings import checked

_ZERO_STAYS = (SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam, ASGD)
"""Optimizers that leave a weight of zero, without a gradient or a past, exactly where it is."""


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
        optimizer: any of torch's, but LBFGS, or alike.
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
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, schedule: str | Schedule = "fixed", *,
                 steps: int | None = None, masks: Mapping[str, Tensor] | None = None,
                 state: Mapping[str, Any] | None = None, **settings: Any) -> None:  # fmt: skip
        self.model = unwrapped(model)
        self.optimizer = optimizer
        self.schedule, recipe = checked(schedule, steps, settings)
        self.steps = steps or 0
        self._target = recipe.wanted()
        self._chance = torch.Generator().manual_seed(recipe.seed)
        asked = Asked(recipe.build_method(), recipe.wanted(), recipe.pins(), recipe.loose_pattern(), choice_of(recipe))
        self._chooser = Chooser(self.model, asked)
        self.layers = self._chooser.layers()
        self._check()
        self.done = 0
        self._stepped = False
        if state is not None:
            self._start()
            self.load_state_dict(state)
        else:
            self._begin(masks)
            self._start()
            self._put()
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step), optimizer.register_step_post_hook(self._after_step),
        ]  # fmt: skip

    @property
    def sparsity(self) -> float:
        """The share of zeros among the weights of all layers that it looks after."""
        return 1 - sum(layer.live for layer in self.layers) / sum(layer.mask.numel() for layer in self.layers)

    @property
    def masks(self) -> Masks:
        """The masks as they are now, by parameter."""
        return Masks({layer.site.parameter: layer.mask != 0 for layer in self.layers})

    @torch.no_grad()
    def step(self) -> None:
        """A step of the optimizer is done: masks change if they are due. One that was skipped, by a gradient scaler, does
        not count."""
        if not self._stepped:
            return
        self._stepped = False
        self.done += 1
        if self.schedule.due(self.done, self.steps) and not self.schedule.trains_dropped:
            self._change()
            self._put()
        for layer in self.layers:
            layer.gradient = None

    def finish(self) -> Sparse:
        """Training is over: the zeros stay in the model, the optimizer is free.

        Raises:
            RecipeError: if the schedule did not come to its end.
        """
        for handle in self._handles:
            handle.remove()
        self._handles = []
        wanted = self._wanted_now(self.steps)
        if self.schedule.needs_steps and wanted is not None and self.sparsity < wanted - 0.01:
            told = f"the model is {self.sparsity:.1%} sparse behind {self.done} steps, {wanted:.1%} were wanted behind "
            told += f"{self.steps}: call step() behind every step of the optimizer, and say how many there are (steps=)"
            raise RecipeError([told])
        layers = {layer.site.name: 1 - layer.live / layer.mask.numel() for layer in self.layers}
        return Sparse(self.masks, self.sparsity, layers, self.done, self._chooser.selection.untouched)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which training goes on as if it had not stopped."""
        layers = {}
        for layer in self.layers:
            kept = {"mask": packed(layer.mask != 0), "nonzeros": int(torch.count_nonzero(layer.parameter))}
            kept |= {} if layer.dense is None else {"dense": layer.dense}
            kept |= {} if layer.score is None else {"score": layer.score}
            layers[layer.site.parameter] = kept
        return {"step": self.done, "chance": self._chance.get_state(), "layers": layers}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the model has the weights that it had then.

        Raises:
            RecipeError: if it is of other layers, or the model has other weights.
        """
        mine, theirs = {layer.site.parameter for layer in self.layers}, set(state["layers"])
        if mine != theirs:
            raise RecipeError([f"the state is of other layers than the model's: {sorted(mine ^ theirs)[0]} is in one only"])
        for layer in self.layers:
            kept = state["layers"][layer.site.parameter]
            mask = unpacked(kept["mask"], tuple(layer.mask.shape)).to(layer.mask)
            found = int(torch.count_nonzero(layer.parameter))
            if found != kept["nonzeros"] or int(torch.count_nonzero(layer.parameter * mask)) != found:
                told = f"{layer.site.name} has {found} weights that are not zero, the state is of {kept['nonzeros']} under "
                raise RecipeError(
                    [told + "its mask: load the model's own state first, then make the Sparsifier with state="]
                )
            layer.mask.copy_(mask)
            for name in ("dense", "score"):
                tensor = getattr(layer, name)
                if tensor is not None:
                    tensor.copy_(kept[name])
        self.done = state["step"]
        self._chance.set_state(state["chance"].cpu())

    @cached_property
    def _held(self) -> HeldMasks:
        return HeldMasks({layer.parameter: layer.mask for layer in self.layers})

    @cached_property
    def _zero_stays(self) -> bool:
        return type(self.optimizer) in _ZERO_STAYS

    def _check(self) -> None:
        """Raise UnsupportedModelError or NumericalError for what cannot be trained so."""
        if isinstance(self.optimizer, LBFGS):
            raise UnsupportedModelError("LBFGS searches along lines that no mask holds: train with another optimizer.")
        trained = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        if not any(id(layer.parameter) in trained for layer in self.layers):
            raise UnsupportedModelError(
                "the optimizer has none of the model's layers: make it of model.parameters() as they are now."
            )
        for layer in self.layers:
            if type(layer.parameter.data).__name__ == "DTensor":
                raise UnsupportedModelError(
                    f"{layer.site.name}: its weights are in shards (FSDP), of which none is chosen from alone. Use "
                    "DistributedDataParallel."
                )
            if not all_finite(layer.parameter):
                raise NumericalError(f"{layer.site.name}: its weights hold NaN or Inf before it is trained.")

    def _begin(self, masks: Mapping[str, Tensor] | None) -> None:
        """The first masks."""
        if masks is not None:
            self._take(masks)
            return
        if self._target is None:
            self._take(Masks.of(self.model))
            if all(layer.live == layer.mask.numel() for layer in self.layers):
                raise RecipeError(["nothing is zero that could be held: say the sparsity=, or prune the model first"])
            return
        self._chooser.choose(self.layers, self.schedule.first(self._target.sparsity))

    def _take(self, masks: Mapping[str, Tensor]) -> None:
        by_name = {layer.site.parameter: layer for layer in self.layers}
        strangers = [name for name in masks if name not in by_name or masks[name].shape != by_name[name].mask.shape]
        if strangers:
            raise RecipeError([f"masks of '{name}': the model has no such layer of that shape" for name in strangers])
        for name, mask in masks.items():
            by_name[name].mask.copy_(mask)

    def _start(self) -> None:
        """What layers keep beside their parameters."""
        for layer in self.layers:
            weight = layer.parameter.detach()
            if self.schedule.keeps_dense:
                layer.dense = weight.clone()
            if type(self.schedule).moved is not Schedule.moved:
                layer.score = torch.zeros_like(weight)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Gradients are there, or come from the closure that the optimizer is called with."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # the optimizer itself comes first
        if closure is None:
            self._prepare()
            return None

        def wrapped() -> Any:
            with torch.enable_grad():
                loss = closure()
            self._prepare()
            return loss

        return ((optimizer,), {**kwargs, "closure": wrapped})

    @torch.no_grad()
    def _prepare(self) -> None:
        """Gradients as the optimizer is to see them, and dropped weights that it trains in their places."""
        following = self.done + 1
        due = self.schedule.needs_gradient and self.schedule.due(following, self.steps)
        decay = self.schedule.decay(following, self.steps) * float(getattr(self.optimizer, "grad_scale", None) or 1)
        for layer in self.layers:
            gradient = layer.parameter.grad
            if gradient is not None and due:
                layer.gradient = gradient.clone()
            if gradient is not None and layer.score is not None:
                moved = self.schedule.moved(layer.score, layer.values, gradient)
                layer.score = layer.score if moved is None else moved
            if layer.dense is not None:
                layer.parameter.copy_(layer.dense)
                if gradient is not None and decay:
                    gradient.add_(layer.dense * (1 - layer.mask), alpha=decay)
        if not self.schedule.trains_dropped:
            self._held.hold_gradients()

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """The weights that were trained, dropped ones zero."""
        self._stepped = True
        if self.schedule.keeps_dense:
            for layer in self.layers:
                if layer.dense is not None:
                    layer.dense.copy_(layer.parameter)
            if self.schedule.trains_dropped and self.schedule.due(self.done + 1, self.steps):
                self._chooser.choose(self.layers, self._wanted_now(self.done + 1) or 0.0)
            self._held.hold_weights()
        elif not self._zero_stays:
            self._held.hold_weights()

    def _wanted_now(self, step: int) -> float | None:
        """The sparsity that is wanted behind a step."""
        return None if self._target is None else self.schedule.sparsity(step, self.steps, self._target.sparsity)

    def _change(self) -> None:
        """New masks."""
        if not self.schedule.exchanges:
            by_score = any(layer.score is not None for layer in self.layers)
            self._chooser.choose(self.layers, self._wanted_now(self.done) or 0.0, by_score)
            return
        share = self.schedule.exchanged(self.done, self.steps)
        for layer in self.layers:
            if self.schedule.needs_gradient and layer.gradient is None:
                continue  # the optimizer does not train it
            growth = self.schedule.growth(layer.gradient, layer.mask != 0, self._chance)
            grown = exchange(layer, share, growth)
            self._forget(layer, grown)

    def _forget(self, layer: SparseLayer, places: Tensor) -> None:
        """The optimizer's past of some weights."""
        for value in self.optimizer.state.get(layer.parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == layer.parameter.shape:
                value.masked_fill_(places, 0)

    def _put(self) -> None:
        """Dropped weights become zero in the model, and in what the optimizer keeps of those that are not trained."""
        for layer in self.layers:
            if layer.dense is not None:
                layer.parameter.data.copy_(layer.dense)
        self._held.hold_weights()
        if not self.schedule.trains_dropped:
            for layer in self.layers:
                self._forget(layer, layer.mask == 0)
