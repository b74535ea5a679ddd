"""What to say where no plan fits: what is missing, and what would make one fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from mpitile.errors import InputError
from mpitile.plan.by_rule import squarest_grid
from mpitile.plan.memory.bytes import KINDS
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import AUTO, Planned, Request

_MORE_DEVICES = (2, 3, 4, 6, 8)
_WHATEVER_TILING = ("weights", "gradients", "optimizer")
# In words, and as a request.
Remedy = tuple[str, Request]


def shortage(planner: Planner) -> str:
    """Which device lacks how much for the leanest plan, and remedies that have been tried."""
    planned = _leanest(planner)
    request = planner.request
    device = max(
        range(len(planned.devices)),
        key=lambda number: planned.devices[number] - request.room(number),
    )
    ranks = request.cluster.ranks_of(device)
    kinds = {kind: sum(planned.ranks[rank][kind] for rank in ranks) for kind in KINDS}
    parts = ", ".join(f"{kind} {_mb(size)}" for kind, size in kinds.items() if size)
    always = sum(kinds[kind] for kind in _WHATEVER_TILING)
    return (
        f"the ranks on {request.cluster.devices[device].name} need at least "
        f"{_mb(planned.devices[device])} MB, {_mb(planned.excess)} MB more than the "
        f"{_mb(request.room(device))} MB there (MB: {parts}); {_advice(request, device, always)}"
    )


def _advice(request: Request, device: int, always: int) -> str:
    """What would make it fit; `always` are the bytes on a device that no tiling changes."""
    if always >= request.room(device):
        remedies = (
            *_open_filters(request),
            *_fewer_ranks(request),
            *_larger_clusters(request),
        )
        hopeless = (
            "weights, their gradients and the optimiser's arrays alone take "
            f"{_mb(always)} MB there, whatever the tiling"
        )
    else:
        remedies = (*_settled(request), *_smaller_passes(request), *_larger_clusters(request))
        hopeless = "neither subdivisions nor more devices help enough"
    found = [text for text, other in remedies if _fits(other)]
    return f"it would fit with {' or with '.join(found)}" if found else hopeless


def _leanest(planner: Planner) -> Planned:
    found = [layout.leanest() for layout in planner.layouts]
    return min(found, key=lambda planned: planned.excess)


def _fits(request: Request) -> bool:
    """Whether the tiles of the shortest borders would fit; more grids would hardly tell more."""
    if request.grid == AUTO:
        shape, replicas = request.network.shapes[0], request.replicas
        tiles = request.ranks // (1 if isinstance(replicas, str) else replicas)
        replicas = 1 if isinstance(replicas, str) else replicas
        try:
            grid = squarest_grid(tiles, shape.height, shape.width)
        except InputError:
            return False
        request = replace(request, grid=str(grid), replicas=replicas)
    try:
        return _leanest(Planner(request)).fits
    except InputError:
        return False


def _settled(request: Request) -> Iterator[Remedy]:
    """What the user has settled, left to the planner."""
    if request.recompute not in (AUTO, "all"):
        recompute = AUTO if isinstance(request.groups, str) else "all"
        yield f'tiling.recompute = "{recompute}"', replace(request, recompute=recompute)
    if not isinstance(request.groups, str):
        yield 'tiling.groups = "auto"', replace(request, groups=AUTO, recompute=AUTO)
    yield from _open_filters(request)
    if request.replicas not in (1, AUTO):
        yield "tiling.replicas = 1", replace(request, replicas=1)


def _open_filters(request: Request) -> Iterator[Remedy]:
    if request.filters != AUTO:
        yield 'tiling.filters = "auto"', replace(request, filters=AUTO)


def _smaller_passes(request: Request) -> Iterator[Remedy]:
    replicas = request.replicas if isinstance(request.replicas, int) else 1
    images = request.demand.images // replicas
    factors = [factor for factor in range(2, images + 1) if images % factor == 0]
    yield from _least(
        (
            f"train.subdivisions = {request.passes * factor}",
            replace(
                request,
                demand=replace(request.demand, images=request.demand.images // factor),
                passes=request.passes * factor,
            ),
        )
        for factor in factors
    )


def _larger_clusters(request: Request) -> Iterator[Remedy]:
    devices = request.cluster.devices
    yield from _least(
        (
            f"{len(devices) * factor} such devices ({request.ranks * factor} ranks)",
            replace(
                request,
                cluster=replace(request.cluster, devices=devices * factor),
                ranks=request.ranks * factor,
                grid=AUTO,
            ),
        )
        for factor in _MORE_DEVICES
    )


def _fewer_ranks(request: Request) -> Iterator[Remedy]:
    most = max(device.ranks for device in request.cluster.devices)
    yield from _least(
        (
            f"{ranks} rank(s) on each device",
            replace(
                request,
                cluster=replace(
                    request.cluster,
                    devices=tuple(
                        replace(device, ranks=min(ranks, device.ranks))
                        for device in request.cluster.devices
                    ),
                ),
                ranks=sum(min(ranks, device.ranks) for device in request.cluster.devices),
                grid=AUTO,
                replicas=1,
            ),
        )
        for ranks in reversed(range(1, most))
    )


def _least(remedies: Iterable[Remedy]) -> Iterator[Remedy]:
    """The first one that helps."""
    for text, other in remedies:
        if _fits(other):
            yield text, other
            return


def _mb(size: float) -> str:
    return f"{size / 1e6:.3g}" if size < 1e8 else f"{size / 1e6:.0f}"
