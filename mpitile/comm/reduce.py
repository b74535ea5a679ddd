"""The sum of weight gradients over all ranks, in buckets."""

from __future__ import annotations

import numpy as np

from mpitile.comm.communicator import Communicator, Pending

BUCKET_BYTES = 4 << 20


class BucketSum:
    """In-place sum of one flat array over all ranks, as several nonblocking reductions.

    Buckets bound the memory that MPI needs on the way and let reductions of early
    buckets progress while later ones begin. Collective.
    """

    def __init__(
        self, world: Communicator, array: np.ndarray, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        step = max(1, bucket_bytes // array.itemsize)
        self._world = world
        self._buckets = [array[i : i + step] for i in range(0, array.size, step)]
        self._pending: list[Pending] = []

    def begin(self) -> None:
        """Begin to add; the array must not be touched before `end`."""
        self._pending = [self._world.begin_sum(bucket) for bucket in self._buckets]

    def end(self) -> None:
        """Return when the array holds the sum."""
        for pending in self._pending:
            pending.end()
        self._pending = []
