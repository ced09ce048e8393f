"""A model opened to be cut, and what is found out about it once, however many models are cut from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.depth import DepthSurvey
from ..core.errors import CalibrationError, RecipeError
from ..core.progress import Progress
from ..core.stats import Needs
from ..models.numbers import least_experts
from ..models.tokens import load_tokenizer
from ..shrink_recipe import ShrinkRecipe
from ..stream.gradients import Gradients
from ..stream.sources import CheckpointSource
from ..structure.block_cutter import Choice
from ..structure.cost import Costs
from ..structure.depth_survey import survey_depth
from ..structure.latency import LatencyMeter
from ..structure.levers import levers_of, searched
from ..structure.outline import Outliner, anatomy_of, is_buildable
from ..structure.shape_trials import ShapeTrials
from ..structure.sizes import choose_sizes, depth_of, spread
from ..structure.survey import stream_scores
from ..structure.target_search import Found, TargetSearch
from ..structure.targets import Target
from .prepare import (
    calibration_windows,
    coverage_of,
    evaluation_windows,
    is_tokenised,
    limits_of,
    open_model,
    vocabulary,
)

_FITTED, _JUDGED = 8192, 2048
"""Most tokens that candidates of a search are repaired on, and judged on."""


@dataclass
class Survey:
    """``given`` are the sizes that were asked for, by axis and ``layers``; the rest is found when it is needed."""

    source: CheckpointSource
    outliner: Outliner
    recipe: ShrinkRecipe
    progress: Progress
    given: dict[str, int]
    windows: Tensor | None
    judged: Tensor | None
    gradients: Gradients | None
    _channels: dict[int, Tensor] = field(default_factory=dict)
    _blocks: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Blocks that there are."""
        return len(self.source.blocks)

    def channels(self, size: int) -> Tensor:
        """The channels of the residual stream that stay of ``size``, ascending."""
        if size not in self._channels:
            self._channels[size] = self._scores.argsort(descending=True, stable=True)[:size].sort().values
        return self._channels[size]

    @cached_property
    def _scores(self) -> Tensor:
        stream = self.outliner.anatomy.axes["width"].couplings[0]
        importance, limits = self.recipe.build_width_importance(), limits_of(self.recipe.run)
        return stream_scores(self.source, stream, importance, self.windows, limits, self.gradients, self.progress)

    def blocks(self, count: int) -> tuple[int, ...]:
        """The blocks that stay where ``count`` do."""
        if count not in self._blocks:
            gone: list[int] = []
            if count < self.count:
                gone = self.recipe.build_depth().choose(self._depth, self.count - count)
            self._blocks[count] = tuple(index for index in range(self.count) if index not in gone)
        return self._blocks[count]

    @cached_property
    def _depth(self) -> DepthSurvey:
        return survey_depth(self.source, self._text, limits_of(self.recipe.run), self.progress)

    @property
    def _text(self) -> Tensor:
        if self.windows is None:
            raise AssertionError("text is read wherever it is looked at")
        return self.windows

    def know(self, plan: Mapping[str, Any]) -> None:
        """Take over what the plan of an unfinished run has chosen, so that it is not sought again."""
        self._blocks[len(plan["blocks"])] = tuple(plan["blocks"])
        if "width" in plan["units"]:
            units = torch.tensor(plan["units"]["width"])
            self._channels[len(units)] = units

    def choice(self) -> Choice:
        """How units are chosen and repaired."""
        recipe = self.recipe
        return Choice(recipe.build_importance(), recipe.build_expert_importance(), recipe.run.build_method())

    def find(self, targets: Sequence[Target]) -> list[Found]:
        """A shape that meets it for each of the targets.

        Raises:
            RecipeError: if there are none, or too little text to try them on.
        """
        recipe, run, source = self.recipe, self.recipe.run, self.source
        anatomy = self.outliner.anatomy
        seqlen = self._text.shape[1]
        if len(self._text) < 2:
            raise CalibrationError("shapes are repaired on some calibration windows and judged on others: give --samples 2 "
                                   "or more.")  # fmt: skip
        judged = max(1, min(_JUDGED // seqlen, len(self._text) // 2))
        fitted = max(1, min(_FITTED // seqlen, len(self._text) - judged))
        texts = (self._text[:fitted], self._text[-judged:])
        trials = ShapeTrials(source, self.choice(), *texts, limits_of(run), self.progress, coverage_of(run), self.gradients)
        levers = levers_of(anatomy, self.count, recipe.along, list(self.given), _least(source), self._buildable)
        search = TargetSearch(
            self.outliner, Costs(source, anatomy, seqlen), trials, levers, self.given, self.blocks, self.channels,
            lambda: LatencyMeter(source, seqlen, self.outliner.vocabulary),
        )  # fmt: skip
        return search.find(targets)

    def _buildable(self, changes: dict[str, int]) -> bool:
        return is_buildable(self.source, self.recipe.run.trust_remote_code, changes)


def _least(source: CheckpointSource) -> dict[str, int]:
    return {"experts": least_experts(source.config)}


def survey(model: str | Path, recipe: ShrinkRecipe, progress: Progress) -> Survey:
    """Open a model and read what it is to be cut by.

    Raises:
        PrunusError: if sizes that were asked for cannot be, or texts cannot be read.
    """
    run = recipe.run
    source = open_model(model, run)
    tokens = vocabulary(source)
    outliner = Outliner(source, anatomy_of(source, tokens, run.trust_remote_code), tokens, run.trust_remote_code)
    made = Survey(source, outliner, recipe, progress, {}, None, None, None)
    made.given = _given(made)
    targets = recipe.targets()
    if not made.given and not targets:
        raise RecipeError(["nothing would be cut: every size that was asked for is what the model has"])
    names = set(made.given) | set(searched(recipe.along, list(made.given)) if targets else [])
    importance, channels = recipe.build_importance(), recipe.build_width_importance()
    needs = importance.needs | (channels.needs if "width" in names else Needs.NOTHING)
    looks = bool(needs) or bool(targets) or run.calibration is not None or bool({"width", "experts", "layers"} & names)
    looks = looks or (bool(names - {"width", "layers"}) and run.build_method().looks_at_inputs)
    made.windows, made.judged = _texts(source, recipe, looks)
    if made.windows is not None:
        sites = [site for found in source.found for site in found.sites]
        made.gradients = Gradients(source, sites, made.windows, needs, limits_of(run), progress)
        made.gradients.collect()
    return made


def _given(found: Survey) -> dict[str, int]:
    """The sizes that were asked for, but for those that are what the model has."""
    anatomy = found.outliner.anatomy
    wanted = spread(found.recipe.wanted(), anatomy)
    layers = wanted.pop("layers", None)
    sizes = choose_sizes(anatomy, wanted, found._buildable, _least(found.source))
    fewer = depth_of(layers, found.count) if layers is not None else found.count
    return {**sizes, "layers": fewer} if fewer < found.count else sizes


def _texts(source: CheckpointSource, recipe: ShrinkRecipe, looks: bool) -> tuple[Tensor | None, Tensor | None]:
    """The windows to calibrate on and those to judge on, None where no text is looked at."""
    run = recipe.run
    tokenizer = None
    if (looks and not is_tokenised(run)) or run.eval_windows:
        tokenizer = load_tokenizer(source.checkpoint.folder, run.trust_remote_code)
    windows = calibration_windows(source, tokenizer, run) if looks else None
    judged = None
    if run.eval_windows:
        judged = evaluation_windows(source, tokenizer, run.eval_text, run.seqlen, run.eval_windows)
    return windows, judged
