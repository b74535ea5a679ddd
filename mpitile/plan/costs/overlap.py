"""Gradients' sums beside the backward pass, and new values beside the next forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from mpitile.network.parameters import divided_specs, parameter_specs
from mpitile.plan.clusters.devices import first_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.sum_times import PeerSums, trained_elements
from mpitile.plan.filters import tile_spans
from mpitile.plan.partition import Partition
from mpitile.plan.sums.buckets import early_count, layer_buckets
from mpitile.plan.sums.completion import Awaiting, Completion, value_bytes
from mpitile.plan.sums.slices import loads
from mpitile.plan.tasks import Task


class _Links:
    """The links between devices, as far as buckets keep them busy.

    Halos and buckets share what a link carries while both are there.
    """

    def __init__(self, partition: Partition, cost: Cost) -> None:
        self._partition, self._cost = partition, cost
        self._ranks = partition.plan.ranks
        specs = parameter_specs(partition.network)
        alike = [spec for spec in specs if spec.layer not in partition.plan.filters]
        self._buckets = layer_buckets(alike, cost.itemsize)
        self._early = _early_slices(partition, cost.itemsize)
        self._peers = PeerSums(cost, partition.plan)
        self._free = 0.0
        # Seconds of one bucket: the latest, or on average.
        self._one = 0.0

    def halo(self, start: float, seconds: float) -> float:
        """Seconds of messages that set out now, which would alone take so many."""
        common = min(max(0.0, self._free - start), seconds)
        self._free += common
        return seconds + common

    def small(self, start: float) -> float:
        """Seconds by which a small sum that begins now takes longer.

        Its messages take turns with those of the bucket on its way: about as long as that takes,
        as simulated steps of networks with batch norm have it.
        """
        return min(max(0.0, self._free - start), self._one)

    def _way(self, size: int) -> float:
        """Seconds that a bucket's sum, or handing its values out again, keeps links busy.

        Latency passes while another bucket is on them.
        """
        once, twice = (self._cost.gradient_sum(times * size, self._ranks) for times in (1, 2))
        return (twice - once) / 2

    def _peers_way(self, layer: int) -> float:
        """The same for a filter-parallel layer's slices, over replicas on several devices."""
        plan, described = self._partition.plan, self._partition.network.layers[layer]
        if plan.replicas == 1 or layer not in plan.filters:
            return 0.0
        each = self._cost.itemsize * trained_elements(described)
        channels = described.output_shape.channels
        spans = self._partition.spans[layer]
        sizes = [each * (stop - start) // channels for start, stop in spans]
        return self._peers.seconds(sizes) / 2 if self._peers.travel(sizes) else 0.0


class BesideBackward(_Links):
    """While gradients are summed, and early values handed out.

    Buckets follow each other: each sets out when the last rank has completed it and the one
    before it is summed.
    """

    def __init__(self, partition: Partition, cost: Cost) -> None:
        super().__init__(partition, cost)
        self._completion = Completion(self._buckets, cost.itemsize)

    def after(self, task: Task, clock: Sequence[float]) -> None:
        """All ranks have computed a task's gradients by these times."""
        layer = task.first.index
        ways = [(self._way(size), early) for size, early in self._completion.after(task)]
        for way, early in (*ways, (self._peers_way(layer), layer in self._early)):
            if way:
                # There alone, or there and back.
                way *= 1 + early
                self._free = max(self._free, *clock) + way
                self._one = way

    def left(self, clock: Sequence[float]) -> float:
        """Seconds from the last rank's end of backward until all sums are there."""
        return max(0.0, self._free - max(clock))


class BesideForward(_Links):
    """While the step before's other new values are handed out, from the beginning of the step."""

    def __init__(self, partition: Partition, cost: Cost) -> None:
        super().__init__(partition, cost)
        self._awaiting = Awaiting(self._buckets)
        ways = [self._way(size) for size in value_bytes(self._buckets, cost.itemsize)]
        # When each bucket is there if no halo comes between, and when all slices are.
        self._there = list(accumulate(ways))
        self._slices = set(partition.plan.filters) - self._early
        ways += [way for way in map(self._peers_way, self._slices) if way]
        self._all = self._free = sum(ways)
        self._one = self._all / max(len(ways), 1)

    def before(self, task: Task) -> float:
        """When the values of a task that comes next are there."""
        late = self._free - self._all
        if task.first.index in self._partition.plan.filters:
            awaited = self._partition.plan.replicas > 1 and task.first.index in self._slices
            return self._free if awaited else 0.0
        counts = self._awaiting.before(task)
        return max((self._there[count - 1] + late for count in counts), default=0.0)


def _early_slices(partition: Partition, itemsize: int) -> set[int]:
    """Filter-parallel layers whose new values are early, by the slices of the first tile."""
    network, plan = partition.network, partition.plan
    _, specs = divided_specs(network, tile_spans(network, plan, 0))
    buckets = layer_buckets(specs, itemsize)
    count = early_count(buckets)
    return {bucket.layer for bucket in buckets[:count]} - {b.layer for b in buckets[count:]}


def adding_seconds(cost: Cost, ranks: int, elements: int) -> list[float]:
    """CPU seconds in which each rank adds up its parts of so many gradients.

    Inside its device and from others; beside backward they are taken from its kernels.
    """
    devices, found = first_devices(cost.cluster, ranks), []
    for rank, load in enumerate(loads(devices, elements)):
        device, _ = devices.place(rank)
        summands = (len(devices.ranks[device]) - 1) * load.added + load.received
        speed = cost.cluster.devices[cost.cluster.device_of(rank)].speed
        found.append(summands * cost.itemsize / (speed.sum * speed.share))
    return found
