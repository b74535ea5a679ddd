"""What a plan was preferred to, and what each of the others loses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mpitile.errors import InputError
from mpitile.plan.by_rule import default_groups, split_at_whole_inputs, squarest_grid
from mpitile.plan.plan import Plan
from mpitile.plan.search.layout import Layout
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import AUTO, Planned

_MOST_LAYOUTS = 8


@dataclass(frozen=True)
class Alternative:
    """A plan that was not chosen.

    Attributes
    ----------
    name : how it came about.
    seconds : of a step.
    """

    name: str
    planned: Planned
    seconds: float


def alternatives(planner: Planner, chosen: Planned) -> list[Alternative]:
    """All grids at their best, the common groupings of the chosen one, and the rule.

    Each plan once; fastest first.
    """
    seen = {chosen.plan}
    found = []
    candidates = (
        *_groupings(planner, chosen),
        *_rule(planner),
        *_layouts(planner, chosen),
        *_tiled(planner, chosen),
        *_free(planner),
    )
    for name, planned in candidates:
        if planned.plan not in seen:
            seen.add(planned.plan)
            found.append(Alternative(name, planned, planner.predict(planned.plan).step_seconds))
    return sorted(found, key=lambda one: one.seconds)


def _layouts(planner: Planner, chosen: Planned) -> Iterator[tuple[str, Planned]]:
    own = _layout_of(planner, chosen.plan)
    for layout in planner.layouts[:_MOST_LAYOUTS]:
        name = "other groups" if layout is own else "other grid"
        planned = layout.best()
        if planned is None:
            planned = layout.leanest()
        yield name if planned.fits else f"{name}, leanest", planned


def _groupings(planner: Planner, chosen: Planned) -> Iterator[tuple[str, Planned]]:
    plan, network = chosen.plan, planner.request.network
    layout = _layout_of(planner, plan)
    for name, starts in (
        ("one group", (0,)),
        ("every layer its own group", tuple(range(len(network.layers)))),
        ("groups by rule", default_groups(network)),
    ):
        grouping = layout.timed(split_at_whole_inputs(network, starts))
        yield name, layout.planned(grouping)
    if any(plan.recompute):
        yield "nothing recomputed", layout.planned(layout.timed(plan.groups, plan.filters))


def _rule(planner: Planner) -> Iterator[tuple[str, Planned]]:
    """What would be taken without a prediction."""
    request = planner.request
    replicas = 1 if request.replicas == AUTO else request.replicas
    if request.grid != AUTO:
        return
    shape = request.network.shapes[0]
    try:
        grid = squarest_grid(request.ranks // replicas, shape.height, shape.width)
    except InputError:
        return
    starts = split_at_whole_inputs(request.network, default_groups(request.network))
    layout = _layout_of(planner, Plan(grid, starts, replicas))
    yield "grid and groups by rule", layout.planned(layout.timed(starts))


def _tiled(planner: Planner, chosen: Planned) -> Iterator[tuple[str, Planned]]:
    """The best without filter-parallel layers, the fastest where none fits."""
    if chosen.plan.filters:
        tiled = Planner(replace(planner.request, filters="none"))
        fastest = tiled.layouts[0]
        yield "tiled throughout", tiled.best() or fastest.planned(fastest.fastest)


def _free(planner: Planner) -> Iterator[tuple[str, Planned]]:
    """What the planner would do if less were settled."""
    request = planner.request
    if request.grid != AUTO or not isinstance(request.groups, str):
        free = replace(request, grid=AUTO, groups=AUTO, recompute=AUTO)
        planned = Planner(free).best()
        if planned:
            yield "grid and groups left open", planned
    if request.filters != AUTO:
        planned = Planner(replace(request, filters=AUTO)).best()
        if planned:
            yield "filters left open", planned
    if request.replicas != AUTO:
        planned = Planner(replace(request, grid=AUTO, replicas=AUTO)).best()
        if planned and planned.plan.replicas != request.replicas:
            yield f"tiling.replicas = {planned.plan.replicas}", planned


def _layout_of(planner: Planner, plan: Plan) -> Layout:
    """The layout of a plan's grid and replicas."""
    for layout in planner.layouts:
        if (layout.base.grid, layout.base.replicas) == (plan.grid, plan.replicas):
            return layout
    return Layout(planner, replace(plan, groups=(0,), recompute=()))
