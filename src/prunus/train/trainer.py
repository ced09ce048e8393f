"""Healing on Hugging Face's Trainer: losses against a teacher, masks held, Ctrl-C that loses nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from ..core.errors import CheckpointError, NumericalError, OutputError
from ..core.lesson import Lesson, Seen, TopLogits
from ..core.matmul import FastLinears
from ..core.progress import Progress
from ..core.roles import Loss
from .held import HeldMasks
from .lessons import Windows, collate
from .ranks import world


@dataclass(frozen=True)
class Lessons:
    """What is learnt: ``losses`` are added up. ``teacher`` runs beside the student where hidden states are compared;
    ``pairs`` and ``channels`` are as of a :class:`~prunus.core.lesson.Lesson`. ``asked`` of it: how many of its likeliest
    tokens, at which temperature."""

    losses: Sequence[Loss]
    teacher: nn.Module | None = None
    pairs: Sequence[tuple[int, int]] = ()
    channels: Tensor | None = None
    asked: tuple[int, float] | None = None

    def value(self, student: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        looks = self.teacher is not None
        with FastLinears():
            seen = _see(student, inputs["input_ids"], looks)
        taught, top = None, None
        if self.teacher is not None:
            with torch.no_grad():
                taught = _see(self.teacher, inputs["input_ids"], looks)
                if self.asked is not None:
                    top = TopLogits.of(taught.logits, *self.asked)
        elif "top_ids" in inputs:
            top = TopLogits(inputs["top_ids"], inputs["top_logs"], inputs["top_rest"])
        lesson = Lesson(inputs["input_ids"], seen, taught, top, self.pairs, self.channels)
        return torch.stack([loss.value(lesson) for loss in self.losses]).sum()


def _see(model: nn.Module, ids: Tensor, hidden: bool) -> Seen:
    output = model(input_ids=ids, output_hidden_states=hidden, use_cache=False)
    return Seen(output.logits, tuple(output.hidden_states) if hidden else ())


class Healer(Trainer):
    """A Trainer whose loss is that of ``lessons``; ``pruned`` names the parameters whose zeros stay."""

    def __init__(self, model: nn.Module, args: TrainingArguments, train: Windows, held_out: Windows, lessons: Lessons,
                 pruned: frozenset[str], patience: int, progress: Progress,
                 mark: Callable[[dict[str, Any]], None]) -> None:  # fmt: skip
        self.lessons = lessons
        self.held: HeldMasks | None = None
        self._pruned = pruned
        self.stop = _Stop()
        callbacks: list[TrainerCallback] = [_Told(progress, mark), _Held(self), self.stop]
        if patience:
            callbacks.append(_Patience(patience))
        super().__init__(
            model, args, train_dataset=train, eval_dataset=held_out, data_collator=collate, callbacks=callbacks
        )
        self.model_accepts_loss_kwargs = False  # the mean over a batch, divided by the batches of a step
        self.remove_callback(next(type(c) for c in self.callback_handler.callbacks if "Printer" in type(c).__name__
                                  or "ProgressCallback" in type(c).__name__))  # fmt: skip

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:  # fmt: skip
        """The lessons' loss of a batch."""
        loss = self.lessons.value(model, inputs)
        if not torch.isfinite(loss):
            raise NumericalError(
                f"the loss became {float(loss)} at step {self.state.global_step}: try a smaller --lr, or --dtype float32."
            )
        return (loss, {}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One batch forward and back; what is zero gets no gradient."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.held is not None:
            self.held.hold_gradients()
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """An order for each pass that hangs on the seed and the pass alone, so that a resumed run goes on in it, of however
        many processes (accelerate's own begins again with that of the first pass)."""
        return _Order(self, len(train_dataset))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The parameters as the model has them in memory: files of pretrained models may have them otherwise (experts
        one by one), which the Trainer does not read back."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(folder / SAFE_WEIGHTS_NAME))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Whatever a checkpoint lacks is an error, but for tied parameters of which it has one."""
        state = self.accelerator.unwrap_model(self.model).state_dict()
        missing = set(load_result.missing_keys)
        there = {value.data_ptr() for name, value in state.items() if name not in missing}
        lost = [name for name in missing if state[name].data_ptr() not in there]
        if lost or load_result.unexpected_keys:
            raise CheckpointError(
                f"{self.args.output_dir}: a checkpoint of this run is not this model's: {len(lost)} tensors are missing, "
                f"{len(load_result.unexpected_keys)} unknown ({[*lost, *load_result.unexpected_keys][0]} among them)."
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Also of a model in shards: the Trainer asks whether its best checkpoint is there before that is written.

        Raises:
            OutputError: if the disk refuses.
        """
        folder, here = Path(str(self.args.output_dir)), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except (SafetensorError, RuntimeError) as error:  # what safetensors and torch make of a full disk
            reason = str(error).strip().splitlines()[0]
            raise OutputError(
                f"{folder / here}: the checkpoint cannot be written ({reason}). Free some space, then --resume."
            ) from error
        best = self.state.best_global_step
        if self.is_fsdp_enabled and best:
            self.accelerator.wait_for_everyone()
            self.state.best_model_checkpoint = str(folder / f"{PREFIX_CHECKPOINT_DIR}-{best}")
            if self.args.should_save:
                self.state.save_to_json(str(folder / here / TRAINER_STATE_NAME))

    def hold(self) -> None:
        """Take the masks of the model as it is wrapped now."""
        if self._pruned:
            self.held = HeldMasks.of(self.model_wrapped, self._pruned)


class _Order(Sampler[int]):
    """The windows of a pass, shuffled."""

    def __init__(self, trainer: Trainer, count: int) -> None:
        self._trainer = trainer
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        passes = int(self._trainer.state.epoch or 0)
        chance = torch.Generator().manual_seed(self._trainer.args.seed + passes)
        yield from torch.randperm(self._count, generator=chance).tolist()


class _Held(TrainerCallback):
    """Zeros back to zero behind every step of the optimiser."""

    def __init__(self, trainer: Healer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.hold()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.held is not None:
            self._trainer.held.hold_weights()


class _Told(TrainerCallback):
    """Steps and losses as progress; a mark for every checkpoint."""

    def __init__(self, progress: Progress, mark: Callable[[dict[str, Any]], None]) -> None:
        self._progress = progress
        self._mark = mark
        self._note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._progress.start("Training", state.max_steps)
            for _ in range(state.global_step):
                self._progress.step("done before")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs")
        for name, label in (("loss", "loss"), ("eval_loss", "held out")):
            if logs is not None and name in logs:
                self._note = f"{label} {float(logs[name]):.3f}"

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._mark({"checkpoint": state.global_step})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._progress.step(self._note)


class _Patience(TrainerCallback):
    """Ends training behind so many looks without a lower held-out loss; what a resumed run saw before counts."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry and entry["step"]]
        if losses and len(losses) - 1 - losses.index(min(losses)) >= self._looks:
            control.should_training_stop = True


class _Stop(TrainerCallback):
    """The first Ctrl-C, of whichever process, ends training behind the present step, once that is saved; the second at
    once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before = signal.signal(signal.SIGINT, self._ask)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if world() > 1:  # all save together, or none
            flag = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(flag)
            self.asked = bool(flag)
        if self.asked:
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Ctrl-C as it was."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
