"""A Sparsifier for Hugging Face's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..core.errors import CheckpointError
from ..core.schedule import Schedule
from ..lab.kept import load_state, save_state
from ..verbs.sparsifier import Sparse, Sparsifier

FILE = "sparsity.safetensors"


class SparsityCallback(TrainerCallback):
    """Holds or moves zeros while a Trainer trains: ``Trainer(…, callbacks=[SparsityCallback("gradual", sparsity=0.8)])``.

    Takes what a :class:`~prunus.Sparsifier` takes; the steps are the Trainer's. Its state is in the Trainer's checkpoints,
    from which training goes on as if it had not stopped. ``result`` is what training came to.
    """

    def __init__(self, schedule: str | Schedule = "fixed", **settings: Any) -> None:
        self.schedule = schedule
        self.settings = settings
        self.sparsity: Sparsifier | None = None
        self.result: Sparse | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                       **kwargs: Any) -> None:  # fmt: skip
        """Begin, or go on from the checkpoint that the Trainer goes on from.

        Raises:
            CheckpointError: if that has no state of a Sparsifier.
        """
        model: nn.Module = kwargs["model"]
        kept = None
        if state.global_step:
            places = [Path(str(args.resume_from_checkpoint)), _folder(args, state)]
            path = next((place / FILE for place in places if (place / FILE).is_file()), None)
            if path is None:
                raise CheckpointError(
                    f"{places[-1] / FILE}: no such file. It was not saved with this callback: begin without it, "
                    "or it is in another folder than the Trainer's: say resume_from_checkpoint= in its arguments too."
                )
            kept = load_state(path)
        settings = {"steps": state.max_steps, **self.settings, "state": kept}
        self.sparsity = Sparsifier(model, kwargs["optimizer"], self.schedule, **settings)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                          **kwargs: Any) -> None:  # fmt: skip
        """A step of the optimizer is done, or was skipped, as its gradients tell, which are still there."""
        if self.sparsity is not None:
            self.sparsity.step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Its state beside the Trainer's."""
        if self.sparsity is not None and state.is_world_process_zero:
            save_state(_folder(args, state) / FILE, self.sparsity.state_dict())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The zeros stay in the model. Training that was stopped, to go on some day, need not have come to its end; nor the
        best checkpoint, where the Trainer has put that back."""
        if self.sparsity is None:
            return
        early = state.global_step < state.max_steps
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.sparsity.load_state_dict(load_state(Path(state.best_model_checkpoint) / FILE))
            early = True
        self.result = self.sparsity.finish(early=early)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
