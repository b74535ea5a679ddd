"""A plan as text: what it is, what it takes and needs, and what it was preferred to."""

from __future__ import annotations

from collections.abc import Sequence

from mpitile.geometry.needs import group_ranges
from mpitile.plan.memory.bytes import KINDS
from mpitile.plan.memory.state_bytes import parameter_elements, tile_elements
from mpitile.plan.search.explain import Alternative
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Planned

_PARTS = ("compute", "halo", "reduce", "wait")
_HEADINGS = ("computing", "halos", "sums", "waiting")


def plan_text(planner: Planner, planned: Planned) -> str:
    """Some lines on a plan, with tables of seconds and bytes."""
    request, plan = planner.request, planned.plan
    prediction = planner.predict(planned.plan)
    images, seconds = request.passes * request.demand.images, prediction.step_seconds
    busiest = max(range(plan.ranks), key=lambda rank: prediction.ranks[rank].compute)
    # To a microsecond: what is left of sums of seconds is none.
    parts = [round(getattr(prediction.ranks[busiest], part), 6) for part in _PARTS]
    ranges = group_ranges(plan.groups, len(request.network.layers))
    flags = plan.recompute or (False,) * len(ranges)
    groups = ", ".join(
        (f"{first}-{stop - 1}" if stop - first > 1 else f"{first}") + ("*" if flag else "")
        for (first, stop), flag in zip(ranges, flags, strict=True)
    )
    passes = f" in {request.passes} passes" if request.passes > 1 else ""
    lines = [
        f"{request.network.name} at {request.network.shape(0)}, {images} image(s) a step{passes}: "
        f"{plan.ranks} rank(s) on {len(request.cluster.devices)} device(s)",
        f"grid {plan.grid}, replicas {plan.replicas}{_weights(planned)}",
        f"groups of layers {groups}" + (" (*: recomputed)" if any(flags) else ""),
        *_filters(planner, planned),
        f"a step takes {seconds:.4g} s, {images / seconds:.4g} images/s; of rank {busiest}, "
        "which computes longest: "
        + ", ".join(f"{name} {part:.4g}" for name, part in zip(_HEADINGS, parts, strict=True)),
        "",
        *_memory(planner, planned),
    ]
    return "\n".join(lines) + "\n"


def _filters(planner: Planner, planned: Planned) -> list[str]:
    """Which layers are filter-parallel, and how much of the weights that takes off a rank."""
    plan, network = planned.plan, planner.request.network
    if not plan.filters:
        return []
    runs: list[list[int]] = []
    for layer in plan.filters:
        if not runs or runs[-1][-1] != layer - 1:
            runs.append([])
        runs[-1].append(layer)
    layers = ", ".join(_numbers(run) for run in runs)
    every, _ = parameter_elements(network)
    (alike, _), (largest, _) = max(
        tile_elements(network, plan),
        key=lambda elements: elements[1],
    )
    part = 100 * (alike + largest) / every
    return [f"filter-parallel layers {layers}: a rank trains {part:.3g}% of the weights"]


def _weights(planned: Planned) -> str:
    plan = planned.plan
    found = [
        f"{name} sized as {' : '.join(f'{weight:g}' for weight in weights)}"
        for name, weights in (("rows", plan.row_weights), ("columns", plan.column_weights))
        if weights and len(set(weights)) > 1
    ]
    return "".join(f", {text}" for text in found)


def _memory(planner: Planner, planned: Planned) -> list[str]:
    """A table of each device's bytes by kind; alike devices share a row."""
    cluster = planner.request.cluster
    rows: dict[tuple[str, ...], list[int]] = {}
    for number, device in enumerate(cluster.devices):
        kinds = [
            sum(planned.ranks[rank][kind] for rank in cluster.ranks_of(number)) for kind in KINDS
        ]
        room = planner.request.room(number)
        limit = "none" if room == float("inf") else f"{room / 1e6:.1f}"
        cells = (*(f"{size / 1e6:.1f}" for size in (*kinds, sum(kinds))), limit)
        rows.setdefault((device.name, str(device.ranks), *cells), []).append(number)
    table = [("device", "ranks", *KINDS, "total", "limit")]
    table += [(f"{_numbers(numbers)} {name}", *cells) for (name, *cells), numbers in rows.items()]
    return ["MB on each device:", *_aligned(table)]


def alternatives_text(planner: Planner, planned: Planned, others: Sequence[Alternative]) -> str:
    """A table of the plans that were not chosen."""
    best = planner.predict(planned.plan).step_seconds
    table = [("not chosen", "grid", "replicas", "groups", "s a step", "loses", "MB", "")]
    for other in others:
        plan = other.planned.plan
        again = sum(plan.recompute)
        groups = f"{len(plan.groups)}" + (f", {again} recomputed" if again else "")
        groups += f", {len(plan.filters)} by filters" if plan.filters else ""
        excess = other.planned.excess / 1e6
        table.append(
            (
                other.name,
                str(plan.grid),
                str(plan.replicas),
                groups,
                f"{other.seconds:.4g}",
                f"{100 * (other.seconds / best - 1):+.1f}%",
                f"{max(other.planned.devices) / 1e6:.1f}",
                "" if other.planned.fits else f"{excess:.1f} MB too much",
            )
        )
    return "\n" + "\n".join(_aligned(table)) + "\n(MB of the device that needs most)\n"


def _numbers(numbers: Sequence[int]) -> str:
    """Such as ``0-5``, or ``0,2``."""
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *cells in table:
        rest = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append(f"{first:{widths[0]}}  {'  '.join(rest)}".rstrip())
    return lines
