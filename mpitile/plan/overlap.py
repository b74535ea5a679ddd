"""Sums of gradients beside the backward pass: when buckets are complete, and when they are back."""

from __future__ import annotations

from collections.abc import Sequence

from mpitile.network.spec import Network
from mpitile.plan.buckets import network_buckets
from mpitile.plan.cost import Cost
from mpitile.plan.devices import first_devices
from mpitile.plan.slices import covered, share
from mpitile.plan.tasks import Task


class Completion:
    """Follows one backward pass, and tells the bytes of each bucket that becomes complete."""

    def __init__(self, network: Network, itemsize: int) -> None:
        self._buckets = network_buckets(network, itemsize)
        self._itemsize = itemsize
        self._next = 0

    def after(self, task: Task) -> list[int]:
        """Bytes of those that are complete with this task's gradients."""
        first = self._next
        layers = (task.first.index, task.layer.index)
        while self._next < len(self._buckets) and self._buckets[self._next].layer in layers:
            self._next += 1
        spans = [bucket.span for bucket in self._buckets[first : self._next]]
        return [self._itemsize * (stop - start) for start, stop in spans]


class BesideBackward:
    """The links between devices, as far as buckets keep them busy.

    Buckets follow each other: each sets out when the last rank has completed it and the one
    before it is back. Halos and buckets share what a link carries while both are there.
    """

    def __init__(self, network: Network, cost: Cost, ranks: int) -> None:
        self._completion = Completion(network, cost.itemsize)
        self._cost, self._ranks = cost, ranks
        self._free = 0.0

    def after(self, task: Task, clock: Sequence[float]) -> None:
        """All ranks have computed a task's gradients by these times."""
        for size in self._completion.after(task):
            way = self._cost.gradient_sum(size, self._ranks)
            self._free = max(self._free, *clock) + way

    def halo(self, start: float, seconds: float) -> float:
        """Seconds of messages that set out now, which would alone take so many."""
        common = min(max(0.0, self._free - start), seconds)
        self._free += common
        return seconds + common

    def left(self, clock: Sequence[float]) -> float:
        """Seconds from the last rank's end of backward until all new values are there."""
        return max(0.0, self._free - max(clock))


def adding_seconds(cost: Cost, rank: int, ranks: int, elements: int) -> float:
    """CPU seconds in which a rank adds up its parts of so many gradients.

    Inside its device and from others; beside backward they are taken from its kernels.
    """
    devices = first_devices(cost.cluster, ranks)
    part = share(devices, rank, (0, elements))
    device, _ = devices.place(rank)
    summands = (len(devices.ranks[device]) - 1) * covered(part.added)
    summands += covered([parcel.span for parcel in part.receives])
    speed = cost.cluster.devices[cost.cluster.device_of(rank)].speed
    return summands * cost.itemsize / (speed.sum * speed.share)
