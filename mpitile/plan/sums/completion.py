"""When backward completes the buckets of a flat array, and when forward wants them back."""

from __future__ import annotations

from collections.abc import Sequence

from mpitile.plan.sums.buckets import Bucket, early_count, needed
from mpitile.plan.tasks import Task


def goes_beside(devices: int) -> bool:
    """Whether sums and new values go beside the passes, where that is wanted.

    Inside one device nothing travels. Its ranks would only add up at different times, each while
    others wait for its halos.
    """
    return devices > 1


class Completion:
    """Follows one backward pass, and tells each bucket that becomes complete.

    Parameters
    ----------
    buckets : in the order in which they are completed.
    """

    def __init__(self, buckets: Sequence[Bucket], itemsize: int) -> None:
        self._buckets, self._itemsize = buckets, itemsize
        self._early = early_count(buckets)
        self._next = 0

    def after(self, task: Task) -> list[tuple[int, bool]]:
        """Bytes of those that are complete with this task's gradients, and whether their new
        values travel beside backward, too.
        """
        first = self._next
        layers = (task.first.index, task.layer.index)
        while self._next < len(self._buckets) and self._buckets[self._next].layer in layers:
            self._next += 1
        return [
            (self._itemsize * elements(self._buckets[number]), number < self._early)
            for number in range(first, self._next)
        ]


class Awaiting:
    """Follows one forward pass, and tells how many buckets of new values it waits for.

    Parameters
    ----------
    buckets : all, in the order in which backward completes them. New values of the early ones are
        there when forward begins, those of the others come in the opposite order.
    """

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self._buckets = buckets[early_count(buckets) :]
        self._known = 0

    def before(self, task: Task) -> list[int]:
        """The number of the first ones that the task has to wait for, if it is the first to."""
        count = needed(self._buckets, task.layer.index)
        if count <= self._known:
            return []
        self._known = count
        return [count]


def value_bytes(buckets: Sequence[Bucket], itemsize: int) -> list[int]:
    """Of each bucket whose new values travel beside forward, in their order."""
    return [itemsize * elements(bucket) for bucket in reversed(buckets[early_count(buckets) :])]


def elements(bucket: Bucket) -> int:
    start, stop = bucket.span
    return stop - start
