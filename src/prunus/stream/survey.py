"""The survey: which Sites there are, what each is worth, and the Plan that follows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from ..allocate.manual import Manual, Pin
from ..core.errors import RecipeError
from ..core.method import Method
from ..core.plan import Step
from ..core.progress import Progress
from ..core.roles import Pattern, Profile
from ..core.site import Site
from ..core.sparsity import Target
from ..core.stats import Needs, Stats
from ..observe.waves import waves
from ..patterns.nm import NM
from ..patterns.unstructured import Unstructured
from ..solve.factor import inverse_factor
from .solve_block import observe
from .sources import Source
from .trunk import Trunk


@dataclass(frozen=True)
class Selection:
    """Sites to prune, and every other matrix with the reason why it is left alone."""

    sites: list[Site]
    untouched: dict[str, str]


def select_sites(source: Source, include: Sequence[str], exclude: Sequence[str]) -> Selection:
    """Sites that a glob of ``include`` matches (all in the blocks without one) and none of ``exclude`` does.

    Routers, embeddings and head are chosen only by a glob whose last word has no wildcard, as in ``lm_head``.

    Raises:
        RecipeError: if a glob matches nothing, or nothing is left to prune.
    """
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
        faults += [
            f"{option} '{glob}' matches none of the {len(names)} Sites{_why(glob, names, untouched)}"
            for glob in globs
            if not any(fnmatchcase(name, glob) for name in names)
        ]
    if faults:
        raise RecipeError(faults)
    chosen = []
    for site in sites:
        if include and not any(fnmatchcase(site.name, glob) for glob in include):
            untouched[site.name] = "not in --include"
        elif any(fnmatchcase(site.name, glob) for glob in exclude):
            untouched[site.name] = "--exclude"
        else:
            chosen.append(site)
    if not chosen:
        raise RecipeError(["nothing is left to prune: --exclude takes away all that --include leaves"])
    return Selection(chosen, untouched)


def _why(glob: str, names: Sequence[str], untouched: dict[str, str]) -> str:
    for name, reason in untouched.items():
        if fnmatchcase(name, glob):
            return f" ('{name}' is left alone: {reason})"
    near = difflib.get_close_matches(glob, names, n=1, cutoff=0.3)
    return f" (they are named like '{near[0] if near else names[0]}')" if names else ""


def plan_steps(source: Source, selection: Selection, method: Method, target: Target | None, pins: Sequence[Pin],
               trunk: Trunk | None, progress: Progress) -> tuple[list[Step], dict[str, str]]:  # fmt: skip
    """Every Site's sparsity and pattern, and what more is left untouched.

    Pinned Sites get what their pin says; the allocator splits the target over the others.

    Raises:
        RecipeError: if a pin matches nothing, a pattern does not fit a Site, or an allocator cannot serve the target.
    """
    manual = Manual(tuple(pins))
    pinned = [site for site in selection.sites if manual.pin(site) is not None]
    free = [site for site in selection.sites if manual.pin(site) is None]
    faults = [
        f"--set '{pin.glob}' matches no Site to prune" for pin in pins if all(manual.pin(s) is not pin for s in pinned)
    ]
    base = base_pattern(method.pattern, target)
    by_hand = isinstance(method.allocator, Manual)
    if target is None and free and not by_hand:
        faults.append("--sparsity is missing, and --set does not name every Site")
    if target is not None and target.m and method.allocator.needs_profile and not by_hand:
        faults.append(f"--sparsity {target.n}:{target.m} fixes every layer's sparsity: use --allocation uniform")
    if faults:
        raise RecipeError(faults)
    allocator = manual if by_hand else method.allocator
    profile = None
    if (allocator.needs_profile and not by_hand) or any(pin.threshold is not None for pin in pins):
        profile = make_profile(source, selection.sites, method, trunk, progress)
    shares = manual.split(pinned, 0.0, profile)
    if free:
        shares |= allocator.split(free, target.sparsity if target else 0.0, profile)
    steps, untouched = [], {}
    for site in selection.sites:
        pin = manual.pin(site)
        pattern = base if pin is None else base_pattern(method.pattern, pin.target)
        if shares[site.name] == 0.0 and pattern.own_sparsity is None and (pin is not None or by_hand):
            untouched[site.name] = "--set" if pin else "no --set names it"
            continue
        fault = pattern.fault(site.rows, site.cols) or _unobservable(source, site, method)
        if fault:
            faults.append(f"{site.name}: {fault}; leave it out with --exclude, or choose another pattern")
        steps.append(Step(site, shares[site.name], pattern))
    if faults:
        raise RecipeError(faults)
    return steps, untouched


def _unobservable(source: Source, site: Site, method: Method) -> str | None:
    """An embedding looks its input up: there are no activations that could be observed."""
    is_table = isinstance(source.model.get_submodule(site.name), nn.Embedding) if site.block is None else False
    if is_table and method.needs is not Needs.NOTHING:
        return "an embedding has no input activations, so only methods that look at weights alone can prune it"
    return None


def base_pattern(pattern: Pattern, target: Target | None) -> Pattern:
    """The pattern for a target: N:M where it says N:M, else the method's own."""
    if target is not None and target.n is not None and target.m is not None:
        return NM(target.n, target.m)
    if pattern.own_sparsity is not None and (target is None or target.sparsity != pattern.own_sparsity):
        return Unstructured()
    return pattern


def make_profile(source: Source, sites: Sequence[Site], method: Method, trunk: Trunk | None,
                 progress: Progress) -> Profile:  # fmt: skip
    """Scores of any Site on demand: from weights alone, or with the Stats of a dense pass over the windows."""
    criterion = method.criterion
    if criterion.needs is Needs.NOTHING or trunk is None:
        return Profile(lambda site: criterion.score(source.matrix(site), Stats.none()))
    stats = _dense_stats(source, sites, criterion.needs, trunk, progress)
    return Profile(lambda site: criterion.score(source.matrix(site), stats[site.name]))


@torch.no_grad()
def _dense_stats(source: Source, sites: Sequence[Site], needs: Needs, trunk: Trunk, progress: Progress) -> dict[str, Stats]:
    """Stats of every Site in the dense model; of a Gram only the diagonal of its inverse is kept."""
    kept: dict[str, Stats] = {}
    trunk.embed()
    progress.start("Surveying", len(source.blocks))
    for index in range(len(source.blocks)):
        block = source.load(index)
        inside = [site for site in sites if site.block == index]
        if any(site.block is None for site in sites):
            raise RecipeError(["a survey of inputs covers the blocks only: leave the head out, or --set it"])
        for wave in waves(inside, needs, budget=4 << 30):
            if wave.experts is not None:
                raise RecipeError([f"{wave.sites[0].name}: its experts' Grams do not fit in memory for a survey"])
            for group, found, _ in observe(block, source.prefix(index), wave, needs, trunk.outputs(block, index)):
                moments = {name: moment for name, moment in found.moments.items() if name != "gram"}
                if Needs.GRAM in needs:
                    moments["inverse_diagonal"] = inverse_factor(found, 0.01, group[0].name).inverse_diagonal()
                kept |= {site.name: Stats(found.tokens, moments) for site in group}
        trunk.advance(block, index)
        source.release(index)
        progress.step()
    trunk.close()
    return kept


def total_parameters(model: torch.nn.Module) -> int:
    """Parameters of a model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
