"""Sums, updates and new values of buckets, while others of them are still being computed.

All ranks complete the buckets of a flat array in one order. A bucket is taken up when all ranks
of the device have completed it, which counters in shared memory tell without a message and
without a wait. The device's ranks then add up and send; who has received all parts of a sum
updates its own span and hands the new values back.

A rank's new values take the place of those that it, and all others, have read for the last
time in this step: no part of a sum is sent before every rank of the sending device has completed
the bucket, and no rank completes a bucket before it is done with the weights in it. So a
value that arrives is one that all of its device have done with, too. `end` has a fence: nobody
reads a bucket's new values before.

Sums are taken in the order of ranks and devices, as in `mpitile.comm.reduce`, whose parts do the
work here: when messages come does not matter to any bit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from mpitile.comm.devices import DeviceGroup, own_arrays
from mpitile.comm.reduce import SlicedGather, SlicedSum
from mpitile.plan.slices import IN_FLIGHT, Span


class BucketFlow:
    """The buckets of one array on this rank. Making one, `begin` and `end` are collective.

    `advance` never waits and may be called at any time, by any thread.

    Parameters
    ----------
    sums, gather : of the same buckets.

    Attributes
    ----------
    flights : of each bucket since `begin`, when it was taken up and when it was handed back.
    seconds : of CPU time that adding up, updating and sending took since `begin`.
    """

    def __init__(self, group: DeviceGroup, sums: SlicedSum, gather: SlicedGather) -> None:
        self._world = group.world
        self._sums, self._gather = sums.buckets, gather
        self._memory, self._counts = own_arrays(group, 1, np.dtype(np.int64))
        self._own = self._counts[group.inside.rank]
        self._lock = threading.Lock()
        self._update: Callable[[Span], None] = lambda span: None
        # Buckets that all ranks had completed before this step, and of this one those that
        # have been taken up, summed and updated, and handed back.
        self._before = 0
        self._taken = self._summed = self._back = len(self._sums)
        self.flights: list[tuple[float, float]] = []
        self.seconds = 0.0

    def begin(self, update: Callable[[Span], None]) -> None:
        """Begin with the first bucket.

        Parameters
        ----------
        update : given a span of this rank whose sum is complete, changes the values there.
        """
        with self._lock:
            self._update = update
            self._before = int(self._own[0])
            self._taken = self._summed = self._back = 0
            self.flights, self.seconds = [], 0.0

    def complete(self, count: int) -> None:
        """This rank has completed so many buckets of this step, and is done with their values."""
        self._memory.order()
        self._own[0] = self._before + count

    def advance(self) -> bool:
        """Do what can be done at once; whether nothing is left."""
        with self._lock:
            start, moved = time.thread_time(), False
            while self._hand_back() or self._sum_up() or self._take_up():
                moved = True
            if moved:
                self.seconds += time.thread_time() - start
            return self._back == len(self._sums)

    def end(self) -> None:
        """Return when the device's values are whole."""
        self._world.wait_until(self.advance)
        self._gather.fence()

    def close(self) -> None:
        """Give back the counters. Collective."""
        self._memory.close()

    def _take_up(self) -> bool:
        number = self._taken
        # No more at a time, so that halos find the links free before long.
        if number == len(self._sums) or number == self._back + IN_FLIGHT:
            return False
        if min(int(count[0]) for count in self._counts) <= self._before + number:
            return False
        self._memory.order()
        self.flights.append((time.perf_counter(), 0.0))
        self._sums[number].begin()
        self._taken += 1
        return True

    def _sum_up(self) -> bool:
        number = self._summed
        if number == self._taken or not self._sums[number].channel.test():
            return False
        bucket = self._sums[number]
        bucket.complete()
        self._update(bucket.span)
        self._memory.order()
        self._gather.channels[number].begin()
        self._summed += 1
        return True

    def _hand_back(self) -> bool:
        number = self._back
        if number == self._summed or not self._gather.channels[number].test():
            return False
        self.flights[number] = self.flights[number][0], time.perf_counter()
        self._back += 1
        return True
