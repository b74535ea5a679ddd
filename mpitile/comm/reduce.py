"""The sum of weight gradients over all ranks, in buckets."""

from __future__ import annotations

from collections import deque

import numpy as np

from mpitile.comm.communicator import Communicator, Pending

BUCKET_BYTES = 1 << 20
IN_FLIGHT = 2


class BucketSum:
    """In-place sum of one flat array over all ranks, as several nonblocking reductions.

    Few are under way at a time, which bounds the memory that MPI needs: a rank that
    receives partial sums holds a bucket of them for each.

    Attributes
    ----------
    bytes : the most that MPI holds on this rank meanwhile.

    Notes
    -----
    Making one, `begin` and `end` are collective.
    """

    def __init__(
        self, world: Communicator, array: np.ndarray, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        step = max(1, bucket_bytes // array.itemsize)
        self._world = world
        self._buckets = [array[i : i + step] for i in range(0, array.size, step)]
        self._pending: deque[Pending] = deque()
        self.bytes = bytes_in_flight(world.size, array.nbytes)

    def begin(self) -> None:
        """Begin to add; the array must not be touched before `end`."""
        for bucket in self._buckets[:IN_FLIGHT]:
            self._pending.append(self._world.begin_sum(bucket))

    def end(self) -> None:
        """Return when the array holds the sum."""
        for bucket in self._buckets[IN_FLIGHT:]:
            self._pending.popleft().end()
            self._pending.append(self._world.begin_sum(bucket))
        while self._pending:
            self._pending.popleft().end()


def bytes_in_flight(ranks: int, size: int) -> int:
    """The most that MPI holds on a rank while an array of `size` bytes is added up.

    With 3 and 4 ranks, Open MPI adds along a tree whose leaves hold nothing; with other
    numbers each rank has been seen to hold all buckets that are under way.
    """
    return min(IN_FLIGHT * BUCKET_BYTES, size) if ranks > 1 else 0
