"""The pictures of a plan: its tiling, its groups, a simulated step, its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.costs.cost import Cost
from mpitile.plan.partition import Partition
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Planned, Request
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.simulate import simulate
from mpitile.report.figures import (
    FORMS,
    Picture,
    render,
    require_matplotlib,
    write_bytes,
    write_pictures,
)
from mpitile.report.html_page import Section, page
from mpitile.report.memory_picture import MemoryView, memory_picture
from mpitile.report.step_pictures import group_picture, timeline_picture
from mpitile.report.step_view import group_view, step_view
from mpitile.report.tile_maps import layer_tilings
from mpitile.report.tiling_picture import tiling_picture


def plan_pictures(
    planner: Planner, planned: Planned, layers: Sequence[int] = ()
) -> tuple[Picture, ...]:
    """All four.

    Parameters
    ----------
    layers : of which the tiling is shown; a few telling ones if left out.

    Raises
    ------
    InputError : there is no such layer.
    """
    request, plan = planner.request, planned.plan
    cluster = request.cluster
    partition = Partition(request.network, plan)
    size = step_size(request)
    devices = range(len(cluster.devices))
    memory = MemoryView(
        planned.ranks,
        [cluster.ranks_of(device) for device in devices],
        [device.name for device in cluster.devices],
        [request.room(device) for device in devices],
    )
    return (
        tilings_picture(partition, [cluster.device_of(r) for r in range(plan.ranks)], layers),
        *step_pictures(partition, planner.cost, size, cluster),
        memory_picture(memory, "Memory that the plan allocates"),
    )


def step_size(request: Request) -> StepSize:
    """What a step of a request consists of, for the simulator."""
    return StepSize(request.demand.images, request.passes, request.optimizer, request.overlap)


def tilings_picture(
    partition: Partition, places: Sequence[int], layers: Sequence[int] = ()
) -> Picture:
    """The tiling; `places` has the device of every rank, `layers` is as for `plan_pictures`."""
    plan = partition.plan
    tilings = layer_tilings(partition, layers)
    return tiling_picture(tilings, plan.grid, places[: plan.grid.tiles], plan.replicas)


def step_pictures(
    partition: Partition, cost: Cost, size: StepSize, cluster: Cluster
) -> tuple[Picture, Picture]:
    """The groups' costs and the timeline of one simulated step."""
    timeline = simulate(step_programs(partition, cost, size), cluster)
    groups = group_picture(group_view(partition, timeline))
    title = "Simulated step"
    if size.passes > 1:
        # All of them would be too thin to read.
        title = f"Simulated step with one of its {size.passes} passes"
        timeline = simulate(step_programs(partition, cost, replace(size, passes=1)), cluster)
    places = [cluster.device_of(rank) for rank in range(partition.plan.ranks)]
    names = [f"{place} {cluster.devices[place].name}" for place in places]
    view = step_view(timeline.intervals, names, timeline.seconds)
    return groups, timeline_picture(view, title)


def check_target(path: Path) -> None:
    """Raise `InputError` unless pictures can go there: a folder, or a file of a known form."""
    require_matplotlib()
    form = path.suffix.lower().removeprefix(".")
    if path.is_dir():
        return
    other = path.exists() or f".{form}" in Image.registered_extensions()
    if other and form not in (*FORMS, "html"):
        raise InputError(f"--plot {path}: expected a folder, or a file that ends in .{_FORMS_TEXT}")


_FORMS_TEXT = ", .".join((*FORMS, "html"))


def write_plan_pictures(pictures: Sequence[Picture], path: Path, title: str) -> list[Path]:
    """Into a folder each one by itself; into one file, by its ending, all of them.

    Raises
    ------
    InputError : it cannot be written.
    """
    form = path.suffix.lower().removeprefix(".")
    if path.is_dir() or form not in (*FORMS, "html"):
        return write_pictures(pictures, path)
    if form == "html":
        content = page(title, [], [Section("Plan", tuple(pictures))]).encode()
    else:
        content = render(pictures, form)
    write_bytes(path, content)
    return [path]
