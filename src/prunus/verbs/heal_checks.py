"""What is checked before a healing run does anything that takes long."""

from __future__ import annotations

import shutil
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, RecipeError, ResourceError
from ..core.finite import all_finite
from ..heal_recipe import HealRecipe
from ..measure.memory import available_memory_bytes
from ..models.tokens import load_tokenizer, tokenize
from ..stream.sources import CheckpointSource
from ..structure.cost import parameters_of
from .prepare import check_length, vocabulary

_SAMPLE = 20_000
"""Characters that both tokenizers have to read alike."""


def check_finite(model: str, source: CheckpointSource) -> None:
    """Raise CheckpointError if weights are no numbers."""
    for name in source.checkpoint.names:
        if not all_finite(source.checkpoint.read(name)):
            raise CheckpointError(f"{model}: tensor '{name}' holds NaN or Inf. Download or make it again.")


def check_teacher(teacher: CheckpointSource, student: tuple[CheckpointSource, Any], text: str, recipe: HealRecipe) -> None:
    """Raise RecipeError unless a teacher is another model than the ``student``, which comes with its tokenizer, and reads
    the text in the same tokens."""
    check_length(teacher, recipe.seqlen)
    if not teacher.continues_text:
        raise RecipeError([f"teacher {recipe.teacher}: {type(teacher.model).__name__} predicts no next tokens"])
    _check_tokens(teacher, student, text, recipe)
    if teacher.checkpoint.fingerprint == student[0].checkpoint.fingerprint:
        raise RecipeError([f"teacher {recipe.teacher}: it is the student itself, which has nothing to teach"])


def _check_tokens(teacher: CheckpointSource, student: tuple[CheckpointSource, Any], text: str, recipe: HealRecipe) -> None:
    """Raise RecipeError if a teacher that has a tokenizer of its own reads the text in other tokens."""
    if not any(teacher.checkpoint.folder.glob("tokenizer*")):
        return
    tokenizer = load_tokenizer(teacher.checkpoint.folder, recipe.trust_remote_code)
    others = tokenize(tokenizer, text[:_SAMPLE], vocabulary(teacher)).tolist()
    own = tokenize(student[1], text[:_SAMPLE], vocabulary(student[0])).tolist()
    if own != others:
        at = next(k for k, (one, other) in enumerate(zip_longest(own, others)) if one != other)
        differ = f"from token {at} of the text on, {own[at : at + 3]} to the student and {others[at : at + 3]} to it"
        raise RecipeError([f"teacher {recipe.teacher}: its tokenizer reads the text otherwise ({differ}): they must agree"])


def check_memory(source: CheckpointSource, teacher: CheckpointSource | None, recipe: HealRecipe) -> None:
    """Raise ResourceError where weights in fp32, gradients and the optimiser's two moments (of low-rank updates: each
    layer's update, which the backward pass needs), masks, a teacher beside the student and logits are more than is free."""
    if source.device.type != "cpu":
        return
    count = parameters_of(source.model)
    needed = (18 if recipe.trains_weights else 10) * count
    if teacher is not None and any(loss.needs_hidden for loss in recipe.losses()):
        needed += 4 * parameters_of(teacher.model)
    needed += 4 * 4 * min(recipe.batch_tokens, recipe.batch * recipe.seqlen) * vocabulary(source)
    if needed > available_memory_bytes():
        raise ResourceError(
            f"training {count:,} parameters takes {needed / 2**30:.1f} GiB of memory at least, "
            f"{available_memory_bytes() / 2**30:.1f} are free. Try --lora 16, a smaller --batch-tokens, or more memory."
        )


def check_disk(source: CheckpointSource, recipe: HealRecipe, folder: Path) -> None:
    """Raise ResourceError where three of training's checkpoints (weights in fp32, two moments) and the output are more than
    is free with what is there already."""
    count = parameters_of(source.model)
    moments = 8 * count if recipe.trains_weights else 0
    needed = 3 * (4 * count + moments) + source.checkpoint.nbytes
    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if needed > free + here:
        raise ResourceError(
            f"{folder}: training's checkpoints of {count:,} parameters take {needed / 1e9:.1f} GB, {free / 1e9:.1f} are "
            "free. Free some space, give another -o, or train low-rank updates: --lora 16."
        )
