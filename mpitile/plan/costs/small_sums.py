"""Seconds of small sums over all ranks within a pass, such as batch norm's."""

from __future__ import annotations

from mpitile.plan.clusters.devices import first_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.sums.reduction import direct


class SmallSums:
    """Over the first `ranks` ranks, as `mpitile.comm.device_sums` takes them.

    Inside each device, directly between all of them, and inside each again; on one device, and on
    many, as MPI does (`Cost.reduction`).
    """

    def __init__(self, cost: Cost, ranks: int) -> None:
        self._cost, self._ranks = cost, ranks
        self._devices = len(first_devices(cost.cluster, ranks))

    def seconds(self, size: int) -> float:
        """Of a sum of so many bytes, on all ranks."""
        if not direct(self._devices):
            return self._cost.reduction(size, self._ranks)
        cluster, others = self._cost.cluster, self._devices - 1
        messages = others * (self._devices if cluster.medium == "shared" else 1)
        alone = self._ranks == self._devices
        there_and_back = 0.0 if alone else 2 * cluster.inside.seconds(size)
        return there_and_back + cluster.between.seconds(messages * size)
