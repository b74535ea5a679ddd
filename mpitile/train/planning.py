"""The planner's answer to a run file, and what is predicted of a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpitile.errors import InputError
from mpitile.geometry.tiling import parse_grid
from mpitile.network.spec import Network
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.plan.clusters.generic import generic_cluster
from mpitile.plan.memory.bytes import Demand
from mpitile.plan.plan import Plan
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import AUTO, Planned, Request
from mpitile.plan.search.shortage import shortage
from mpitile.runtime.calibrate import possible_choices
from mpitile.runtime.workspace import KernelMemory
from mpitile.train.optimizer import optimizer_memory
from mpitile.train.settings import RunSettings

ITEMSIZES = {"float32": 4, "float64": 8}


def run_cluster(settings: RunSettings, hosts: Sequence[str]) -> Cluster:
    """What ``tiling.cluster`` describes, else devices of no special kind at these hosts."""
    name = settings.tiling.cluster
    return generic_cluster(hosts) if name is None else read_cluster(settings.input_path(name))


def network_demand(images: int, dtype: str, optimizer: str, kernels: str = "fast") -> Demand:
    """What training asks of memory, for passes of so many images."""
    itemsize = ITEMSIZES[dtype]
    arrays, scratch = optimizer_memory(optimizer, itemsize)
    memory = KernelMemory(possible_choices(kernels), np.dtype(dtype))
    return Demand(images, itemsize, arrays, scratch, memory)


def run_demand(settings: RunSettings, images: int, optimizer: str) -> Demand:
    """The same for a run; its validation images are open beside those of training."""
    train = settings.train
    demand = network_demand(images, train.dtype, optimizer, train.kernels)
    feeders = 2 if settings.data.valid else 1
    return replace(demand, readers=settings.data.read, feeders=feeders)


def run_request(
    settings: RunSettings,
    network: Network,
    cluster: Cluster,
    ranks: int,
    batch: int,
    subdivisions: int,
    optimizer: str,
) -> Request:
    """What a run file leaves to the planner, and what it settles."""
    tiling = settings.tiling
    return Request(
        network,
        cluster,
        ranks,
        run_demand(settings, batch // subdivisions, optimizer),
        subdivisions,
        optimizer,
        tiling.grid,
        tiling.replicas,
        tiling.groups,
        tiling.recompute,
        tiling.filters,
        _tuple(tiling.row_weights),
        _tuple(tiling.column_weights),
        tiling.memory_bytes,
        settings.train.overlap,
    )


@dataclass(frozen=True)
class Source:
    """Where a request comes from, for messages: its file, and what its limits are called."""

    path: str
    limit: str | None = None
    cluster: str | None = None


def run_source(settings: RunSettings) -> Source:
    """The names of a run file."""
    return Source(str(settings.path), settings.tiling.memory_limit, settings.tiling.cluster)


def answer(request: Request, source: Source) -> tuple[Planner, Planned]:
    """The best plan.

    Raises
    ------
    InputError : what is settled does not go together, or nothing fits; says what is missing.
    """
    try:
        planner = Planner(request)
        planned = planner.best()
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from error
    if planned is None:
        reason = f"{source.cluster}: device memory"
        if source.limit is not None:
            reason = f"{source.path}: tiling.memory_limit = {source.limit!r}"
        raise InputError(f"{reason}, but {shortage(planner)}")
    return planner, planned


def earlier_plan(folder: Path, ranks: int) -> Plan | None:
    """The plan that a run in this folder was begun with on as many ranks, if it can be read.

    A run that is taken up again goes on with it, so that what was left to the planner
    stays as it was.
    """
    try:
        plan = read_plan(json.loads((folder / "plan.json").read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return None
    return plan if plan.ranks == ranks else None


def settle(request: Request, plan: Plan) -> Request:
    """The request with what it leaves open settled as in a plan."""
    recompute: Sequence[int] | str = request.recompute
    groups, filters = request.groups, request.filters
    if filters == AUTO:
        filters = plan.filters or "none"
    if groups == AUTO:
        groups = plan.groups
        if recompute == AUTO:
            recompute = [number for number, flag in enumerate(plan.recompute) if flag] or "none"
    return replace(
        request,
        grid=str(plan.grid) if request.grid == AUTO else request.grid,
        replicas=plan.replicas if request.replicas == AUTO else request.replicas,
        groups=groups,
        recompute=recompute,
        filters=filters,
        row_weights=request.row_weights or plan.row_weights,
        column_weights=request.column_weights or plan.column_weights,
    )


def plan_report(planner: Planner, planned: Planned) -> dict[str, Any]:
    """What ``mpitile plan --json`` prints."""
    plan, request, cluster = planned.plan, planner.request, planner.request.cluster
    prediction = planner.predict(planned.plan)
    return {
        **plan_keys(plan),
        "step_seconds": prediction.step_seconds,
        "ranks": [
            {
                **rank_keys(plan, rank),
                "device": cluster.device_of(rank),
                "bytes": dict(kinds),
                "total_bytes": sum(kinds.values()),
                "seconds": {
                    "compute": prediction.ranks[rank].compute,
                    "halo": prediction.ranks[rank].halo,
                    "reduce": prediction.ranks[rank].reduce,
                    "wait": prediction.ranks[rank].wait,
                },
            }
            for rank, kinds in enumerate(planned.ranks)
        ],
        "devices": [
            {
                "name": device.name,
                "ranks": device.ranks,
                "bytes": _sums(planned.ranks[rank] for rank in cluster.ranks_of(number)),
                "total_bytes": planned.devices[number],
            }
            for number, device in enumerate(cluster.devices)
        ],
        "images": request.passes * request.demand.images,
    }


def plan_keys(plan: Plan) -> dict[str, Any]:
    """The plan itself as ``plan.json`` and ``plan --json`` have it."""
    return {
        "grid": str(plan.grid),
        "replicas": plan.replicas,
        "groups": list(plan.groups),
        "recompute": list(plan.recompute or (False,) * len(plan.groups)),
        "filters": list(plan.filters),
        "row_weights": plan.row_weights and list(plan.row_weights),
        "column_weights": plan.column_weights and list(plan.column_weights),
    }


def read_plan(report: Mapping[str, Any]) -> Plan:
    """The plan in such a report, read from a file.

    Raises
    ------
    KeyError, TypeError, InputError : it is not there, or no such plan.
    """
    return Plan(
        parse_grid(str(report["grid"])),
        tuple(report["groups"]),
        report["replicas"],
        _tuple(report.get("row_weights")),
        _tuple(report.get("column_weights")),
        tuple(report["recompute"]) if any(report["recompute"]) else (),
        tuple(report.get("filters", ())),
    )


def rank_keys(plan: Plan, rank: int) -> dict[str, int]:
    """Where a rank stands."""
    replica, tile = divmod(rank, plan.grid.tiles)
    return {"rank": rank, "replica": replica, "tile": tile}


def _sums(ranks: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for kinds in ranks:
        for kind, size in kinds.items():
            total[kind] = total.get(kind, 0) + size
    return total


def _tuple(weights: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if weights is None else tuple(weights)


def totals(ranks: Sequence[Mapping[str, int]]) -> list[int]:
    """Bytes of each rank in all."""
    return [sum(kinds.values()) for kinds in ranks]
