"""Dynamic programming over the borders of fused groups, with and without a memory cap."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from mpitile.plan.group_bytes import GroupBytes
from mpitile.plan.group_times import GroupSeconds

_ROUNDING = 1e-9

# First layer and stop.
Range = tuple[int, int]
Groups = Mapping[Range, GroupSeconds]
# Whether a group may store its inner activations, and whether it may compute them again.
Ways = Callable[[Range], tuple[bool, ...]]


class Grouping(NamedTuple):
    """A way to cut the layers into groups.

    Attributes
    ----------
    seconds : of a pass.
    starts : the first layer of each group.
    recompute : a flag for each group.
    size : bytes on the device that was looked at; 0 where none was.
    """

    seconds: float
    starts: tuple[int, ...]
    recompute: tuple[bool, ...]
    size: int = 0


def seconds_to_end(groups: Groups, layers: int) -> list[float]:
    """For each layer the fewest seconds from a group that starts there to the network's end."""
    left = [inf] * layers + [0.0]
    by_start = defaultdict(list)
    for (first, stop), seconds in groups.items():
        by_start[first].append((stop, seconds.stored))
    for first in reversed(range(layers)):
        left[first] = min((s + left[stop] for stop, s in by_start[first]), default=inf)
    return left


def fastest(groups: Groups, layers: int) -> Grouping:
    """The grouping of the fewest seconds; the longer first group wins a tie."""
    left = seconds_to_end(groups, layers)
    starts, first = [], 0
    while first < layers:
        starts.append(first)
        # What differs by rounding alone is a tie.
        least = left[first] * (1 + _ROUNDING)
        first = max(
            stop
            for (start, stop), seconds in groups.items()
            if start == first and seconds.stored + left[stop] <= least
        )
    return Grouping(left[0], tuple(starts), (False,) * len(starts))


@dataclass(frozen=True, slots=True)
class _Label:
    """A way to cut the first layers into groups.

    Attributes
    ----------
    seconds : of these groups.
    stored : bytes between forward and backward, but for the last output.
    most : the largest bytes in use while one of them computes.
    always : bytes in buffers that outlive passes.
    keeps : bytes per cell that are kept with the last output.
    before : the way to the last group; None before the first layer.
    first, recompute : of the last group.
    """

    seconds: float
    stored: int
    most: int
    always: int
    keeps: int
    before: _Label | None
    first: int
    recompute: bool

    @property
    def size(self) -> int:
        return self.most + self.always

    def groups(self) -> Iterator[_Label]:
        """The labels of all groups, the last one first."""
        label: _Label | None = self
        while label is not None and label.before is not None:
            yield label
            label = label.before


def cheapest_within(
    groups: Groups, memory: GroupBytes, ways: Ways, layers: int, room: float, limit: float = inf
) -> list[Grouping]:
    """The groupings that no other beats in seconds and bytes, in order of their seconds.

    Parameters
    ----------
    ways : which of storing and recomputing each group may be considered for.
    room : bytes that groups may take on the device.
    limit : seconds from which on nothing is wanted.
    """
    left = seconds_to_end(groups, layers)
    stops = defaultdict(list)
    for first, stop in groups:
        stops[first].append(stop)
    fronts: list[list[_Label]] = [[] for _ in range(layers + 1)]
    fronts[0] = [_Label(0.0, 0, 0, 0, 0, None, 0, False)]
    for first in range(layers):
        front = fronts[first] = _undominated(fronts[first])
        for stop in stops[first] if front else ():
            if front[0].seconds + groups[first, stop].stored + left[stop] >= limit:
                continue
            possible = ways((first, stop))
            for recompute in possible:
                again = memory.again(first, stop) if recompute else ()
                if recompute and not again and False in possible:
                    # The same as storing.
                    continue
                seconds = groups[first, stop].recomputed(again)
                if front[0].seconds + seconds + left[stop] >= limit:
                    continue
                own = memory.group(first, stop, recompute)
                for label in front:
                    total = label.seconds + seconds
                    if total + left[stop] >= limit:
                        break
                    stored = label.stored + label.keeps * own.handed
                    most = max(label.most, stored + own.most)
                    always = label.always + own.always
                    if most + always > room:
                        continue
                    fronts[stop].append(
                        _Label(
                            total,
                            stored + own.stored,
                            most,
                            always,
                            own.keeps,
                            label,
                            first,
                            recompute,
                        )
                    )
    return [_grouping(label) for label in _undominated(fronts[layers])]


def _undominated(labels: list[_Label]) -> list[_Label]:
    """In order of seconds, without those that an earlier one beats in both sizes."""
    kept: list[_Label] = []
    # Of the labels kept, those whose sizes none beats in both: by size now, then by the most.
    sizes: list[tuple[int, int]] = []
    for label in sorted(labels, key=lambda one: (one.seconds, one.size, one.stored)):
        now, most = label.stored + label.always, label.size
        if any(a <= now and b <= most for a, b in sizes):
            continue
        kept.append(label)
        sizes = [(a, b) for a, b in sizes if a < now or b < most]
        insort(sizes, (now, most))
    return kept


def _grouping(label: _Label) -> Grouping:
    groups = list(label.groups())[::-1]
    return Grouping(
        label.seconds,
        tuple(group.first for group in groups),
        tuple(group.recompute for group in groups),
        label.size,
    )
