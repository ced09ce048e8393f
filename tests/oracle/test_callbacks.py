"""Sparsifier in Hugging Face's Trainer and in Lightning: exact zeros, targets reached, resumed runs equal whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import prunus
from prunus.callbacks.hugging_face import SparsityCallback
from prunus.core.errors import CheckpointError, RecipeError, UnsupportedModelError


def examples() -> TensorDataset:
    chance = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(64, 8, generator=chance), torch.randint(0, 4, (64,), generator=chance))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(inputs)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def collate(rows: list[Any]) -> dict[str, Tensor]:
    return {"inputs": torch.stack([row[0] for row in rows]), "labels": torch.stack([row[1] for row in rows])}


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 6


def trained(folder: Path, resume: bool = False, stop: bool = False,
            schedule: str = "rigl:every=2") -> tuple[Classifier, SparsityCallback]:  # fmt: skip
    args = TrainingArguments(str(folder), per_device_train_batch_size=8, gradient_accumulation_steps=2, max_steps=12,
                             save_steps=3, logging_steps=100, learning_rate=0.02, report_to=[], use_cpu=True, seed=1,
                             disable_tqdm=True)  # fmt: skip
    model, sparsity = Classifier(), SparsityCallback(schedule, sparsity=0.75)
    callbacks = [sparsity, *([Stop()] if stop else [])]
    trainer = Trainer(model, args, train_dataset=examples(), data_collator=collate, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume or None)
    return model, sparsity


def test_the_trainer_resumes_to_the_same_weights(tmp_path, capsys) -> None:
    whole, sparsity = trained(tmp_path / "whole")
    assert sparsity.result is not None
    assert sparsity.result.sparsity == pytest.approx(0.75, abs=0.02)
    assert sparsity.result.steps == 12
    for name, mask in sparsity.result.masks.items():
        assert not whole.get_parameter(name).detach()[~mask].any()
    trained(tmp_path / "stopped", stop=True)
    again, _ = trained(tmp_path / "stopped", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    (tmp_path / "stopped" / "checkpoint-12" / "sparsity.safetensors").unlink()
    with pytest.raises(CheckpointError, match="was not saved with this callback"):
        trained(tmp_path / "stopped", resume=True)


def test_whoever_makes_it_may_say_how_many_steps(tmp_path, capsys) -> None:
    seen = {}

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert sparsity.sparsity is not None
            seen[state.global_step] = sparsity.sparsity.sparsity

    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, max_steps=8, report_to=[], use_cpu=True,
                             disable_tqdm=True, save_strategy="no")  # fmt: skip
    sparsity = SparsityCallback("gradual:every=1,begin=0,end=1", sparsity=0.75, steps=4, allocation="uniform")
    Trainer(Classifier(), args, train_dataset=examples(), data_collator=collate, callbacks=[sparsity, Look()]).train()
    assert seen[3] < seen[4] == seen[8] == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("schedule", ["gradual:every=1,end=1", "movement:begin=0,every=1,end=1", "rigl:every=2"])
def test_the_best_checkpoint_has_the_zeros_that_it_had(schedule, tmp_path, capsys) -> None:
    class Worse(Trainer):
        """Whose first evaluation is the best."""

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            metrics = {"eval_loss": float(self.state.global_step)}
            self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, max_steps=8, eval_strategy="steps", eval_steps=4,
                             save_steps=4, learning_rate=0.02, report_to=[], use_cpu=True, disable_tqdm=True,
                             load_best_model_at_end=True, metric_for_best_model="loss")  # fmt: skip
    model, sparsity = Classifier(), SparsityCallback(schedule, sparsity=0.75)
    Worse(
        model, args, train_dataset=examples(), eval_dataset=examples(), data_collator=collate, callbacks=[sparsity]
    ).train()
    assert sparsity.result is not None
    assert sparsity.result.steps == 4
    assert sparsity.result.sparsity == pytest.approx(prunus.Masks.of(model).sparsity, abs=0.02)
    assert sparsity.result.sparsity == pytest.approx(0.75 if "rigl" in schedule else 0.75 * (1 - 0.5**3), abs=0.02)


def test_a_checkpoint_may_come_from_another_folder(tmp_path, capsys) -> None:
    whole, _ = trained(tmp_path / "whole")
    trained(tmp_path / "stopped", stop=True)
    args = TrainingArguments(str(tmp_path / "elsewhere"), per_device_train_batch_size=8, gradient_accumulation_steps=2,
                             max_steps=12, save_steps=3, learning_rate=0.02, report_to=[], use_cpu=True, seed=1,
                             disable_tqdm=True,
                             resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-6"))  # fmt: skip
    model = Classifier()
    callbacks = [SparsityCallback("rigl:every=2", sparsity=0.75)]
    Trainer(model, args, train_dataset=examples(), data_collator=collate, callbacks=callbacks).train(
        resume_from_checkpoint=args.resume_from_checkpoint
    )
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_training_that_is_stopped_early_may_be_short_of_its_target(tmp_path, capsys) -> None:
    model, sparsity = trained(tmp_path, stop=True, schedule="gradual:every=1,end=1")
    assert sparsity.result is not None
    assert sparsity.result.steps == 6
    assert sparsity.result.sparsity == pytest.approx(0.75 * (1 - 0.5**3), abs=0.01)
    assert sparsity.result.sparsity == pytest.approx(prunus.Masks.of(model).sparsity)


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_to_the_same_weights(tmp_path) -> None:
    pl = pytest.importorskip("pytorch_lightning")
    from prunus.callbacks.lightning import SparsityCallback as LightningSparsity

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

        def training_step(self, batch: Any, _number: int) -> Tensor:
            return functional.cross_entropy(self.layers(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.02)

    def fit(epochs: int, checkpoint: str | None = None) -> tuple[Any, Any, Any]:
        module, sparsity = Module(), LightningSparsity("gradual:every=3", sparsity=0.75)
        trainer = pl.Trainer(max_epochs=6, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[sparsity],
                             enable_model_summary=False, default_root_dir=tmp_path, enable_checkpointing=False,
                             accumulate_grad_batches=2)  # fmt: skip
        if epochs < 6:

            class Halt(pl.Callback):
                def on_train_epoch_end(self, trainer: Any, _module: Any) -> None:
                    if trainer.current_epoch == epochs - 1:
                        trainer.save_checkpoint(tmp_path / "half.ckpt")
                        raise KeyboardInterrupt

            trainer.callbacks.append(Halt())
            with pytest.raises(BaseException):  # noqa: B017, PT011 - Lightning may wrap what stops it
                trainer.fit(module, DataLoader(examples(), batch_size=8))
            return module, sparsity, trainer
        trainer.fit(module, DataLoader(examples(), batch_size=8), ckpt_path=checkpoint)
        return module, sparsity, trainer

    whole, sparsity, _ = fit(6)
    assert sparsity.result.sparsity == pytest.approx(0.75, abs=0.02)
    assert sparsity.result.steps == 24
    fit(3)
    again, rest, _ = fit(6, str(tmp_path / "half.ckpt"))
    assert rest.result.steps == 24
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))

    plain = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                       default_root_dir=tmp_path, enable_checkpointing=False)  # fmt: skip
    plain.fit(Module(), DataLoader(examples(), batch_size=8))
    plain.save_checkpoint(tmp_path / "without.ckpt")
    with pytest.raises(CheckpointError, match="of step 8, was not saved with this callback"):
        fit(6, str(tmp_path / "without.ckpt"))
    endless = pl.Trainer(max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[
        LightningSparsity("gradual", sparsity=0.75)], enable_model_summary=False, default_root_dir=tmp_path,
        enable_checkpointing=False)  # fmt: skip
    with pytest.raises(RecipeError, match="the Trainer has no last step"):
        endless.fit(Module(), DataLoader(examples(), batch_size=8))

    class Two(Module):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.02) for _ in range(2)], []

        automatic_optimization = False

    with pytest.raises(UnsupportedModelError, match="Two is trained by 2 optimizers"):
        pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                   callbacks=[LightningSparsity()], default_root_dir=tmp_path,
                   enable_checkpointing=False).fit(Two(), DataLoader(examples()))  # fmt: skip
