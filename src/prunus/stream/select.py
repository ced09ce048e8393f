"""Which Sites a run prunes, by name, and why every other matrix is left alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol

from torch import nn

from ..core.errors import RecipeError, UnsupportedModelError
from ..core.site import Site
from ..models.sites import Found


@dataclass(frozen=True)
class Selection:
    """Sites to prune, and every other matrix with the reason why it is left alone."""

    sites: list[Site]
    untouched: dict[str, str]


class Choice(NamedTuple):
    """Globs of what is to be pruned and what is not, and whether what prunus cannot prune may stay dense."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skip_unsupported: bool = False

    def leaves(self, name: str) -> str | None:
        """The option that leaves a matrix alone; None if ``include`` matches (or is empty) and ``exclude`` does not."""
        if self.include and not any(fnmatchcase(name, glob) for glob in self.include):
            return "not in --include"
        return "--exclude" if any(fnmatchcase(name, glob) for glob in self.exclude) else None


class Selectable(Protocol):
    """A model with its Sites by block, in order, and what is outside the blocks."""

    @property
    def model(self) -> Any: ...

    @property
    def blocks(self) -> list[nn.Module]: ...

    @property
    def found(self) -> list[Found]: ...

    @property
    def outside(self) -> Found: ...

    def prefix(self, index: int) -> str:
        """Path of one block in the model."""
        ...


def select_sites(source: Selectable, choice: Choice,
                 silent: Callable[[Sequence[Site]], Collection[str]] | None = None) -> Selection:  # fmt: skip
    """Sites that the choice takes (without ``include``: all in the blocks).

    Routers, embeddings and head are chosen only by a glob whose last word has no wildcard, as in ``lm_head``. ``silent``
    says which of some Sites have a layer that does not run on what will be looked at: they count as unsupported.

    Raises:
        RecipeError: if a glob matches nothing, or nothing is left to prune.
        UnsupportedModelError: if a block holds matrices that prunus cannot prune, and they may not stay dense.
    """
    selection = _by_globs(source, choice)
    places = [*source.found, source.outside]
    odd = {name: why for found in places for name, why in found.unsupported.items() if choice.leaves(name) is None}
    if silent is not None:
        odd |= dict.fromkeys(sorted(silent(selection.sites)), "its layer never runs")
    if odd and not choice.skip_unsupported:
        raise UnsupportedModelError(_refusal(source, odd))
    untouched = {name: f"{reason} (--skip-unsupported)" for name, reason in odd.items()}
    sites = [site for site in selection.sites if site.name not in odd]
    if not sites:
        raise RecipeError(
            [f"nothing is left to prune: {'all that was chosen is unsupported' if odd else 'no layer is there'}"]
        )
    return Selection(sites, {**selection.untouched, **untouched})


def _refusal(source: Selectable, odd: Mapping[str, str]) -> str:
    """What cannot be pruned, by the class of the block that holds it, or by the reason."""
    lines: dict[str, str] = {}
    for index, block in enumerate(source.blocks):
        inside = [name for name in odd if name.startswith(source.prefix(index) + ".")]
        if inside:
            lines.setdefault(f"{type(block).__name__}, as in", f"{inside[0]}: {odd[inside[0]]}")
    blocks = tuple(f"{source.prefix(index)}." for index in range(len(source.blocks)))
    for name, reason in odd.items():
        if not name.startswith(blocks) and reason not in lines.values():
            lines[f"{name}:"] = reason
    listed = "\n".join(f"  - {kind} {example}" for kind, example in lines.items())
    return (
        f"{type(source.model).__name__}: {len(odd)} matrices in its blocks cannot be pruned.\n{listed}\n"
        "Leave them dense with --skip-unsupported, or choose layers with --include."
    )


def _by_globs(source: Selectable, choice: Choice) -> Selection:
    include, exclude = choice.include, choice.exclude
    places = [*source.found, source.outside]
    sites = [site for found in places for site in found.sites]
    untouched = {name: reason for found in places for name, reason in found.untouched.items()}
    asked = [glob for glob in include if not set("*?[") & set(glob.rpartition(".")[2])]
    for name, (site, reason) in ((n, item) for found in places for n, item in found.on_request.items()):
        if any(fnmatchcase(name, glob) for glob in asked):
            sites.append(site)
        else:
            untouched[name] = f"{reason}; pruned only when --include names it"
    names = [site.name for site in sites]
    faults = []
    for option, globs in (("--include", include), ("--exclude", exclude)):
        faults += unmatched(option, globs, names, "prunable layers", untouched)
    if faults:
        raise RecipeError(faults)
    chosen = []
    for site in sites:
        left_by = choice.leaves(site.name)
        if left_by is None:
            chosen.append(site)
        else:
            untouched[site.name] = left_by
    if sites and not chosen:
        raise RecipeError(["nothing is left to prune: --exclude takes away all that --include leaves"])
    return Selection(chosen, untouched)


def unmatched(
    option: str, globs: Sequence[str], names: Sequence[str], layers: str, untouched: Mapping[str, str]
) -> list[str]:
    """A fault for each of an option's globs that matches none of the ``names``, which are those of all ``layers``."""
    return [
        f"{option} '{glob}' matches none of the {len(names)} {layers}{_why(glob, names, untouched)}"
        for glob in globs
        if not any(fnmatchcase(name, glob) for name in names)
    ]


def _why(glob: str, names: Sequence[str], untouched: Mapping[str, str]) -> str:
    for name, reason in untouched.items():
        if fnmatchcase(name, glob):
            return f" ('{name}' is left alone: {reason})"
    near = difflib.get_close_matches(glob, names, n=1, cutoff=0.3)
    return f" (they are named like '{near[0] if near else names[0]}')" if names else ""


def is_table(source: Selectable, site: Site) -> bool:
    """Whether the Site is an embedding."""
    return site.block is None and isinstance(source.model.get_submodule(site.name), nn.Embedding)
