"""Zero-shot accuracy by lm-eval on tasks made from the local texts: no hub is asked for anything.

    python benchmarks/zero_shot.py [--methods sparsegpt balanced best] [--sparsity 0.6] [--seed 1] [--items 400]

``TEXT_cloze``: a word of a passage, from all that stands before it, where it has stood already (as LAMBADA asks).
``TEXT_choice``: which of four sentences follows a passage; the other three are from elsewhere in the same text. Items are
drawn with a fixed seed, so that every model is asked the same. ``benchmarks/quality.py --items`` asks every method a few;
this asks some methods many, pruned as there, and says what their differences from SparseGPT are worth: means over all items
that both were asked. One row a model in ``benchmarks/rows/zero_shot.jsonl``, each item a 1 or a 0.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quality import BASELINE, DENSE, TEXTS, locate_model, pruned
from quality import CHOICES as METHODS
from rows import Rows, resolved

CHOICES = 4
_CONTEXT = 40
"""Words of a passage, at least."""
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")

_YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: {kind}
doc_to_text: "{{{{context}}}}"
{rest}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
_REST = {
    "cloze": 'doc_to_target: " {{word}}"',
    "choice": 'doc_to_choice: choices\ndoc_to_target: answer\ntarget_delimiter: " "',
}
_KIND = {"cloze": ("loglikelihood", "acc"), "choice": ("multiple_choice", "acc_norm")}


def main() -> None:
    """Ask the models that have no row yet, then print what all rows say."""
    parser = argparse.ArgumentParser()
    default = [BASELINE, "balanced", "balanced, sparse target", "best"]
    parser.add_argument("--methods", nargs="+", default=default, choices=list(METHODS))
    parser.add_argument("--sparsity", default="0.6")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--items", type=int, default=400)
    options = parser.parse_args()
    rows = Rows(Path(__file__).parent / "rows" / "zero_shot.jsonl")
    asked = {"sparsity": options.sparsity, "seed": options.seed, "samples": options.samples, "seqlen": options.seqlen}
    for name in (DENSE, *options.methods):
        row: dict[str, Any] = {"name": name, "items": options.items}
        if name != DENSE:
            row |= {**asked, "resolved": resolved({**METHODS[name], **asked})}
        if rows.has(**row):
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = locate_model() if name == DENSE else Path(place) / "out"
            if name != DENSE:
                pruned(folder, {**METHODS[name], **asked, "eval-windows": 0})
            rows.add(**row, right=right_answers(folder, texts(), options.items))
    wanted = {**asked, "items": options.items}
    summarise([row for row in rows.all() if all(row.get(key, value) == value for key, value in wanted.items())])


def summarise(rows: list[dict[str, Any]]) -> None:
    """Accuracies, and the mean differences from SparseGPT, task by task and over all items, with their standard errors."""
    base = next((row["right"] for row in rows if row["name"] == BASELINE), None)
    for row in rows:
        tasks = {**row["right"], "all": "".join(row["right"].values())}
        words = [f"{task} {answers.count('1') / len(answers):.1%}" for task, answers in tasks.items()]
        if base is not None and row["right"] is not base:
            others = {**base, "all": "".join(base.values())}
            words = [f"{word} ({difference(tasks[task], others[task])})" for word, task in zip(words, tasks, strict=True)]
        print(f"{row['name']}: " + ", ".join(words))


def difference(answers: str, others: str) -> str:
    """How much oftener one model is right than another on the same items; the error is that of the mean over pairs."""
    changes = [int(one) - int(other) for one, other in zip(answers, others, strict=True)]
    mean = sum(changes) / len(changes)
    error = sum((change - mean) ** 2 for change in changes) ** 0.5 / len(changes)
    return f"{mean:+.1%} ± {error:.1%}"


def texts() -> dict[str, str]:
    """The texts that are judged on."""
    from prunus.observe.text import read_text

    return {name: read_text(text) for name, text in TEXTS.items()}


def accuracies(folder: Path, items: int) -> dict[str, dict[str, float]]:
    """Accuracy and its standard error of the checkpoint in ``folder``, by task."""
    scores = {}
    for name, answers in right_answers(folder, texts(), items).items():
        share = answers.count("1") / len(answers)
        scores[name] = {"accuracy": share, "stderr": (share * (1 - share) / len(answers)) ** 0.5}
    return scores


def right_answers(folder: Path, texts: Mapping[str, str], items: int, batch: int = 8) -> dict[str, str]:
    """What the checkpoint in ``folder`` gets right, by task: a 1 or a 0 for every item; ``texts`` by name."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prunus.core.matmul import FastLinears

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    judged = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch)
    with tempfile.TemporaryDirectory() as where:
        names = [name for text, content in texts.items() for name in write_tasks(Path(where), text, content, items)]
        manager = TaskManager(include_path=where, include_defaults=False)
        with FastLinears():
            found = simple_evaluate(judged, tasks=names, task_manager=manager, bootstrap_iters=0)["samples"]
    answers = {}
    for name in names:
        metric = _KIND[name.rpartition("_")[2]][1]
        answers[name] = "".join(str(int(item[metric])) for item in sorted(found[name], key=lambda item: item["doc_id"]))
    return answers


def write_tasks(folder: Path, text: str, content: str, items: int) -> list[str]:
    """Write both tasks of a text and their items; returns their names."""
    sentences = [sentence for paragraph in paragraphs(content) for sentence in paragraph]
    rng = random.Random(0)
    passages = list(_passages(content))
    made: dict[str, list[dict[str, Any]]] = {
        "cloze": [item for item in map(_cloze, passages) if item is not None],
        "choice": [_choice(passage, sentences, rng) for passage in passages],
    }
    names = []
    for kind, found in made.items():
        if len(found) < items:
            raise ValueError(f"{text} yields only {len(found)} {kind} items, {items} are wanted")
        name, path = f"{text}_{kind}", folder / f"{text}_{kind}.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in rng.sample(found, items)))
        output, metric = _KIND[kind]
        task = _YAML.format(name=name, path=path, kind=output, metric=metric, rest=_REST[kind])
        (folder / f"{name}.yaml").write_text(task)
        names.append(name)
    return names


def paragraphs(content: str) -> Iterator[list[str]]:
    """The sentences of every paragraph."""
    for paragraph in re.split(r"\n\s*\n", content):
        found = [" ".join(sentence.split()) for sentence in _SENTENCE.split(paragraph) if sentence.strip()]
        if found:
            yield found


def _passages(content: str) -> Iterator[tuple[str, str]]:
    """Passages of whole sentences, 40 words or more, each with the sentence that follows."""
    for sentences in paragraphs(content):
        context: list[str] = []
        for sentence in sentences:
            if sum(len(part.split()) for part in context) >= _CONTEXT:
                if len(sentence.split()) >= 5:
                    yield " ".join(context), sentence
                context = []
            context.append(sentence)


def _cloze(passage: tuple[str, str]) -> dict[str, Any] | None:
    """The passage up to its last word of five letters or more that has stood in it before; None if there is none."""
    words = " ".join(passage).split()
    plain = [re.sub(r"^\W+|\W+$", "", word) for word in words]
    for place in range(len(words) - 1, _CONTEXT // 2, -1):
        word = plain[place]
        if len(word) >= 5 and words[place].startswith(word) and word.isalpha() and word in plain[:place]:
            return {"context": " ".join(words[:place]), "word": word}
    return None


def _choice(passage: tuple[str, str], sentences: list[str], rng: random.Random) -> dict[str, Any]:
    """The passage, what follows it and three sentences of about its length from elsewhere."""
    context, following = passage
    length = len(following.split())
    others: list[str] = []
    while len(others) < CHOICES - 1:
        other = rng.choice(sentences)
        if other != following and other not in context and other not in others and 0.5 < len(other.split()) / length < 2:
            others.append(other)
    answer = rng.randrange(CHOICES)
    return {"context": context, "choices": [*others[:answer], following, *others[answer:]], "answer": answer}


if __name__ == "__main__":
    main()
