"""What is to happen to every Site that a run prunes: its sparsity and its pattern."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..allocate.levels import mixed_kept
from ..allocate.manual import Manual, Pin
from ..core.errors import RecipeError
from ..core.method import Method
from ..core.plan import Step
from ..core.roles import Grid, Pattern, Profile
from ..core.site import Site
from ..core.sparsity import Target
from ..core.stats import Needs
from ..patterns.nm import NM
from ..patterns.unstructured import Unstructured
from .select import Selectable, Selection, is_table, unmatched

Survey = Callable[[Sequence[Site], Sequence[Site]], Profile]
"""``survey(compared, limited)``: a profile of Sites that an allocator compares, and of those pinned to a threshold."""


@dataclass(frozen=True)
class Request:
    """What is asked of the Sites: a method, a target for them, and pins for some.

    ``loose`` is the pattern of pinned Sites whose pin is a plain fraction. ``shares`` are the sparsities that an unfinished
    run of the same request was planned with: no survey is made for what is known.
    """

    method: Method
    target: Target | None
    pins: Sequence[Pin]
    loose: Pattern
    shares: Mapping[str, float] | None = None


def plan_steps(
    source: Selectable, selection: Selection, request: Request, survey: Survey
) -> tuple[list[Step], dict[str, str]]:
    """Every Site's sparsity and pattern, and what more is left untouched.

    Pinned Sites get what their pin says; the allocator splits the target over the others. The ``survey`` is made only where
    scores are needed to do so.

    Raises:
        RecipeError: if a pin matches nothing, a pattern does not fit a Site, or an allocator cannot serve the target.
    """
    manual = Manual(tuple(request.pins))
    _check_request(selection, request, manual)
    free = [] if isinstance(request.method.allocator, Manual) else [s for s in selection.sites if manual.pin(s) is None]
    _check_fit(source, request.method, dict.fromkeys(free, request.method.pattern))
    shares = dict(request.shares) if request.shares is not None else _split(selection, free, request, manual, survey)
    patterns = _patterns(selection, request, manual, shares)
    steps, untouched = [], {}
    for site in selection.sites:
        pin = manual.pin(site)
        by_hand = pin is not None or isinstance(request.method.allocator, Manual)
        if by_hand and not shares.get(site.name):
            untouched[site.name] = "--set" if pin else "no --set names it"
            continue
        pattern = patterns.get(site.name)
        if pattern is None:
            untouched[site.name] = "left dense by --allocation"
            continue
        share = pattern.own_sparsity if pattern.own_sparsity is not None else shares.get(site.name, 0.0)
        steps.append(Step(site, share, pattern))
    if not steps:
        raise RecipeError(["nothing is left to prune: --set leaves every layer dense"])
    _check_fit(source, request.method, {step.site: step.pattern for step in steps})
    return steps, untouched


def _check_request(selection: Selection, request: Request, manual: Manual) -> None:
    """Raise RecipeError for pins that match nothing and targets that the allocator cannot serve."""
    names = [site.name for site in selection.sites]
    faults = unmatched("--set", [pin.glob for pin in request.pins], names, "layers to prune", selection.untouched)
    by_hand = isinstance(request.method.allocator, Manual)
    if request.target is None and not by_hand and any(manual.pin(site) is None for site in selection.sites):
        faults.append("--sparsity is missing, and --set does not name every Site")
    method = request.method
    if method.compared_by != method.criterion and any(pin.threshold is not None for pin in request.pins):
        faults.append(
            f"a threshold in --set is of the criterion's scores, but the allocation compares layers by those of "
            f"{method.allocator.scored_by}: choose --criterion {method.allocator.scored_by} or --allocation uniform"
        )
    if faults:
        raise RecipeError(faults)


def _check_fit(source: Selectable, method: Method, patterns: Mapping[Site, Pattern]) -> None:
    """Raise RecipeError for Sites that their pattern or the grid does not fit, or that cannot be observed."""
    faults: dict[str, list[str]] = {}
    for site, pattern in patterns.items():
        fault = _misfit(pattern, site, method.grid) or _unobservable(source, site, method)
        if fault:
            faults.setdefault(fault, []).append(site.name)
    if faults:
        raise RecipeError(
            [
                f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {fault}; "
                "leave out with --exclude, or choose another pattern"
                for fault, names in faults.items()
            ]
        )


def _split(
    selection: Selection, free: Sequence[Site], request: Request, manual: Manual, survey: Survey
) -> dict[str, float]:
    """Sparsity by Site name; the allocator splits the target over the ``free`` Sites."""
    allocator = request.method.allocator
    pins = {site.name: pin for site in selection.sites if (pin := manual.pin(site)) is not None}
    pinned = [site for site in selection.sites if site.name in pins]
    target = request.target.sparsity if request.target is not None else 0.0
    extreme = target in (0.0, 1.0)  # there is nothing to split
    compared = [] if extreme else [site for site in free if allocator.compares(site)]
    limited = [site for site in pinned if pins[site.name].threshold is not None]
    profile = survey(compared, limited) if compared or limited else None
    shares = manual.split(pinned, 0.0, profile)
    if free and request.target is not None:
        shares |= {site.name: target for site in free} if extreme else allocator.split(free, target, profile)
    return shares


def _patterns(selection: Selection, request: Request, manual: Manual, shares: Mapping[str, float]) -> dict[str, Pattern]:
    """The pattern of every Site that is not left dense: N:M of an N of its own where an allocator mixes them."""
    found: dict[str, Pattern] = {}
    method, mixed = request.method, []
    for site in selection.sites:
        pin = manual.pin(site)
        if pin is not None:
            by_score = Unstructured(scope="layer") if pin.threshold is not None else request.loose
            found[site.name] = NM.of(pin.target) or by_score
        elif isinstance(method.pattern, NM) and method.allocator.needs_profile and not isinstance(method.allocator, Manual):
            mixed.append(site)
        else:
            found[site.name] = method.pattern
    if mixed and isinstance(method.pattern, NM):
        m = method.pattern.m
        dense = {site.name: 0.0 for site in mixed}  # what an unfinished run did not plan is dense
        kept = mixed_kept({**dense, **shares}, mixed, method.pattern.own_sparsity, m)
        found |= {name: NM(n, m) for name, n in kept.items() if n < m}
    return found


def _misfit(pattern: Pattern, site: Site, grid: Grid | None) -> str | None:
    """Why the pattern does not fit the Site, or one of the projections fused in it, or why the grid does not."""
    heights = [len(part.rows(site.rows)) for part in site.layout.parts] or [site.rows]
    misfit = next((fault for rows in heights if (fault := pattern.fault(rows, site.cols))), None)
    return misfit or _straddled(pattern, site) or (grid.fault(site.cols) if grid is not None else None)


def _straddled(pattern: Pattern, site: Site) -> str | None:
    """Why what the pattern keeps or drops as one would hold rows of more than one projection."""
    if pattern.rows_may_move:
        return None
    for part in site.layout.parts:
        inside = torch.zeros(site.rows, dtype=torch.bool)
        inside[part.rows(site.rows)] = True
        if pattern.violation(inside.unsqueeze(-1).expand(site.rows, pattern.window(site.cols, 1))):
            return f"the rows of '{part.name}' and of what is fused with it are interleaved, {pattern} would straddle them"
    return None


def _unobservable(source: Selectable, site: Site, method: Method) -> str | None:
    """An embedding looks its input up: there are no activations that could be observed."""
    if is_table(source, site) and method.needs is not Needs.NOTHING:
        return "an embedding has no input activations, so only methods that look at weights alone can prune it"
    return None
