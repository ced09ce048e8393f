"""Healing on disk as people do it: against a plain loop, stopped and resumed, with masks, teachers and low rank."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import prunus
from prunus.core.errors import (
    CalibrationError,
    CheckpointError,
    NumericalError,
    OutputError,
    RecipeError,
    ResourceError,
    UnsupportedModelError,
)
from prunus.train.lessons import training_windows
from stopping import StopAfter
from tiny import model_of

MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def pruned(checkpoint, quick, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "half"
    return prunus.prune(checkpoint("llama"), out, sparsity=0.5, method="magnitude", **quick).output


@pytest.fixture(scope="module")
def brief(text_file) -> dict[str, object]:
    return {
        "text": str(text_file), "tokens": 1024, "seqlen": 32, "held_out": 4, "lr": 2e-3, "eval_text": str(text_file),
        "eval_windows": 2, "evaluations": 2,
    }  # fmt: skip


def zeros_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value == 0 for name, value in load_file(folder / MODEL).items() if "proj" in name}


def test_it_is_what_a_plain_loop_would_do(pruned, brief, tokenizer, text_file, tmp_path) -> None:
    """Three steps over all windows at once: AdamW, a cosine, clipping, masks."""
    from transformers import AutoModelForCausalLM

    settings = {**brief, "batch": 32, "batch_tokens": 2048, "epochs": 3, "warmup": 0.0, "evaluations": 1, "patience": 0}
    result = prunus.recover(pruned, tmp_path / "out", **settings)
    model = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32)
    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    windows, held_out = training_windows(ids, 32, 1024, 4, 0, "text")
    masks = {p: p != 0 for name, p in model.named_parameters() if "proj" in name}
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3)
    model.eval()
    with torch.no_grad():
        assert result.held_out[0] == pytest.approx(float(model(input_ids=held_out, labels=held_out).loss), rel=1e-4)
    model.train()
    for _ in range(3):
        model(input_ids=windows, labels=windows).loss.backward()
        for parameter, mask in masks.items():
            parameter.grad.mul_(mask)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    healed = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    before = dict(AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32).named_parameters())
    for (name, one), other in zip(healed.named_parameters(), model.parameters(), strict=True):
        one, other = one.detach(), other.detach()
        moved = (other - before[name].detach()).abs().max()
        assert float((one - other).abs().max()) < 0.05 * float(moved) + 1e-6, name
    assert result.held_out[1] < result.held_out[0]


@pytest.mark.parametrize(
    "what", [{}, {"lora": 4, "lr": 1e-2, "epochs": 3}, {"teacher": True}, {"teacher": True, "loss": ["hidden", "kl:top=9"]}]
)
def test_zeros_stay_and_the_rest_moves(what, pruned, brief, checkpoint, tmp_path) -> None:
    settings = {**brief, **what}
    if "teacher" in what:
        settings["teacher"] = str(checkpoint("llama"))
    result = prunus.recover(pruned, tmp_path / "out", **settings)
    before, after = load_file(pruned / MODEL), load_file(tmp_path / "out" / MODEL)
    for name, zero in zeros_of(pruned).items():
        assert torch.equal(after[name] == 0, zero), name
        assert float((after[name] != before[name]).float().mean()) > 0.3, name
    assert result.record["zeros_held"] == sum(int(zero.sum()) for zero in zeros_of(pruned).values())
    assert result.held_out[1] < result.held_out[0]
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"]) == ("lora" in what)
    if "teacher" in what:
        assert result.perplexity["kl_after"] < result.perplexity["kl_before"]


def test_masks_may_be_set_free(pruned, brief, tmp_path) -> None:
    result = prunus.recover(pruned, tmp_path / "out", masks="free", **brief)
    assert result.record["zeros_held"] == 0
    after = load_file(tmp_path / "out" / MODEL)
    assert all(after[name][zero].any() for name, zero in zeros_of(pruned).items())


def test_batches_in_parts_train_the_same(pruned, brief, checkpoint, tmp_path) -> None:
    """Sixteen windows at once, or four turns of four."""
    settings = {**brief, "batch": 16, "teacher": str(checkpoint("llama"))}
    prunus.recover(pruned, tmp_path / "whole", **settings)
    prunus.recover(pruned, tmp_path / "parts", batch_tokens=128, **settings)
    one, two = (load_file(tmp_path / name / MODEL) for name in ("whole", "parts"))
    before = load_file(pruned / MODEL)
    for name in one:
        assert float((one[name] - two[name]).norm()) < 0.05 * float((one[name] - before[name]).norm()) + 1e-6, name


def test_what_the_teacher_said_on_disk_is_what_it_says_beside(pruned, brief, checkpoint, tmp_path) -> None:
    """The same loss, once from the cache and once with the teacher running because of a loss that counts nothing."""
    settings = {**brief, "teacher": str(checkpoint("llama"))}
    cached = prunus.distill(pruned, tmp_path / "cached", loss=["kl:top=64"], **settings)
    beside = prunus.distill(pruned, tmp_path / "beside", loss=["kl:top=64", "hidden:weight=0"], **settings)
    assert cached.held_out == pytest.approx(beside.held_out, rel=1e-2)
    one, two = (load_file(tmp_path / name / MODEL) for name in ("cached", "beside"))
    before = load_file(pruned / MODEL)
    for name in one:
        assert float((one[name] - two[name]).norm()) < 0.2 * float((one[name] - before[name]).norm()) + 1e-6, name


class StopTraining(StopAfter):
    """Presses Ctrl-C while it trains."""

    def step(self, note: str = "") -> None:
        if self.task == "Training" and note == "done before":
            self.replayed += 1
        elif self.task == "Training":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("what", [{"lr": 3e-3, "epochs": 2}, {"lr": 1e-12}])
def test_codebooks_are_trained_and_packed_to_the_bit(what, pruned, brief, checkpoint, tmp_path) -> None:
    result = prunus.recover(pruned, tmp_path / "out", shared=4, teacher=checkpoint("llama"), **{**brief, **what})
    before, after = load_file(pruned / MODEL), load_file(tmp_path / "out" / MODEL)
    zeros = zeros_of(pruned)
    for name, weight in after.items():
        if name in zeros:
            assert torch.equal(weight == 0, zeros[name]), name
            assert len(weight[weight != 0].unique()) <= 15, name
        else:
            assert torch.equal(weight, before[name]), name  # nothing but codebooks is trained
    assert (result.held_out[1] < 0.97 * result.held_out[0]) or what["lr"] < 1e-6
    told = prunus.pack(tmp_path / "out", tmp_path / "packed", storage="gaps", values="shared4", coder="huffman")
    assert {layer.error for layer in told.layers} == {0.0}
    prunus.unpack(tmp_path / "packed", tmp_path / "again")
    assert (tmp_path / "again" / MODEL).read_bytes() == (tmp_path / "out" / MODEL).read_bytes()


def test_codebooks_of_what_was_not_pruned_are_refused(checkpoint, brief, tmp_path) -> None:
    with pytest.raises(UnsupportedModelError, match="no matrix has 5% zeros"):
        prunus.recover(checkpoint("llama"), tmp_path / "out", shared=4, **brief)


@pytest.mark.parametrize("what", [{}, {"teacher": True}, {"lora": 2}, {"shared": 3}])
def test_stopped_and_resumed_writes_the_same_bytes(what, pruned, brief, checkpoint, tmp_path) -> None:
    settings = {**brief, **what, "evaluations": 4}
    if "teacher" in what:
        settings["teacher"] = str(checkpoint("llama"))
    prunus.recover(pruned, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        prunus.recover(pruned, tmp_path / "parts", progress=StopTraining(3), **settings)
    assert not (tmp_path / "parts").exists()
    with pytest.raises(OutputError, match="--resume"):
        prunus.recover(pruned, tmp_path / "parts", **settings)
    told = StopTraining(99)
    prunus.recover(pruned, tmp_path / "parts", resume=True, progress=told, **settings)
    assert told.replayed >= 2
    assert (tmp_path / "whole" / MODEL).read_bytes() == (tmp_path / "parts" / MODEL).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]
    assert prunus.recover(pruned, tmp_path / "parts", resume=True, **settings).output == tmp_path / "parts"


class StopAsking(StopAfter):
    """Presses Ctrl-C while the teacher is asked about a later part of the windows."""

    def __init__(self, part: int) -> None:
        super().__init__(1)
        self.parts: list[str] = []
        self._part = part

    def start(self, task: str, total: int) -> None:
        super().start(task, total)
        if task.startswith("Asking"):
            self.parts.append(task)
            if len(self.parts) == self._part:
                raise KeyboardInterrupt

    def step(self, note: str = "") -> None:
        """Not counted."""


def test_what_the_teacher_said_before_a_stop_is_not_asked_again(pruned, brief, checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("prunus.train.teacher._PART_TOKENS", 10 * brief["seqlen"])
    settings = {**brief, "teacher": str(checkpoint("llama"))}
    prunus.distill(pruned, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        prunus.distill(pruned, tmp_path / "parts", progress=StopAsking(3), **settings)
    told = StopAsking(99)
    prunus.distill(pruned, tmp_path / "parts", resume=True, progress=told, **settings)
    assert [part.split()[-3] for part in told.parts] == ["21", "31"]
    assert (tmp_path / "whole" / MODEL).read_bytes() == (tmp_path / "parts" / MODEL).read_bytes()


def held_out_loss(folder: Path, tokenizer, text_file: Path, brief: dict[str, object]) -> float:
    from transformers import AutoModelForCausalLM

    ids = torch.tensor(tokenizer(text_file.read_text())["input_ids"])
    _, held_out = training_windows(ids, brief["seqlen"], brief["tokens"], brief["held_out"], 0, "text")
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return float(model(input_ids=held_out, labels=held_out).loss)


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "mixtral"])
def test_the_weights_are_those_with_the_lowest_held_out_loss(
    family, checkpoint, brief, tokenizer, text_file, tmp_path
) -> None:
    """At a learning rate that ruins the model in the end; experts' too, which files have one by one. Also once resumed."""
    settings = {**brief, "lr": 0.02, "evaluations": 12, "patience": 2, "warmup": 0.9, "epochs": 4, "batch": 4}
    result = prunus.recover(checkpoint(family), tmp_path / "out", **settings)
    losses = dict(result.record["losses"]["held_out"])
    best, after = result.record["held_out"]["step"], result.record["held_out"]["after"]
    assert 0 < best < result.record["held_out"]["last_step"]
    assert losses[best] == min(losses.values()) == after
    assert sorted(losses).index(max(losses)) == sorted(losses).index(best) + 2, "two looks more, then it ends"
    assert held_out_loss(tmp_path / "out", tokenizer, text_file, brief) == pytest.approx(after, rel=1e-4)
    with pytest.raises(KeyboardInterrupt):
        prunus.recover(checkpoint(family), tmp_path / "parts", progress=StopTraining(best + 1), **settings)
    again = prunus.recover(checkpoint(family), tmp_path / "parts", resume=True, **settings)
    assert again.record["losses"]["held_out"] == result.record["losses"]["held_out"]
    assert (tmp_path / "parts" / MODEL).read_bytes() == (tmp_path / "out" / MODEL).read_bytes()


def test_what_was_best_before_training_stays(pruned, brief, tmp_path) -> None:
    result = prunus.recover(pruned, tmp_path / "out", **{**brief, "lr": 10.0, "warmup": 0.0})
    assert result.record["held_out"]["step"] == 0
    assert (tmp_path / "out" / MODEL).read_bytes() == (pruned / MODEL).read_bytes()


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(pruned, brief, tmp_path) -> None:
    settings = {**brief, "evaluations": 4}
    prunus.recover(pruned, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        prunus.recover(pruned, tmp_path / "parts", progress=StopTraining(2), **settings)
    half = next(tmp_path.glob(".parts.*/trainer")) / "checkpoint-99"
    half.mkdir()
    (half / MODEL).write_bytes(b"cut short")
    prunus.recover(pruned, tmp_path / "parts", resume=True, **settings)
    assert (tmp_path / "whole" / MODEL).read_bytes() == (tmp_path / "parts" / MODEL).read_bytes()


def test_a_disk_that_fills_up_is_told_and_gone_on_from(pruned, brief, tmp_path, monkeypatch) -> None:
    """safetensors and torch say so by errors of their own."""
    settings = {**brief, "evaluations": 4}
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("PytorchStreamWriter failed")))
        with pytest.raises(OutputError, match=r"cannot be written \(PytorchStreamWriter failed\)\. Free some space"):
            prunus.recover(pruned, tmp_path / "out", **settings)
    assert prunus.recover(pruned, tmp_path / "out", resume=True, **settings).output == tmp_path / "out"


def test_names_and_tied_tensors_are_written_as_they_were_stored(checkpoint, brief, tokenizer, tmp_path) -> None:
    """GPT-2 as the hub has it, without the base model's prefix; and a tied head that is stored beside the embedding."""
    for family, rename in (
        ("gpt2", lambda tensors: {name.removeprefix("transformer."): value for name, value in tensors.items()}),
        ("gemma3", lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}),
    ):
        source = tmp_path / family
        shutil.copytree(checkpoint(family), source)
        stored = rename(load_file(source / MODEL))
        save_file(stored, source / MODEL, metadata={"format": "pt"})
        result = prunus.recover(source, tmp_path / f"{family}-healed", **brief)
        written = load_file(result.output / MODEL)
        assert set(written) == set(stored)
        assert result.record["proof"]["reload"].startswith("from_pretrained: nothing missing")
        if "lm_head.weight" in written:
            assert torch.equal(written["lm_head.weight"], written["model.embed_tokens.weight"])


def test_through_the_command_line(checkpoint, brief, quick, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    prunus.shrink(checkpoint("llama"), tmp_path / "cut", width=24, layers=2, **quick)
    flags = [word for key, value in brief.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words = [sys.executable, "-m", "prunus", "distill", tmp_path / "cut", "-o", tmp_path / "out",
             "--teacher", checkpoint("llama"), "--loss=kl:temperature=2", "--loss=hidden:weight=0.1", "--json",
             *flags]  # fmt: skip
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out" / "prunus.json").read_text())
    assert record["kind"] == "distill"
    assert record["evaluation"]["kl_after"] < record["evaluation"]["kl_before"]
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert model.config.hidden_size == 24
    card = (tmp_path / "out" / "README.md").read_text()
    assert "prunus distill" in card
    assert "--loss kl:temperature=2 --loss hidden:weight=0.1" in card
    assert ElementTree.parse(tmp_path / "out" / "training.svg").getroot().tag.endswith("svg")
    words[words.index("--json")] = "--overwrite"
    told = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True).stdout
    for part in ("loss on held-out windows", "KL to the teacher", "reload check"):
        assert part in told


def test_what_was_cut_is_remembered_through_pruning_and_healing(checkpoint, brief, quick, tmp_path) -> None:
    """So that hidden states are compared with those of the blocks and channels that a student has."""
    cut = prunus.shrink(checkpoint("llama"), tmp_path / "cut", width=24, layers=2, depth="influence", **quick)
    half = prunus.prune(cut.output, tmp_path / "half", sparsity=0.5, method="magnitude", **quick)
    healed = prunus.recover(half.output, tmp_path / "healed", **brief)
    plan = cut.record["plan"]
    wanted = {key: plan[key] for key in ("count", "blocks", "sizes", "units")}
    assert half.record["ancestry"] == wanted
    assert healed.record["ancestry"] == wanted
    again = prunus.distill(healed.output, tmp_path / "out", teacher=str(checkpoint("llama")), loss=["hidden"], **brief)
    assert again.held_out[1] < again.held_out[0]


def test_half_precision_stays(checkpoint, brief, tmp_path) -> None:
    prunus.recover(checkpoint("llama", torch.bfloat16), tmp_path / "out", **brief)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / MODEL).values()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe", "gemma3"])
def test_other_families(family, checkpoint, brief, tmp_path) -> None:
    result = prunus.distill(checkpoint(family), tmp_path / "out", teacher=str(checkpoint("llama")), **brief)
    assert result.held_out[1] < result.held_out[0]
    assert result.record["proof"]["reload"].startswith("from_pretrained: nothing missing")


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"loss": ["kl"]}, RecipeError, "needs a teacher"), ({"loss": ["klx"]}, RecipeError, "unknown loss"),
    ({"tokens": 10**8}, CalibrationError, "--epochs"), ({"lora": 0}, RecipeError, "lora"),
    ({"lora_alpha": 3.0}, RecipeError, "without lora"), ({"colour": "red"}, RecipeError, "unknown setting"),
    ({"masks": "free", "lora": 2}, RecipeError, "leave out one of"),
    ({"shared": 4, "lora": 2}, RecipeError, "leave out lora"), ({"shared": 9}, RecipeError, "from 2 to 8"),
    ({"masks": "loose"}, RecipeError, "neither held nor free"), ({"dtype": "float16"}, RecipeError, "float32, bfloat16"),
    ({"lr": -1.0}, RecipeError, "lr"), ({"batch": 1.5}, RecipeError, "batch"),
    ({"lr": 1e30, "warmup": 0.0}, NumericalError, "smaller --lr"),
    ({"loss": ["kl", "kl:temperature=2"], "teacher": "x"}, RecipeError, "give one"),
    ({"loss": ["ce", "ce:weight=2"]}, RecipeError, "loss ce is given twice"),
    ({"lora": 100_000}, RecipeError, "no layer of the model has a rank above"),
    ({"loss": ["ce:weight=-1"]}, RecipeError, "weight must be at least 0"),
    ({"warmup": 2.0}, RecipeError, "warmup 2.0 must be from 0 to below 1"),
])  # fmt: skip
def test_what_cannot_be_is_said(settings, error, message, pruned, brief, tmp_path) -> None:
    with pytest.raises(error, match=message):
        prunus.recover(pruned, tmp_path / "out", **{**brief, **settings})
    assert not (tmp_path / "out").exists()


def test_a_student_needs_a_teacher_of_the_same_tokens(pruned, brief, tokenizer, tmp_path) -> None:
    with pytest.raises(RecipeError, match="needs a teacher"):
        prunus.distill(pruned, tmp_path / "out", **brief)
    model_of("llama", vocab_size=300).save_pretrained(tmp_path / "other")
    with pytest.raises(RecipeError, match="have to be the same"):
        prunus.distill(pruned, tmp_path / "out", teacher=str(tmp_path / "other"), **brief)
    shutil.copytree(pruned, tmp_path / "turned")
    words = json.loads((tmp_path / "turned" / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    words["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (tmp_path / "turned" / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(RecipeError, match="its tokenizer reads the text otherwise"):
        prunus.distill(pruned, tmp_path / "out", teacher=str(tmp_path / "turned"), **brief)


def test_hidden_states_of_other_widths_are_compared_only_where_it_is_known_which(checkpoint, brief, tmp_path) -> None:
    model_of("llama", hidden_size=48, head_dim=8).save_pretrained(tmp_path / "wide")
    settings = {**brief, "teacher": str(tmp_path / "wide")}
    with pytest.raises(RecipeError, match="use the loss relations"):
        prunus.distill(checkpoint("llama"), tmp_path / "out", loss=["hidden"], **settings)
    result = prunus.distill(checkpoint("llama"), tmp_path / "out", loss=["relations"], **settings)
    assert result.held_out[1] < result.held_out[0]


def test_what_a_run_reads_is_never_written_to(pruned, brief, checkpoint, tmp_path) -> None:
    teacher = Path(shutil.copytree(checkpoint("llama"), tmp_path / "teacher"))
    before = (teacher / MODEL).read_bytes()
    with pytest.raises(OutputError, match="is the teacher itself"):
        prunus.distill(pruned, teacher, teacher=str(teacher), overwrite=True, **brief)
    with pytest.raises(OutputError, match="lies in a checkpoint"):
        prunus.distill(pruned, teacher / "healed", teacher=str(teacher), **brief)
    with pytest.raises(RecipeError, match="it is the student itself"):
        prunus.distill(pruned, tmp_path / "out", teacher=str(pruned), **brief)
    assert (teacher / MODEL).read_bytes() == before


def test_weights_that_are_no_numbers_are_found_before_anything_is_done(checkpoint, brief, tmp_path) -> None:
    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "nan"))
    tensors = load_file(folder / MODEL)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, folder / MODEL, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensor 'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN or Inf"):
        prunus.recover(folder, tmp_path / "out", **brief)
    assert [path.name for path in tmp_path.iterdir()] == ["nan"]


def test_after_a_loss_that_became_nan_it_is_said_how_to_start_anew(pruned, brief, checkpoint, tmp_path) -> None:
    settings = {**brief, "warmup": 0.0, "teacher": str(checkpoint("llama"))}
    with pytest.raises(NumericalError, match=r"smaller --lr.*is kept in .*\.out\.prunus-partial: remove that"):
        prunus.distill(pruned, tmp_path / "out", **{**settings, "lr": 1e30})
    shutil.rmtree(tmp_path / ".out.prunus-partial")
    prunus.distill(pruned, tmp_path / "out", **settings)


def test_hidden_states_of_another_kind_of_model_are_not_compared(pruned, brief, checkpoint, tmp_path) -> None:
    with pytest.raises(RecipeError, match="is a gpt2, the student a llama, whose channels have nothing in common"):
        prunus.distill(pruned, tmp_path / "out", teacher=str(checkpoint("gpt2")), loss=["hidden"], **brief)


def test_room_for_checkpoints_is_asked_for_before_the_teacher(pruned, brief, checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("prunus.verbs.heal_checks.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    told = StopAsking(99)
    with pytest.raises(ResourceError, match=r"training's checkpoints of .* parameters take"):
        prunus.distill(pruned, tmp_path / "out", teacher=str(checkpoint("llama")), progress=told, **brief)
    assert not told.parts
    assert not list(tmp_path.iterdir())


def test_an_encoder_is_no_language_model(pruned, brief, tokenizer, tmp_path) -> None:
    """Its tokens see those that are to be foretold."""
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertLMHeadModel(BertConfig(vocab_size=512, **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(UnsupportedModelError, match="its tokens see those behind them"):
        prunus.evaluate(tmp_path / "bert", str(brief["text"]), seqlen=32, windows=1)
    with pytest.raises(RecipeError, match="no decoder"):
        prunus.recover(tmp_path / "bert", tmp_path / "out", **brief)
    with pytest.raises(RecipeError, match="predicts no next tokens"):
        prunus.distill(pruned, tmp_path / "out", teacher=str(tmp_path / "bert"), **brief)


def test_what_is_on_a_grid_is_left_alone(checkpoint, quick, brief, tmp_path) -> None:
    prunus.prune(
        checkpoint("llama"), tmp_path / "int4", sparsity=0.5, method="sparsegpt", grid="int:bits=4,group=16", **quick
    )
    with pytest.raises(CheckpointError, match="on a grid"):
        prunus.recover(tmp_path / "int4", tmp_path / "out", **brief)
