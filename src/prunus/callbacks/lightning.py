"""A Sparsifier for Lightning's Trainer."""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..core.errors import CheckpointError, MissingLibraryError, RecipeError, UnsupportedModelError
from ..core.schedule import Schedule
from ..verbs.sparsifier import Sparse, Sparsifier

if TYPE_CHECKING:
    Callback = object
else:
    _NAME = next((name for name in ("lightning", "pytorch_lightning") if find_spec(name) is not None), None)
    if _NAME is None:
        raise MissingLibraryError(
            "prunus.callbacks.lightning needs Lightning, which is not installed: pip install lightning"
        )
    Callback = import_module("lightning.pytorch" if _NAME == "lightning" else _NAME).Callback


class SparsityCallback(Callback):
    """Holds or moves zeros while Lightning trains: ``Trainer(callbacks=[SparsityCallback("rigl", sparsity=0.9)])``.

    Takes what a :class:`~prunus.Sparsifier` takes; the steps are the Trainer's. Its state is in Lightning's checkpoints,
    from which training goes on as if it had not stopped. ``result`` is what training came to.
    """

    def __init__(self, schedule: str | Schedule = "fixed", **settings: Any) -> None:
        self.schedule = schedule
        self.settings = settings
        self.sparsity: Sparsifier | None = None
        self.result: Sparse | None = None
        self._kept: dict[str, Any] | None = None
        self._made = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, or go on from a checkpoint's state.

        Raises:
            UnsupportedModelError: if there is not one optimizer.
            CheckpointError: if the checkpoint has no state of a Sparsifier.
            RecipeError: if it is not known how many steps there are.
        """
        if len(trainer.optimizers) != 1:
            raise UnsupportedModelError(
                f"{type(pl_module).__name__} is trained by {len(trainer.optimizers)} optimizers: make a prunus.Sparsifier "
                "for each of them in its own code, where it steps them."
            )
        if trainer.global_step and self._kept is None and self.sparsity is None:
            raise CheckpointError(
                f"the checkpoint, of step {trainer.global_step}, was not saved with this callback; begin without it."
            )
        steps = self.settings.get("steps", trainer.estimated_stepping_batches)
        if not math.isfinite(steps):
            raise RecipeError(["the Trainer has no last step: give it max_epochs or max_steps, or this callback steps="])
        settings = {**self.settings, "steps": int(steps), "state": self._kept}
        self.sparsity, self._kept = Sparsifier(pl_module, trainer.optimizers[0], self.schedule, **settings), None
        self._made = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """A step of the optimizer is done, unless gradients are only added up."""
        if self.sparsity is not None and trainer.global_step > self._made:
            self._made = trainer.global_step
            self.sparsity.step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The zeros stay in the model. Training that was stopped need not have come to its end."""
        if self.sparsity is not None:
            self.result = self.sparsity.finish(early=self.sparsity.done < self.sparsity.steps)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning's checkpoints keep."""
        return self.sparsity.state_dict() if self.sparsity is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        self._kept = state_dict or None
