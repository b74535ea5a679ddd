"""When backward completes the buckets of a flat array of gradients."""

from __future__ import annotations

from mpitile.plan.buckets import Bucket
from mpitile.plan.tasks import Task


class Completion:
    """Follows one backward pass, and tells the bytes of each bucket that becomes complete.

    Parameters
    ----------
    buckets : in the order in which they are completed.
    """

    def __init__(self, buckets: tuple[Bucket, ...], itemsize: int) -> None:
        self._buckets, self._itemsize = buckets, itemsize
        self._next = 0

    def after(self, task: Task) -> list[int]:
        """Bytes of those that are complete with this task's gradients."""
        first = self._next
        layers = (task.first.index, task.layer.index)
        while self._next < len(self._buckets) and self._buckets[self._next].layer in layers:
            self._next += 1
        spans = [bucket.span for bucket in self._buckets[first : self._next]]
        return [self._itemsize * (stop - start) for start, stop in spans]
