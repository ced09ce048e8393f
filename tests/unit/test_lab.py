"""The training loop against plain PyTorch: rates, steps, judging, what is kept, and going on where a run was stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from prunus.core.errors import CheckpointError, NumericalError, RecipeError
from prunus.core.progress import Silent
from prunus.lab.judge import Teacher, judge, loss_of
from prunus.lab.kept import load_state, load_weights, save_state, save_weights
from prunus.lab.loop import Course, Kept, train
from prunus.lab.training import Training, optimizer_of, rate
from prunus.measure.speed import forward_seconds
from prunus.samples.batches import InOrder, Shuffled
from prunus.samples.examples import Held, Samples
from prunus.zoo.build import build

CPU = torch.device("cpu")


def training(**changed: Any) -> Training:
    plain = {
        "epochs": 4, "batch": 8, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01,
        "lr_schedule": "cosine", "warmup": 0.0, "milestones": (0.5, 0.75), "label_smoothing": 0.0, "crop": 0, "flip": False,
        "precision": "float32", "compile": False, "seed": 3,
    }  # fmt: skip
    return Training(**{**plain, **changed})


def samples_of(count: int = 40, classes: int = 3) -> Samples:
    """Images whose mean brightness tells the class, with noise."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    noise = torch.randint(0, 60, (count, 1, 4, 4), generator=chance)
    held = Held((noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)
    return Samples.of_images("bright", held, held, classes)


class Net(nn.Module):
    """Dropout and a batch norm, so that chance and buffers count."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.drop, self.fc2 = nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.drop(self.norm(self.fc1(x.flatten(1))).relu()))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def kept_in(folder: Path, run: str = "one") -> Kept:
    return Kept(folder / "state.safetensors", run, lambda entry: None)


def test_rates_by_their_closed_forms() -> None:
    plain = training(lr=2.0)
    assert rate(0, 100, plain) == 2.0
    assert rate(25, 100, plain) == pytest.approx(2 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rate(99, 100, plain) == pytest.approx(1 + math.cos(math.pi * 0.99))
    rising = training(lr=2.0, warmup=0.1)
    assert [rate(step, 100, rising) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert rate(10, 100, rising) == 2.0
    assert rate(55, 100, rising) == pytest.approx(1.0)
    steps = training(lr=2.0, lr_schedule="step")
    assert [rate(step, 100, steps) for step in (49, 50, 74, 75)] == pytest.approx([2.0, 0.2, 0.2, 0.02])
    assert {rate(step, 100, training(lr=2.0, lr_schedule="constant")) for step in range(100)} == {2.0}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_is_plain_training(optimizer: str, tmp_path: Path) -> None:
    """The same weights, bit for bit, as steps written out."""
    settings = training(optimizer=optimizer, lr=0.05, nesterov=True, label_smoothing=0.1, warmup=0.1, crop=1, flip=True)
    samples, model, plain = samples_of(), net(), net()
    history = train(model, samples, settings, None, kept_in(tmp_path), Silent())
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, lr=1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True),
        "adam": lambda p: torch.optim.Adam(p, lr=1, weight_decay=0.01, fused=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr=1, weight_decay=0.01, fused=True),
    }
    stepper = kinds[optimizer](plain.parameters())
    shuffled = Shuffled(samples, 8, CPU, 3, 1, True)
    assert len(shuffled) == 5
    losses = []
    for epoch in range(4):
        plain.train()
        torch.manual_seed(3 * 1_000_003 + epoch)
        for number, (images, labels) in enumerate(shuffled.epoch(epoch)):
            step = 5 * epoch + number
            lr = 0.05 * (step + 1) / 2 if step < 2 else 0.05 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 18))
            stepper.param_groups[0]["lr"] = lr
            stepper.zero_grad()
            loss = cross_entropy(plain(images), labels, label_smoothing=0.1)
            loss.backward()
            stepper.step()
            losses.append(float(loss.detach()))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=0, atol=0)
    assert [epoch["loss"] for epoch in history] == pytest.approx([sum(losses[k : k + 5]) / 5 for k in (0, 5, 10, 15)])
    assert history[-1]["test_score"] > 60, "it does not learn"


def test_judging_is_counting(text_file: Path) -> None:
    from prunus.samples.source import source_of

    samples, model = samples_of(10), net().eval()
    found = judge(model.train(), InOrder(samples, samples.test, 4, CPU))
    logits = model(samples.normalised(samples.test.inputs)).detach()
    assert not model.training
    assert found.loss == pytest.approx(float(cross_entropy(logits, samples.test.answers)))
    assert found.score == pytest.approx(100 * float((logits.argmax(1) == samples.test.answers).float().mean()))
    words = source_of(f"text:{text_file},seqlen=16,vocabulary=300").open()
    decoder = build("decoder:layers=1,width=16,heads=2", 0, words.given()).eval()
    some = InOrder(words, words.test, 4, CPU, torch.arange(6))
    told = judge(decoder, some)
    windows = words.test.inputs[:6]
    plain = decoder(windows, labels=windows).loss.detach()
    assert told.loss == pytest.approx(float(plain), rel=1e-5)
    assert told.score == pytest.approx(math.exp(float(plain)), rel=1e-4)
    with torch.no_grad():
        decoder.lm_head.weight.mul_(1e6)
    with pytest.raises(NumericalError, match="the loss on the test examples is"):
        judge(decoder, some)
    decoder.lm_head.weight.data.mul_(1e-6)
    assert float(loss_of(decoder, windows, windows).detach()) == pytest.approx(float(plain), rel=1e-5)


class Ends(BaseException):
    """Like a kill."""


class EndsIn:
    """A progress that ends the process's work at a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def start(self, task: str, total: int) -> None:
        pass

    def step(self, note: str = "") -> None:
        if note != "done before":
            self.left -= 1
            if self.left == 0:
                raise Ends

    def close(self) -> None:
        pass


class Masked:
    """Zeros held by hand, and a moving part that has to be kept: which weight of fc1 is zero rotates with the steps."""

    dense_gradients = 0.0

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, state: Any) -> None:
        self.weight, self.steps, self.over = model.get_parameter("fc1.weight"), steps, False
        self.count = state["count"] if state else 0

    @torch.no_grad()
    def step(self) -> None:
        self.weight.view(-1)[self.count :: 7] = 0
        self.count = (self.count + 1) % 7

    def finish(self) -> None:
        self.over = True

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [3, 5, 13])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(optimizer: str, stop: int, tmp_path: Path) -> None:
    settings, samples = training(optimizer=optimizer, lr=0.02, crop=1, flip=True, warmup=0.2), samples_of()
    whole = net()
    history = train(whole, samples, settings, Masked, kept_in(tmp_path / "a"), Silent()) if mkdirs(tmp_path) else []
    kept = kept_in(tmp_path / "b")
    with pytest.raises(Ends):
        train(net(), samples, settings, Masked, kept, EndsIn(stop))
    resumed = net()
    again = train(resumed, samples, settings, Masked, kept, Silent())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    drop = [{key: epoch[key] for key in epoch if key != "seconds"} for epoch in history]
    assert drop == [{key: epoch[key] for key in epoch if key != "seconds"} for epoch in again]


def mkdirs(folder: Path) -> bool:
    for name in ("a", "b"):
        (folder / name).mkdir()
    return True


def test_what_is_kept_of_another_run_is_not_taken(tmp_path: Path) -> None:
    samples, settings = samples_of(), training(epochs=1)
    train(net(), samples, settings, None, kept_in(tmp_path, "other"), Silent())
    one, two = net(1), net(1)
    train(one, samples, settings, None, kept_in(tmp_path, "one"), Silent())
    train(two, samples, settings, None, Kept(tmp_path / "fresh", "one", lambda entry: None), Silent())
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


def test_the_sparsifier_is_stepped_and_finished(tmp_path: Path) -> None:
    made: list[Masked] = []

    def sparsify(*words: Any) -> Masked:
        made.append(Masked(*words))
        return made[-1]

    model = net()
    train(model, samples_of(), training(epochs=2), sparsify, kept_in(tmp_path), Silent())
    assert made[0].steps == 10
    assert made[0].count == 10 % 7
    assert made[0].over
    assert (model.fc1.weight.view(-1)[2::7] == 0).all(), "the last step was not followed by the sparsifier's"


def test_a_loss_that_is_no_number_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        NumericalError, match=r"the loss is (nan|inf) in epoch 1, by batch \d, .* a lower lr, some warmup.$"
    ):
        train(net(), samples_of(), training(lr=1e30, epochs=2), None, kept_in(tmp_path), Silent())
    with pytest.raises(NumericalError, match="or precision float32"):
        train(net(), samples_of(), training(lr=1e30, precision="bfloat16"), None, kept_in(tmp_path), Silent())


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    one, two = net(), net()
    histories = []
    for model, precision in ((one, "float32"), (two, "bfloat16")):
        settings = training(precision=precision, epochs=2)
        histories.append(train(model, samples_of(), settings, None, kept_in(tmp_path, precision), Silent()))
    losses = [history[-1]["loss"] for history in histories]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert two.fc1.weight.dtype == torch.float32


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.arange(6).view(2, 3)
    state = {
        "a": [1, 2.5, None, True, "text", (0.9, 0.999)], "b": {3: {"x": torch.tensor(1.5), "y": torch.zeros(0)}},
        "c": [shared, shared.T, torch.tensor([True])], "d": {},
    }  # fmt: skip
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    assert back["a"] == state["a"]
    assert isinstance(back["a"][5], tuple)
    assert list(back["b"]) == [3]
    assert torch.equal(back["b"][3]["x"], torch.tensor(1.5))
    assert torch.equal(back["c"][1], shared.T)
    assert back["d"] == {}
    assert not list(tmp_path.glob("*.new"))
    with pytest.raises(TypeError, match="a set is neither a tensor nor a plain value"):
        save_state(tmp_path / "s", {"a": {1}})
    assert load_state(tmp_path / "s")["a"] == state["a"], "what was there is gone"


def test_weights_are_plain_state_dicts(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = net()
    save_weights(model, tmp_path / "m")
    found = load_file(tmp_path / "m" / "model.safetensors")
    assert found.keys() == model.state_dict().keys()
    other = net(5)
    load_weights(other, tmp_path / "m" / "model.safetensors")
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    for path, says in ((tmp_path / "none.safetensors", "do not go into Linear"),
                       (tmp_path / "m" / "model.safetensors", "do not go into Linear .*Missing|Unexpected")):  # fmt: skip
        with pytest.raises(CheckpointError, match=says):
            load_weights(nn.Linear(2, 2), path)


def test_the_decoders_weights_are_a_checkpoint_with_its_tokenizer(tmp_path: Path, text_file: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prunus.samples.source import source_of

    samples = source_of(f"text:{text_file},seqlen=16,vocabulary=300").open()
    model = build("decoder:layers=1,width=16,heads=2", 0, samples.given())
    save_weights(model, tmp_path / "d", samples.tokenizer)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "d")
    assert torch.equal(back(samples.test.inputs[:1]).logits, model.eval()(samples.test.inputs[:1]).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "d").decode(samples.train.inputs[0])
    other = build("decoder:layers=1,width=16,heads=2", 1, samples.given())
    load_weights(other, tmp_path / "d" / "model.safetensors")
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    assert other.lm_head.weight is other.model.embed_tokens.weight


def test_latencies_are_medians_in_turn() -> None:
    calls: list[str] = []

    def counting(name: str) -> Callable[[torch.Tensor], None]:
        return lambda inputs: calls.append(name)

    one, two = forward_seconds([counting("a"), counting("b")], torch.zeros(1), 2, 3)
    assert calls == ["a", "b"] * 5
    assert 0 < one < 1
    assert 0 < two < 1


def test_only_sgd_has_a_momentum() -> None:
    weight = [nn.Parameter(torch.zeros(1))]
    assert optimizer_of(training(momentum=0.5), weight).defaults["momentum"] == 0.5
    assert "momentum" not in optimizer_of(training(optimizer="adamw"), weight).defaults


def test_a_teacher_is_followed_as_the_paper_has_it() -> None:
    torch.manual_seed(0)
    student, master = nn.Linear(6, 4), nn.Linear(6, 4)
    inputs, answers = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    taught = Teacher(master, weight=0.3, temperature=2.0).loss(student, inputs, answers)
    logits, wanted = student(inputs), master(inputs)
    soft = (wanted / 2).softmax(-1)
    far = (soft * (soft.log() - (logits / 2).log_softmax(-1))).sum(-1).mean()
    own = nn.functional.cross_entropy(logits, answers)
    torch.testing.assert_close(taught, 0.7 * own + 0.3 * 4 * far)
    taught.backward()
    assert master.weight.grad is None
    same = Teacher(student, weight=1.0).loss(student, inputs, answers)
    assert float(same.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_compiled_training_is_near_plain_training_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """Without dropout, whose random numbers a compiled network draws otherwise; then with it, stopped and not."""
    plain, fused = net(), net()
    losses = []
    for model, compile_ in ((plain, False), (fused, True)):
        model.drop.p = 0.0
        history = train(model, samples_of(), training(compile=compile_), None, kept_in(tmp_path, str(compile_)), Silent())
        losses.append(history[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert list(plain.state_dict()) == list(fused.state_dict())
    torch.testing.assert_close(plain.state_dict(), fused.state_dict(), rtol=1e-3, atol=1e-4)
    taught = Course(teacher=Teacher(net(5).eval()))
    whole, stopped, gone_on = net(), net(), net(seed=9)
    train(whole, samples_of(), training(compile=True), None, kept_in(tmp_path, "whole"), Silent(), taught)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, samples_of(), training(compile=True), None, stop_behind(tmp_path, epoch=2), Silent(), taught)
    train(gone_on, samples_of(), training(compile=True), None, kept_in(tmp_path), Silent(), taught)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), gone_on.parameters(), strict=True))


def stop_behind(folder: Path, epoch: int) -> Kept:
    def mark(entry: dict[str, Any]) -> None:
        if entry["epoch"] == epoch:
            raise KeyboardInterrupt

    return Kept(folder / "state.safetensors", "one", mark)


def test_where_torch_cannot_compile_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            raise RuntimeError("No working C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(RecipeError, match=r"compile: torch cannot compile on this machine \(No working C\+\+ compiler"):
        train(net(), samples_of(), training(compile=True), None, kept_in(tmp_path), Silent())
