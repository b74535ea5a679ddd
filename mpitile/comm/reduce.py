"""Sums over all ranks of arrays that each device's ranks share, in slices, and back.

See `mpitile.plan.sums.slices` for who does what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mpitile.comm.communicator import Channel, SharedMemory
from mpitile.comm.devices import DeviceGroup
from mpitile.plan.clusters.devices import Devices
from mpitile.plan.sums.slices import (
    IN_FLIGHT,
    Parcel,
    Share,
    Span,
    equal_buckets,
    own_spans,
    places_in_flight,
    share,
)


class _Stage(Protocol):
    """A part of the work that others can overtake between its begin and its end."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


class _Pipeline:
    """Stages one after the other, with a few under way at a time."""

    def __init__(self, stages: Sequence[_Stage]) -> None:
        self._stages = stages
        self._pending: deque[_Stage] = deque()

    def begin(self) -> None:
        for stage in self._stages[:IN_FLIGHT]:
            self._enter(stage)

    def end(self) -> None:
        for stage in self._stages[IN_FLIGHT:]:
            self._pending.popleft().end()
            self._enter(stage)
        while self._pending:
            self._pending.popleft().end()

    def _enter(self, stage: _Stage) -> None:
        stage.begin()
        self._pending.append(stage)


class SlicedSum:
    """The sum of a flat array over all ranks: of each part, on the rank that completes it.

    Summands are added up in the order of ranks inside each device, then in the order of
    devices: two runs on the same devices give the same bits, whatever the buckets are.
    Making one, `begin` and `end` are collective.

    Parameters
    ----------
    group : this rank's place.
    memory, arrays : the summands of the device's ranks, in memory that they share.
    buckets : what is dealt with at a time, in this order; parts of equal size if left out.

    Attributes
    ----------
    buckets : the sum of each.
    total : where this rank finds its part of the sum: the array of the device's first rank.
        All else in any rank's array is spoilt until it is written anew.
    own : the spans that this rank completes.
    bytes : of the buffers for what other devices send.
    """

    def __init__(
        self,
        group: DeviceGroup,
        memory: SharedMemory,
        arrays: Sequence[np.ndarray],
        buckets: Sequence[Span] | None = None,
    ) -> None:
        self._memory = memory
        self.total = arrays[0]
        if buckets is None:
            buckets = equal_buckets(self.total.size, self.total.itemsize)
        rank, devices = group.world.rank, group.devices
        self.own = own_spans(devices, rank, buckets)
        shares = shares_of(group, buckets)
        sources = _sources(devices, group.number)
        buffers = [
            {source: np.empty(elements, self.total.dtype) for source in sources}
            for elements in places_in_flight([part.own for part in shares])
        ]
        self.bytes = sum(buffer.nbytes for by_source in buffers for buffer in by_source.values())
        self.buckets = [
            BucketSum(group, part, arrays, buffers[number % IN_FLIGHT])
            for number, part in enumerate(shares)
        ]
        self._pipeline = _Pipeline(self.buckets)

    def begin(self) -> None:
        """Begin to add; no rank may touch its array before `end` and a fence behind it."""
        self._memory.fence()
        self._pipeline.begin()

    def end(self) -> None:
        """Return when the rank's own spans of `total` hold the sum."""
        self._pipeline.end()

    def close(self) -> None:
        """Free the requests."""
        for bucket in self.buckets:
            bucket.channel.close()


class BucketSum:
    """One bucket's sum inside the device, then over devices.

    Attributes
    ----------
    span : what this rank completes.
    """

    def __init__(
        self,
        group: DeviceGroup,
        part: Share,
        arrays: Sequence[np.ndarray],
        buffers: dict[int, np.ndarray],
    ) -> None:
        total, (start, stop) = arrays[0], part.own
        self.span = part.own
        own = total[start:stop]
        self._inner = [[array[a:b] for array in arrays] for a, b in part.added]
        outer = {source: buffer[: own.size] for source, buffer in buffers.items()}
        # The own device's sum at its place among the others', so that the order is the same
        # for all parts of the array.
        self._outer = [outer.get(device, own) for device in range(len(group.devices))]
        self._own = own

        def place(parcel: Parcel) -> np.ndarray:
            first, last = parcel.span
            return outer[parcel.device][first - start : last - start]

        self.channel: Channel = group.world.channel(
            [(parcel.rank, _part(total, parcel.span)) for parcel in part.sends],
            [(parcel.rank, place(parcel)) for parcel in part.receives],
        )

    def begin(self) -> None:
        for first, *others in self._inner:
            for other in others:
                np.add(first, other, out=first)
        self.channel.begin()

    def end(self) -> None:
        self.channel.end()
        self.complete()

    def complete(self) -> None:
        """Add up what all devices have sent."""
        # Into a buffer up to the own summand, from there on into the array.
        result = self._outer[0]
        for summand in self._outer[1:]:
            target = self._own if summand is self._own else result
            result = np.add(result, summand, out=target)


class SlicedGather:
    """Hands what each rank has in its own spans of an array to all devices.

    Making one, `begin` and `end` are collective.

    Parameters
    ----------
    group : this rank's place.
    memory, array : an array that exists once on each device, in memory that its ranks share.
    buckets : as of the sum that gave each rank its spans.

    Attributes
    ----------
    channels : the messages of each bucket.
    """

    def __init__(
        self,
        group: DeviceGroup,
        memory: SharedMemory,
        array: np.ndarray,
        buckets: Sequence[Span] | None = None,
    ) -> None:
        self._memory = memory
        if buckets is None:
            buckets = equal_buckets(array.size, array.itemsize)

        def channel(part: Share) -> Channel:
            # What came from a rank for its sum goes back to it whole, and the other way round.
            return group.world.channel(
                [(parcel.rank, _part(array, parcel.span)) for parcel in part.receives],
                [(parcel.rank, _part(array, parcel.span)) for parcel in part.sends],
            )

        self.channels = [channel(part) for part in shares_of(group, buckets)]
        self._pipeline = _Pipeline(self.channels)

    def begin(self) -> None:
        """Begin to send the own spans, and to write other devices' ones."""
        self._pipeline.begin()

    def end(self) -> None:
        """Return when the array is whole, for all ranks of the device."""
        self._pipeline.end()
        self.fence()

    def fence(self) -> None:
        """What any rank of the device has written or received is what all read afterwards."""
        self._memory.fence()

    def close(self) -> None:
        """Free the requests."""
        for channel in self.channels:
            channel.close()


def shares_of(group: DeviceGroup, buckets: Sequence[Span]) -> list[Share]:
    """This rank's part in each bucket."""
    return [share(group.devices, group.world.rank, bucket) for bucket in buckets]


def _sources(devices: Devices, number: int) -> list[int]:
    return [device for device in range(len(devices)) if device != number]


def _part(array: np.ndarray, span: Span) -> np.ndarray:
    return array[span[0] : span[1]]
