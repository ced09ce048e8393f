"""compare: what is told of models side by side is what a plain loop finds of each, and what was asked of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import prunus
from prunus.cli.app import app
from prunus.runtime.decode import timed
from prunus.runtime.peak import Memory
from prunus.verbs.compare_running import _largest

JUDGED = {"seqlen": 64, "windows": 8}
QUALITY = {**JUDGED, "quality_only": True}
QUICK = {**JUDGED, "new_tokens": 4, "prompt_tokens": 8, "repeats": 2}


@pytest.fixture(scope="module")
def halved(checkpoint, tmp_path_factory) -> Path:
    """The tiny Llama with the smaller half of every matrix at zero."""
    folder = tmp_path_factory.mktemp("halved") / "halved"
    prunus.prune(checkpoint("llama"), folder, method="magnitude", eval_windows=0)
    return folder


def plain_windows(folder: Path, text: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A model of transformers and the same windows, by the definition."""
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"][0]
    return AutoModelForCausalLM.from_pretrained(folder).eval(), ids[: 8 * 64].view(8, 64)


@torch.no_grad()
def test_perplexity_and_its_interval_are_those_of_an_independent_loop(checkpoint, halved, text, text_file):
    found = prunus.compare(checkpoint("llama"), halved, text=text_file, **QUALITY)
    losses, logits = [], []
    for side, folder in ((found.dense, checkpoint("llama")), (found.pruned, halved)):
        model, windows = plain_windows(folder, text)
        losses.append([float(model(window[None], labels=window[None]).loss) for window in windows])
        logits.append([model(window[None]).logits[0].double().log_softmax(-1) for window in windows])
        assert side.perplexity.value == pytest.approx(math.exp(sum(losses[-1]) / 8), rel=1e-5)
        assert side.perplexity.value in side.perplexity.interval
    kls = [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(*logits, strict=True)]
    assert found.pruned.kl.value == pytest.approx(sum(kls) / 8, rel=1e-4)
    assert min(kls) < found.pruned.kl.interval.low < found.pruned.kl.interval.high < 1.5 * max(kls)
    times = math.exp(sum(b - a for a, b in zip(*losses, strict=True)) / 8)
    assert times in found.pruned.perplexity_times
    assert found.dense.perplexity_times is None


def test_a_model_beside_itself_differs_by_nothing_and_is_told_so(checkpoint, text_file):
    found = prunus.compare(*[checkpoint("llama")] * 3, text=text_file, **QUALITY)
    for side in found.models[1:]:
        assert (side.kl.value, side.agreement.value) == (0, 1)
        assert (side.perplexity_times.low, side.perplexity_times.high) == (1, 1)
        assert side.continuations is side.decode_tokens_per_second is None
    assert found.not_measured == []


def test_what_running_the_models_costs(checkpoint, halved, text_file):
    found = prunus.compare(
        checkpoint("llama"), halved, text=text_file, **QUICK, watts=50, grid_intensity=100, price=2.0, memory_limit=4.0
    )
    for side in found.models:
        speed, latency = side.decode_tokens_per_second, side.latency_seconds
        assert 0 < speed.least <= speed.median <= speed.most
        assert side.prefill_tokens_per_second.median > 0
        assert latency.median > 3 / speed.most
        assert 50e6 < side.resident_bytes <= side.peak_bytes
        assert side.largest_batch > 100
        assert not side.costs.measured
        assert side.costs.price == pytest.approx(2.0 * 1e6 * latency.median / 4 / 3600)
        assert side.costs.joules_per_token == pytest.approx(50 * latency.median / 4, rel=1)
        assert side.costs.grams == pytest.approx(side.costs.joules_per_token * 1e6 / 3.6e6 * 100)
    assert found.not_measured == []
    assert len(found.pruned.continuations) == 3


def test_drawn_continuations_are_the_same_of_every_model_and_of_the_seed(checkpoint, text_file, monkeypatch):
    monkeypatch.setattr("prunus.verbs.compare_running.memory_of", lambda run: Memory(1, 1))
    settings = {
        "text": text_file,
        **QUICK,
        "continuation_tokens": 12,
        "temperature": 1.0,
        "top_p": 0.9,
        "prompts": ("The", "A"),
    }
    first, again = prunus.compare(*[checkpoint("llama")] * 2, **settings, seed=1).models
    other = prunus.compare(checkpoint("llama"), **settings, seed=2).dense
    assert first.continuations == again.continuations != other.continuations
    assert len(first.continuations) == 2


def write_task(folder: Path, questions: list[tuple[str, int]]) -> Path:
    """A task of one's own in lm-eval's form: which of two words follows."""
    folder.mkdir()
    lines = [json.dumps({"q": question, "a": answer}) for question, answer in questions]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    (folder / "words.yaml").write_text(f"""task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "questions.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_target: a
doc_to_choice: [people, water]
metric_list: [{{metric: acc}}]
""")
    return folder


@pytest.fixture
def words(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    starts = ("The land has many", "He drinks the", "The population is", "Rivers carry", "A village of", "The sea is")
    return write_task(tmp_path / "tasks", [(f"{start} {n}", n % 2) for n in range(4) for start in starts])


def test_many_models_share_several_tables(checkpoint, text_file, tmp_path):
    names = [tmp_path / f"m{number}" for number in range(6)]
    for name in names:
        name.symlink_to(checkpoint("llama"))
    done = CliRunner().invoke(app, ["compare", *map(str, names), "-t", str(text_file), "--seqlen", "64", "--quality-only"])
    assert done.exit_code == 0, done.output
    heads = [line for line in done.output.splitlines() if line.startswith("┃") and "m" in line.split("┃")[-2]]
    assert [[f"m{k}" in line for k in range(6)] for line in heads] == [[k < 4 for k in range(6)], [k > 3 for k in range(6)]]
    assert done.output.count("│ perplexity") == 2
    assert f"{names[0]} against 5 others" in " ".join(done.output.split())


def test_tasks_are_answered_as_the_model_itself_would(checkpoint, halved, text_file, words):
    found = prunus.compare(
        checkpoint("llama"), halved, text=text_file, **QUALITY, tasks=["words"], include_path=words, num_fewshot=0
    )
    questions = [json.loads(line) for line in (words / "questions.jsonl").read_text().splitlines()]
    for side, folder in ((found.dense, checkpoint("llama")), (found.pruned, halved)):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        right = 0
        for one in questions:
            scores = [log_likelihood(model, tokenizer, one["q"], choice) for choice in (" people", " water")]
            right += scores.index(max(scores)) == one["a"]
        figure = side.tasks["words"]
        assert (figure.metric, figure.questions) == ("acc", len(questions))
        assert figure.value == pytest.approx(right / len(questions))
        assert figure.value in figure.interval
    assert found.dense.tasks["words"].change is None
    assert found.pruned.tasks["words"].change is not None
    limited = prunus.compare(halved, text=text_file, **QUALITY, tasks=["words"], include_path=words, limit=5)
    assert limited.dense.tasks["words"].questions == 5


def test_a_task_that_cannot_be_asked_loses_nothing_else(checkpoint, text_file, words):
    (words / "questions.jsonl").unlink()
    found = prunus.compare(checkpoint("llama"), text=text_file, **QUALITY, tasks=["words"], include_path=words)
    assert found.dense.tasks is None
    assert found.dense.perplexity.value > 1
    (told,) = [what for what in found.not_measured if "tasks words: lm-eval cannot ask them" in what]
    assert "questions.jsonl" in told


@torch.no_grad()
def log_likelihood(model, tokenizer, start: str, choice: str) -> float:
    before, whole = tokenizer(start)["input_ids"], tokenizer(start + choice, return_tensors="pt")["input_ids"]
    logits = model(whole).logits[0].log_softmax(-1)
    return float(sum(logits[k - 1, whole[0, k]] for k in range(len(before), whole.shape[1])))


def test_models_with_other_caches_are_timed_too(checkpoint, text_file, monkeypatch):
    monkeypatch.setattr("prunus.verbs.compare_running.memory_of", lambda run: Memory(1, 1))
    found = prunus.compare(checkpoint("mamba"), text=text_file, **QUICK).dense
    assert found.latency_seconds.least > 0
    assert len(found.continuations) == 3


@torch.no_grad()
def test_what_is_timed_is_what_the_model_says(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint("llama")).eval()
    ids = torch.randint(0, 512, (1, 7))
    found, plain = timed(model, ids, 5), ids
    for _ in range(5):
        plain = torch.cat([plain, model(plain).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found.ids, plain[:, 7:])
    assert len(found.step_seconds) == 4
    assert min(found.prefill_seconds, *found.step_seconds) > 0


@pytest.mark.parametrize(
    ("limit", "one", "many", "largest"), [(10, 4, 11, 7), (3.9, 4, 11, 0), (4, 4, 11, 1), (6, 4, 4, 3), (6, 4, None, None)]
)
def test_the_largest_batch_is_found_from_the_peaks_of_one_and_of_eight(limit, one, many, largest):
    assert _largest(limit, Memory(1, one), None if many is None else Memory(1, many)) == largest


def test_the_record_and_the_table(checkpoint, halved, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr("prunus.verbs.compare_running.memory_of", lambda run: None)
    file, run = tmp_path / "compared.json", CliRunner()
    words = ["compare", str(checkpoint("llama")), str(halved), str(halved), "--text", str(text_file)]
    for name, value in QUICK.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    done = run.invoke(app, [*words, "-o", str(file), "--prompt", "The [bold]land"])
    assert done.exit_code == 0, done.output
    for told in ("perplexity", "±", "halved", "[bold]land", "J a new token", "not measured: memory"):
        assert told in done.output
    record = json.loads(file.read_text())
    assert record["kind"] == "compare"
    assert [model["model"] for model in record["models"]] == words[1:4]
    assert record["recipe"]["windows"] == 8
    again = run.invoke(app, [*words, "-o", str(file)])
    assert "exists already" in str(again.exception)
    assert run.invoke(app, [*words, "-o", str(file), "--overwrite", "--json"]).exit_code == 0
    (tmp_path / "diary.json").write_text("{}")
    refused = run.invoke(app, [*words, "-o", str(tmp_path / "diary.json"), "--overwrite"])
    assert "holds no figures of a comparison" in str(refused.exception)
    assert (tmp_path / "diary.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("settings", "faults"),
    [
        ({"prompts": ()}, ["no prompt is given"]),
        ({"prompts": ("Once", "")}, ["the prompt '' has no tokens"]),
        ({"repeats": 0, "top_p": 0, "watts": -1, "price": math.nan}, ["repeats is 0", "top_p is 0", "watts", "price"]),
        ({"limit": 3}, ["none is named"]),
        ({"tasks": ["no_such_task"]}, ["no task 'no_such_task'"]),
        ({"window": 3}, ["unknown setting 'window'"]),
    ],
)
def test_what_is_refused_before_anything_is_judged(settings, faults, checkpoint, monkeypatch):
    monkeypatch.setattr("prunus.verbs.compare.divergences", lambda *_: pytest.fail("judged"))
    with pytest.raises(prunus.PrunusError) as error:
        prunus.compare(checkpoint("llama"), **settings)
    for fault in faults:
        assert fault in str(error.value)


def test_models_of_other_vocabularies_are_refused(checkpoint, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in checkpoint("llama").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 500}))
    tensors = load_file(other / "model.safetensors")
    cut = {name: tensor[:500].clone() if tensor.shape[0] == 512 else tensor for name, tensor in tensors.items()}
    save_file(cut, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(prunus.PrunusError, match="500: their predictions cannot be compared"):
        prunus.compare(checkpoint("llama"), other, seqlen=64)


def test_what_does_not_fit_in_memory_is_left_out_and_told(checkpoint, text_file, monkeypatch):
    monkeypatch.setattr("prunus.verbs.compare_running.available_memory_bytes", lambda device: 0)
    found = prunus.compare(*[checkpoint("llama")] * 2, text=text_file, **QUICK)
    assert "the models together need" in found.not_measured[0]
    assert found.dense.decode_tokens_per_second is found.dense.continuations is None
    assert found.pruned.kl.value == 0
