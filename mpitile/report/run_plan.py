"""The plan that a run was made with: its pictures, from what the run folder holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.plan.clusters.generic import generic_cluster
from mpitile.plan.costs.cost import Cost
from mpitile.plan.partition import Partition
from mpitile.plan.search.request import first_ranks
from mpitile.report.figures import Picture
from mpitile.report.memory_picture import MemoryView, memory_picture
from mpitile.report.plan_pictures import step_pictures, step_size, tilings_picture
from mpitile.report.run_files import RunFiles
from mpitile.train.planning import ITEMSIZES
from mpitile.train.run_folder import NETWORK
from mpitile.train.setup import job_request


def plan_section(run: RunFiles, timeline: bool) -> tuple[tuple[Picture, ...], str]:
    """Pictures of the tiling, the groups and perhaps a predicted step, and a remark.

    Parameters
    ----------
    timeline : whether the predicted step is wanted.
    """
    plan, path = run.plan, run.folder / NETWORK
    if plan is None:
        return (), "There is no plan.json: the plan cannot be drawn."
    if not path.exists():
        return (), f"There is no {NETWORK} in the folder: the plan cannot be drawn."
    hosts = [str(rank.get("host", "host")) for rank in (run.report or {})["ranks"]]
    network = replace(run.settings.network, cfg=str(path.resolve()), weights=None)
    cluster, remark = _cluster(run, hosts)
    request = job_request(replace(run.settings, network=network), plan.ranks, cluster=cluster)
    try:
        partition = Partition(request.network, plan)
    except InputError as error:
        raise InputError(f"{run.folder / 'plan.json'}: {error}") from error
    places = [cluster.device_of(rank) for rank in range(plan.ranks)]
    cost = Cost(request.network, cluster, ITEMSIZES[run.settings.train.dtype])
    groups, predicted = step_pictures(partition, cost, step_size(request), cluster)
    drawn = (tilings_picture(partition, places), groups)
    return (*drawn, predicted) if timeline else drawn, remark


def memory_section(run: RunFiles) -> tuple[Picture, ...]:
    """Planned bytes of every device and rank, and measured ones once the run has ended."""
    if run.report is None:
        return ()
    ranks = run.report["ranks"]
    measured: Mapping[str, Any] = next(iter(run.named("peak")[-1:]), {})
    grown = measured.get("grown_bytes") or ()
    devices = measured.get("devices") or _devices(ranks)
    limit = run.settings.tiling.memory_bytes
    room = inf if limit is None else float(limit)
    names = [str(ranks[own[0]].get("host", "")) for own in devices]
    kinds = [rank["bytes"] for rank in ranks]
    if len(grown) != len(ranks):
        grown = ()
    view = MemoryView(kinds, devices, names, [room] * len(devices), grown)
    title = "Memory planned, and measured" if view.measured else "Memory planned"
    return (memory_picture(view, title),)


def _devices(ranks: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for number, rank in enumerate(ranks):
        found.setdefault(rank.get("device", 0), []).append(number)
    return [found[device] for device in sorted(found)]


def _cluster(run: RunFiles, hosts: Sequence[str]) -> tuple[Cluster, str]:
    """What the run was planned for, else devices of a common kind."""
    name = run.settings.tiling.cluster
    if name is None:
        return generic_cluster(hosts), (
            "No cluster was described (tiling.cluster): predicted seconds are those of devices of "
            "a common kind, and only their proportions count."
        )
    try:
        return first_ranks(read_cluster(run.settings.input_path(name)), len(hosts)), ""
    except InputError as error:
        return generic_cluster(hosts), f"Seconds are those of devices of a common kind: {error}."
