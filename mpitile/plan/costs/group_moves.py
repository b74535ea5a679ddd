"""What travels at the start of each fused group of a plan, and what ranks copy for it."""

from __future__ import annotations

from mpitile.plan.costs.cost import Cost, Message
from mpitile.plan.costs.gather_times import GatherTimes, Parts
from mpitile.plan.partition import Partition
from mpitile.plan.traffic import group_traffic


class GroupMoves:
    """The exchanges of a partition on a cluster, in bytes of a pass, forward.

    Parameters
    ----------
    images : of a pass on one team.

    Attributes
    ----------
    gathers : what gathers cost.
    """

    def __init__(self, partition: Partition, cost: Cost, images: int) -> None:
        self._partition, self._bytes = partition, images * cost.itemsize
        self.gathers = GatherTimes(cost, partition.plan)
        self._copying: dict[tuple[int, str], list[tuple[float, float]]] = {}
        self._parts = [self._group_parts(group) for group in range(len(partition.ranges))]

    def parts(self, group: int) -> Parts | None:
        """Of a filter-parallel group that gathers its input, what each tile's rank owns of it."""
        return self._parts[group]

    def copying(self, group: int, direction: str) -> list[tuple[float, float]]:
        """Seconds of each rank for such a gather: before it sends, and when it has received."""
        key = (group, direction)
        if key not in self._copying:
            self._copying[key] = self.gathers.copying(direction, self._parts[group] or ())
        return self._copying[key]

    def messages(self, group: int) -> list[Message]:
        """Between ranks of the world."""
        parts = self._parts[group]
        if parts is not None:
            return self.gathers.messages(parts)
        plan = self._partition.plan
        traffic = sorted(group_traffic(self._partition, group).items())
        return [
            Message(base + source, base + target, self._bytes * elements)
            for base in range(0, plan.ranks, plan.grid.tiles)
            for (source, target), elements in traffic
        ]

    def _group_parts(self, group: int) -> Parts | None:
        partition = self._partition
        first, _ = partition.ranges[group]
        (tensor, *_) = partition.network.layers[first].inputs
        if first not in partition.spans or not tensor:
            return None
        every = (0, partition.network.shape(tensor).channels)
        found = []
        for tile in range(partition.plan.grid.tiles):
            start, stop = partition.channels(tensor, tile) or every
            cells = partition.owned(tensor, tile).cells
            found.append(self._bytes * cells * (stop - start))
        return tuple(found)
