"""One training run: what of it is asked of the Trainer, carried out, resumed, stopped."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..core.errors import RecipeError
from ..core.progress import Progress
from ..core.roles import Loss
from ..models.reload import load_whole
from ..models.skeleton import quiet_transformers
from ..stream.sources import CheckpointSource
from .ancestry import kept_channels, layer_pairs, same_kind
from .lessons import Windows
from .ranks import is_first, wait, world
from .settings import TrainSettings
from .trainer import Healer, Lessons


@dataclass(frozen=True)
class Run:
    """Where a run keeps its checkpoints, its settings, who is told of each (``mark``), and the steps of those that were
    ``saved`` whole before."""

    folder: Path
    settings: TrainSettings
    device: torch.device
    mark: Callable[[dict[str, Any]], None]
    saved: frozenset[int] = frozenset()

    def last(self) -> Path | None:
        """The last checkpoint that was saved whole; what a kill left behind it is cleared away."""
        found = {int(path.name.rpartition("-")[2]): path for path in self.folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
        whole = max((step for step in found if step in self.saved), default=None)
        if is_first():
            for step, path in found.items():
                if whole is None or step > whole:
                    shutil.rmtree(path)
        wait()
        return found[whole] if whole is not None else None


def lessons_of(losses: Sequence[Loss], source: CheckpointSource, teacher: CheckpointSource | None,
               trust_remote_code: bool) -> Lessons:  # fmt: skip
    """What is learnt; a ``teacher`` that is given is loaded to run beside the student.

    Raises:
        RecipeError: if a loss compares channels and the student's are not known among the teacher's.
    """
    if teacher is None:
        return Lessons(losses)
    channels = kept_channels(source, teacher)
    compared = any(loss.same_channels for loss in losses)
    if compared and not same_kind(source, teacher):
        kinds = f"the teacher is a {teacher.config.model_type}, the student a {source.config.model_type}"
        raise RecipeError([f"loss hidden: {kinds}, whose channels have nothing in common; use the loss relations"])
    if channels is None and compared and _width(source) != _width(teacher):
        widths = f"the student has {_width(source)} channels, the teacher {_width(teacher)}"
        raise RecipeError([f"loss hidden: {widths}, and no prunus.json says which those are; use the loss relations"])
    model, _ = load_whole(teacher.checkpoint.folder, torch.float32, trust_remote_code)
    model.requires_grad_(False).to(source.device)
    return Lessons(losses, model, layer_pairs(source, teacher), channels, asked_of(losses))


def asked_of(losses: Sequence[Loss]) -> tuple[int, float] | None:
    """How many of the teacher's likeliest tokens the losses want, and at which temperature; None: none."""
    return next((loss.asks for loss in losses if loss.asks is not None), None)


def _width(source: CheckpointSource) -> int:
    return int(source.config.get_text_config().hidden_size)


@dataclass(frozen=True)
class Trained:
    """What was logged; whether any look found a lower loss than the first one (else the weights to keep are those at the
    beginning); and where the student's parameters are shards by now, all of them in the first process, to be put into a
    student of its own (the other processes: none)."""

    history: list[dict[str, Any]]
    better: bool
    gathered: dict[str, Tensor] | None = None


def train(student: nn.Module, run: Run, windows: tuple[Windows, Windows], lessons: Lessons, pruned: frozenset[str],
          progress: Progress) -> Trained:  # fmt: skip
    """Train the student in place, on the first of ``windows``, watched on the second.

    It goes on from the last checkpoint, where there is one. The weights are those with the lowest held-out loss.

    Raises:
        KeyboardInterrupt: once what was done is saved.
        NumericalError: if the loss becomes NaN or Inf.
    """
    settings, last = run.settings, run.last()
    arguments = _arguments(run, len(windows[0]), fresh=last is None)
    with quiet_transformers():
        healer = Healer(student, arguments, *windows, lessons, pruned, settings.patience, progress, run.mark)
        try:
            healer.train(resume_from_checkpoint=str(last) if last is not None else None)
        finally:
            healer.stop.restore()
        if healer.stop.asked:
            raise KeyboardInterrupt
    history = list(healer.state.log_history)
    first, *later = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    better = min(later, default=math.inf) < first
    if healer.is_fsdp_enabled:
        return Trained(history, better, _gathered(healer.model_wrapped))
    student.to("cpu")
    return Trained(history, better)


def _gathered(sharded: nn.Module) -> dict[str, Tensor]:
    """All parameters of a sharded model, whole, in the first process."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(sharded, options=whole))  # type: ignore[arg-type]


def _arguments(run: Run, count: int, fresh: bool) -> Any:
    from transformers import TrainingArguments

    settings = run.settings
    share = math.ceil(settings.batch / world())
    most = max(1, settings.batch_tokens // settings.seqlen)
    turns = next(parts for parts in range(math.ceil(share / most), share + 1) if share % parts == 0)
    total = math.ceil(count / settings.batch) * settings.epochs
    every = max(1, total // settings.evaluations)
    arguments = TrainingArguments(
        output_dir=str(run.folder), num_train_epochs=settings.epochs, per_device_train_batch_size=share // turns,
        per_device_eval_batch_size=most, gradient_accumulation_steps=turns, learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=round(settings.warmup * total), weight_decay=settings.weight_decay,
        eval_strategy="steps", eval_steps=every, save_strategy="steps", save_steps=every, save_total_limit=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False, eval_on_start=fresh,
        logging_steps=max(1, total // 100), seed=settings.seed, report_to=[], disable_tqdm=True, label_names=["labels"],
        prediction_loss_only=True, use_cpu=run.device.type == "cpu", dataloader_pin_memory=run.device.type == "cuda",
        bf16=settings.dtype == "bfloat16", remove_unused_columns=False, max_grad_norm=1.0,
    )  # fmt: skip
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process, one device: several are started by torchrun or accelerate launch
    return arguments
