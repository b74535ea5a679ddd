"""Dynamic programming over the borders of fused groups, with and without a memory cap."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from math import inf
from typing import NamedTuple

from mpitile.plan.search.choices import TILED, Choices, Forms, Group
from mpitile.plan.search.group_bytes import GroupBytes

_ROUNDING = 1e-9

# Whether a group may store its inner activations, and whether it may compute them again.
Ways = Callable[[Group], tuple[bool, ...]]


class Grouping(NamedTuple):
    """A way to cut the layers into groups.

    Attributes
    ----------
    seconds : of a pass.
    groups : in the order of forward.
    recompute : a flag for each group.
    size : bytes on the device that was looked at; 0 where none was.
    """

    seconds: float
    groups: tuple[Group, ...]
    recompute: tuple[bool, ...]
    size: int = 0

    @property
    def starts(self) -> tuple[int, ...]:
        """The first layer of each group."""
        return tuple(group.first for group in self.groups)

    @property
    def filters(self) -> tuple[int, ...]:
        """The filter-parallel layers."""
        return tuple(layer for group in self.groups if group.filters for layer in range(*group[:2]))


def fastest(choices: Choices) -> Grouping:
    """The grouping of the fewest seconds; tiles win a tie, and the longer first group."""
    left = choices.left
    groups: list[Group] = []
    first, forms = 0, TILED
    while first < choices.layers:
        # What differs by rounding alone is a tie.
        least = left[first][forms] * (1 + _ROUNDING)
        group = max(
            (
                group
                for group in choices.by_start[first]
                if choices.seconds(group, forms).stored
                + left[group.stop].get(choices.after(group, forms), inf)
                <= least
            ),
            key=lambda group: (not group.filters, group.stop),
        )
        groups.append(group)
        first, forms = group.stop, choices.after(group, forms)
    return Grouping(left[0][TILED], tuple(groups), (False,) * len(groups))


class _Label(NamedTuple):
    """A way to cut the first layers into groups.

    Attributes
    ----------
    seconds : of these groups.
    stored : bytes between forward and backward, but for the last output.
    most : the largest bytes in use while one of them computes.
    always : bytes in buffers that outlive passes, and of what is trained.
    keeps : bytes per cell that are kept with the last output.
    staging : the largest of any group.
    before : the way to the last group; None before the first layer.
    group, recompute : the last group.
    """

    seconds: float
    stored: int
    most: int
    always: int
    keeps: int
    staging: int
    before: _Label | None
    group: Group
    recompute: bool

    @property
    def size(self) -> int:
        return self.most + self.always + self.staging

    def labels(self) -> Iterator[_Label]:
        """The labels of all groups, the last one first."""
        label: _Label | None = self
        while label is not None and label.before is not None:
            yield label
            label = label.before


def cheapest_within(
    choices: Choices, memory: GroupBytes, ways: Ways, room: float, limit: float = inf
) -> list[Grouping]:
    """The groupings that no other beats in seconds and bytes, in order of their seconds.

    Parameters
    ----------
    ways : which of storing and recomputing each group may be considered for.
    room : bytes that groups may take on the device.
    limit : seconds from which on nothing is wanted.
    """
    search = _Search(choices, memory, ways, room, limit)
    fronts = search.fronts
    fronts[0][TILED] = [_Label(0.0, 0, 0, 0, 0, 0, None, Group(0, 0), False)]
    for first in range(choices.layers):
        for forms, labels in fronts[first].items():
            front = _undominated(labels)
            for group in choices.by_start[first] if front else ():
                search.extend(front, group, forms)
        # Nothing leads back here.
        fronts[first].clear()
    return [_grouping(label) for label in _undominated(fronts[-1].get(TILED, []))]


class _Search:
    """Ways to each layer, by the forms of what crosses its start."""

    def __init__(
        self, choices: Choices, memory: GroupBytes, ways: Ways, room: float, limit: float
    ) -> None:
        self._choices, self._memory, self._ways = choices, memory, ways
        self._room, self._limit = room, limit
        self._left = choices.left
        self.fronts: list[dict[Forms, list[_Label]]] = [{} for _ in range(choices.layers + 1)]

    def extend(self, front: list[_Label], group: Group, forms: Forms) -> None:
        """Add the group, storing or recomputing, behind each of these ways."""
        choices, memory, limit = self._choices, self._memory, self._limit
        after = choices.after(group, forms)
        rest = self._left[group.stop].get(after, inf)
        room = self._room - memory.least_behind[group.stop]
        times = choices.seconds(group, forms)
        if front[0].seconds + times.stored + rest >= limit:
            return
        possible = self._ways(group)
        for recompute in possible:
            again = memory.again(group) if recompute else ()
            if recompute and not again and False in possible:
                # The same as storing.
                continue
            seconds = times.recomputed(again)
            if front[0].seconds + seconds + rest >= limit:
                continue
            own = memory.group(group, choices.read(group, forms), recompute)
            for label in front:
                total = label.seconds + seconds
                if total + rest >= limit:
                    break
                stored = label.stored + label.keeps * own.handed
                most = max(label.most, stored + own.most)
                always = label.always + own.always
                staging = max(label.staging, own.staging)
                if most + always + staging > room:
                    continue
                self.fronts[group.stop].setdefault(after, []).append(
                    _Label(
                        total,
                        stored + own.stored,
                        most,
                        always,
                        own.keeps,
                        staging,
                        label,
                        group,
                        recompute,
                    )
                )


def _undominated(labels: list[_Label]) -> list[_Label]:
    """In order of seconds, without those that an earlier one beats in all sizes."""
    kept: list[_Label] = []
    # Of the labels kept, those whose sizes none beats in all: now, at most, and staging.
    sizes: list[tuple[int, int, int]] = []
    for label in sorted(labels, key=lambda one: (one.seconds, one.size, one.stored)):
        now, most, staging = label.stored + label.always, label.most + label.always, label.staging
        if any(a <= now and b <= most and c <= staging for a, b, c in sizes):
            continue
        kept.append(label)
        sizes = [(a, b, c) for a, b, c in sizes if a < now or b < most or c < staging]
        insort(sizes, (now, most, staging))
    return kept


def _grouping(label: _Label) -> Grouping:
    labels = list(label.labels())[::-1]
    return Grouping(
        label.seconds,
        tuple(one.group for one in labels),
        tuple(one.recompute for one in labels),
        label.size,
    )
