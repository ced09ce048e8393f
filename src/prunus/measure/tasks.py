"""Tasks of lm-eval (EleutherAI's harness), through its Python interface."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..core.errors import MissingLibraryError, RecipeError
from .intervals import Interval, change_interval, mean_interval, share_interval

METRICS = ("acc_norm", "acc", "exact_match", "f1", "mc2", "word_perplexity")
"""Of what a task measures the first of these is its figure: the papers' tables have acc_norm where there is one."""


@dataclass(frozen=True)
class Asked:
    """Which ``tasks`` a model is asked, with so many examples shown before each question (None: as the task says), and of
    how many questions (None: all); ``include_path`` is a folder with tasks of one's own."""

    tasks: tuple[str, ...]
    include_path: Path | None = None
    num_fewshot: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Score:
    """A model's figure on one task: the mean of a ``metric`` over ``questions``, with its interval."""

    metric: str
    value: float
    questions: int
    interval: Interval | None
    answers: tuple[float, ...] = ()

    def change(self, first: Score) -> Interval | None:
        """Of what it has more than another model on the same questions: None if these are not the same or too few."""
        if self.questions != first.questions or self.metric != first.metric or not self.answers:
            return None
        if {*self.answers, *first.answers} <= {0.0, 1.0}:
            pairs = list(zip(first.answers, self.answers, strict=True))
            return change_interval(pairs.count((0.0, 1.0)), pairs.count((1.0, 0.0)), len(pairs))
        return mean_interval([b - a for a, b in zip(first.answers, self.answers, strict=True)])


def check_asked(asked: Asked) -> None:
    """Raise MissingLibraryError if lm-eval is not installed, or RecipeError if it does not know a task."""
    if asked.tasks:
        _manager(asked)


def scores(model: Any, tokenizer: Any, asked: Asked) -> dict[str, Score]:
    """Figures of a causal language model in memory by task; of a group of tasks those of its members.

    Raises:
        RecipeError: if lm-eval cannot ask them, with its own words.
    """
    manager = _manager(asked)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asks = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device=str(model.device))
            found: Mapping[str, Any] = simple_evaluate(
                model=asks, tasks=list(asked.tasks), num_fewshot=asked.num_fewshot, limit=asked.limit,
                task_manager=manager, bootstrap_iters=0, log_samples=True,
            )  # fmt: skip
    except Exception as error:  # whatever datasets, tasks and templates of others raise
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RecipeError([f"tasks {', '.join(asked.tasks)}: lm-eval cannot ask them ({told})"]) from error
    return {name: _score(found["results"][name], samples) for name, samples in found["samples"].items()}


def _score(results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Score:
    """The figure of a task from its results, and from the answers to its questions."""
    values = {key.partition(",")[0]: value for key, value in results.items() if isinstance(value, (int, float))}
    metric = next((name for name in METRICS if name in values), None) or next(iter(values))
    answers = tuple(float(one[metric]) for one in samples if isinstance(one.get(metric), (int, float)))
    if len(answers) != len(samples):
        return Score(metric, float(values[metric]), len(samples), None)
    right = int(sum(answers))
    interval = share_interval(right, len(answers)) if {*answers} <= {0.0, 1.0} else mean_interval(answers)
    return Score(metric, float(values[metric]), len(answers), interval, answers)


@cache
def _manager(asked: Asked) -> Any:
    """lm-eval's list of tasks: of a folder's own alone where they are all that is asked, since its own are thousands."""
    if find_spec("lm_eval") is None:
        raise MissingLibraryError("tasks need lm-eval, which is not installed: pip install 'prunus[bench]'")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    folder = None if asked.include_path is None else str(asked.include_path)
    if folder is not None:
        own = TaskManager(include_path=folder, include_defaults=False)
        if all(own.match_tasks([name]) for name in asked.tasks):
            return own
    manager = TaskManager(include_path=folder)
    unknown = [name for name in asked.tasks if not manager.match_tasks([name])]
    if unknown:
        raise RecipeError([f"lm-eval knows no task '{name}'; `lm-eval ls tasks` lists them" for name in unknown])
    return manager
