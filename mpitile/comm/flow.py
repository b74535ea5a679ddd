"""Sums of buckets while others are still being computed, and new values while others are used.

All ranks complete the buckets of a flat array in one order. A bucket is taken up when all ranks
of the device have completed it, which counters in shared memory tell without a message and
without a wait. The device's ranks then add up and send; who has received all parts of a sum
updates its own span. When a rank has updated all of its spans, it hands them out, beside
whatever follows, to all devices; the first buckets at once, beside the rest of the sums.

A rank's new values take the place of those that it, and all others, have read for the last
time in this step: no part of a sum is sent before every rank of the sending device has completed
the bucket, and no rank completes a bucket before it is done with the weights in it. So a
value that changes is one that all of its device have done with, too. `ValueFlow.wait` is for
those who want to read the new ones.

Sums are taken in the order of ranks and devices, as in `mpitile.comm.reduce`, whose parts do the
work here: when messages come does not matter to any bit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from mpitile.comm.communicator import Channel
from mpitile.comm.devices import Counts, DeviceGroup
from mpitile.comm.reduce import SlicedSum
from mpitile.plan.sums.slices import IN_FLIGHT, Span


class SumFlow:
    """Sums of the buckets of one array. Making one and `begin` are collective.

    `advance` never waits and may be called at any time, by any thread.

    Attributes
    ----------
    flights : of each bucket since `begin`, when it was taken up and when its sum was there.
    seconds : of CPU time that adding up, updating and sending took since `begin`.
    updating : what of them went into updates.
    """

    def __init__(self, group: DeviceGroup, sums: SlicedSum) -> None:
        self._sums = sums.buckets
        self._counts = Counts(group)
        self._lock = threading.Lock()
        self._update: Callable[[Span], None] = lambda span: None
        # Buckets that all ranks had completed before this step, and of this one those that
        # have been taken up, and summed and updated.
        self._before = 0
        self._taken = self._summed = len(self._sums)
        self.flights: list[tuple[float, float]] = []
        self.seconds = self.updating = 0.0

    def begin(self, update: Callable[[Span], None]) -> None:
        """Begin with the first bucket.

        Parameters
        ----------
        update : given a span of this rank whose sum is complete, changes the values there.
        """
        with self._lock:
            self._update = update
            self._before = self._counts.own
            self._taken = self._summed = 0
            self.flights, self.seconds, self.updating = [], 0.0, 0.0

    def complete(self, count: int) -> None:
        """This rank has completed so many buckets of this step, and is done with their values."""
        self._counts.tell(self._before + count)

    def advance(self) -> bool:
        """Do what can be done at once; whether that was anything."""
        with self._lock:
            start, moved = time.thread_time(), False
            while self._sum_up() or self._take_up():
                moved = True
            if moved:
                self.seconds += time.thread_time() - start
            return moved

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self._summed == len(self._sums)

    @property
    def summed(self) -> int:
        """Of how many buckets, in their order, this rank's spans have their new values."""
        return self._summed

    def close(self) -> None:
        """Give back the counters. Collective."""
        self._counts.close()

    def _take_up(self) -> bool:
        number = self._taken
        # No more at a time, so that halos find the links free before long.
        if number == len(self._sums) or number == self._summed + IN_FLIGHT:
            return False
        if not self._counts.reached(self._before + number + 1):
            return False
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
        start = time.thread_time()
        self._update(bucket.span)
        self.updating += time.thread_time() - start
        self.flights[number] = self.flights[number][0], time.perf_counter()
        self._summed += 1
        return True


class ValueFlow:
    """New values of some buckets of one array. Making one, `begin` and `wait` are collective.

    `advance` never waits and may be called at any time, by any thread.

    Parameters
    ----------
    channels : the messages of each bucket, in an order that is the same on all ranks.
    ready : how many of them, in that order, this rank has new values for; all if left out.

    Attributes
    ----------
    flights : of each bucket since `begin`, when its messages began and when they were there.
    """

    def __init__(
        self,
        group: DeviceGroup,
        channels: Sequence[Channel],
        ready: Callable[[], int] | None = None,
    ) -> None:
        self._world = group.world
        self._channels = channels
        self._ready = ready or (lambda: len(channels))
        self._counts = Counts(group)
        self._lock = threading.Lock()
        # Buckets handed out before this time, and of this one those that have been begun,
        # that are here, and that are known to be on the whole device.
        self._before = 0
        self._begun = self._here = self._known = len(self._channels)
        self.flights: list[tuple[float, float]] = []

    def begin(self) -> None:
        """Begin to hand out this rank's spans, as far as they have their new values."""
        with self._lock:
            self._before = self._counts.own
            self._begun = self._here = self._known = 0
            self.flights = []

    def advance(self) -> bool:
        """Do what can be done at once; whether that was anything."""
        with self._lock:
            moved = False
            while self._take_in() or self._hand_out():
                moved = True
            return moved

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self._here == len(self._channels)

    def wait(self, count: int) -> None:
        """Return when the device has all new values of so many buckets."""
        if count > self._known:
            self._world.wait_until(lambda: self._reached(count))
            self._known = count

    def wait_all(self) -> None:
        """Return when it has those of all."""
        self.wait(len(self._channels))

    def close(self) -> None:
        """Give back the counters. Collective."""
        self._counts.close()

    def _reached(self, count: int) -> bool:
        self.advance()
        return self._counts.reached(self._before + count)

    def _hand_out(self) -> bool:
        number = self._begun
        if number == len(self._channels) or number == self._here + IN_FLIGHT:
            return False
        if number >= self._ready():
            return False
        self.flights.append((time.perf_counter(), 0.0))
        self._channels[number].begin()
        self._begun += 1
        return True

    def _take_in(self) -> bool:
        number = self._here
        if number == self._begun or not self._channels[number].test():
            return False
        self.flights[number] = self.flights[number][0], time.perf_counter()
        self._here += 1
        self._counts.tell(self._before + self._here)
        return True
