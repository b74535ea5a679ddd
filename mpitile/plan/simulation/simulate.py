"""A training step on a cluster that need not be there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.devices import cluster_devices
from mpitile.plan.clusters.wires import EAGER_BYTES
from mpitile.plan.recording import GRADIENTS, IMAGES, METRICS, Members, Program, behind
from mpitile.plan.simulation.clockwork import Clockwork
from mpitile.plan.simulation.collectives import (
    ALGORITHMS,
    Schedules,
    binomial,
    halves,
    schedule_among,
    small_sums,
)
from mpitile.plan.simulation.gather_messages import with_messages
from mpitile.plan.simulation.intervals import Timeline
from mpitile.plan.simulation.program_check import check_programs
from mpitile.plan.sums.completion import goes_beside


def simulate(
    programs: Sequence[Program],
    cluster: Cluster,
    algorithm: str = "sliced",
    eager: float = EAGER_BYTES,
    keep: bool = True,
) -> Timeline:
    """Run the programs of all ranks, predicted or recorded, on a cluster.

    On a single device sums that go beside the passes elsewhere are behind them, as there.

    Parameters
    ----------
    cluster : has as many ranks as there are programs.
    algorithm : of the sum of gradients: a key of `ALGORITHMS` in `collectives`. Others, which are
        small, go up and down a binomial tree.
    eager : bytes up to which a message travels as soon as it is sent; larger ones only
        while sender and receiver both wait. Infinite where something else than the
        ranks moves messages.
    keep : whether intervals and messages are wanted one by one.

    Raises
    ------
    InputError : the programs do not fit each other or the cluster.
    """
    if len(programs) != cluster.ranks:
        raise InputError(
            f"{len(programs)} ranks on a cluster of {cluster.ranks}: expected as many as the "
            f"ranks of its {len(cluster.devices)} devices"
        )
    check_programs(programs)
    devices = cluster_devices(cluster)
    if not goes_beside(len(devices)):
        programs = tuple(map(behind, programs))
    ways = {GRADIENTS: ALGORITHMS[algorithm], **halves(algorithm)}

    @cache
    def schedule(size: int, purpose: str, ranks: Members) -> Schedules:
        # What ranks tell each other between passes, and sums of some, are MPI's own.
        small = binomial if ranks or purpose in (IMAGES, METRICS) else small_sums(devices)
        return schedule_among(ways.get(purpose, small), devices, size, ranks)

    def adding(rank: int, size: int) -> float:
        speed = cluster.devices[cluster.device_of(rank)].speed
        return size / (speed.sum * speed.share)

    programs = with_messages(programs, cluster)
    return Clockwork(programs, cluster, schedule, adding, eager, keep).run()
