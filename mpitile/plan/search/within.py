"""The groupings that fit into a device's memory, the fastest first."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple

from mpitile.plan.search.borders import Grouping, Ways
from mpitile.plan.search.choices import TILED, Choices, Forms, Group
from mpitile.plan.search.group_bytes import GroupBytes, GroupMemory


def groupings_within(
    choices: Choices, memory: GroupBytes, ways: Ways, room: float, limit: float = inf
) -> Iterator[Grouping]:
    """The groupings that no other beats in seconds and bytes, in order of their seconds.

    Of those that take as long, such as where time does not matter, the leanest comes first.
    A best-first search, whose estimates are the fewest seconds that the layers behind a border
    take: it looks at hardly more than what is faster than what has been asked for.

    Parameters
    ----------
    ways : which of storing and recomputing each group may be considered for.
    room : bytes that groups may take on the device.
    limit : seconds from which on nothing is wanted.
    """
    return map(_grouping, _Search(choices, memory, ways, room).found(limit))


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
    border : where the next group starts.
    before : the way to the last group; None before the first layer.
    step : the last group.
    """

    seconds: float
    stored: int
    most: int
    always: int
    keeps: int
    staging: int
    border: _Border
    before: _Label | None
    step: _Step | None

    @property
    def sizes(self) -> tuple[int, int]:
        """At most, and between forward and backward; neither is less with groups behind it."""
        return self.most + self.always + self.staging, self.stored + self.always

    def steps(self) -> Iterator[_Step]:
        """Those of all groups, the last one first."""
        label: _Label | None = self
        while label is not None and label.step is not None:
            yield label.step
            label = label.before


@dataclass(slots=True)
class _Step:
    """A group behind a border.

    Attributes
    ----------
    least : seconds of the group, and the fewest of what is behind it.
    end : the border behind it.
    room : bytes on the device that are not of layers behind it.
    own : its bytes, once they have been asked for.
    """

    least: float
    seconds: float
    group: Group
    recompute: bool
    end: _Border
    room: float
    own: GroupMemory | None = None


@dataclass(slots=True, eq=False)
class _Border:
    """A layer that a group starts at, and the forms of what crosses its start.

    Attributes
    ----------
    steps : the groups that may follow, by what they take at least; None before they are wanted.
    sizes : of the ways to here, those that no other's beat in all: now, at most, and staging.
    """

    layer: int
    forms: Forms
    steps: list[_Step] | None = None
    sizes: list[tuple[int, int, int]] = field(default_factory=list)


class _Search:
    """Ways to borders, of which what takes the least time at least is followed first."""

    def __init__(self, choices: Choices, memory: GroupBytes, ways: Ways, room: float) -> None:
        self._choices, self._memory, self._ways, self._room = choices, memory, ways, room
        self._behind = memory.least_behind
        self._borders: dict[tuple[int, Forms], _Border] = {}

    def found(self, limit: float) -> Iterator[_Label]:
        """The ways to the network's end."""
        order, last = count(), self._choices.layers
        start = _Label(0.0, 0, 0, 0, 0, 0, self._border(0, TILED), None, None)
        # Seconds and bytes at least, the way, and the number of the step that is to be added.
        open_ways = [(0.0, start.sizes, next(order), start, 0)]
        while open_ways:
            least, _, _, label, number = heappop(open_ways)
            if least >= limit:
                return
            if label.border.layer == last:
                yield label
                continue
            steps = self._steps(label.border)
            if number == len(steps):
                continue
            step = steps[number]
            # Found first, as it may put another behind it.
            longer = self._longer(label, step)
            if number + 1 < len(steps):
                after = label.seconds + steps[number + 1].least
                heappush(open_ways, (after, label.sizes, next(order), label, number + 1))
            if longer:
                least = label.seconds + step.least
                heappush(open_ways, (least, longer.sizes, next(order), longer, 0))

    def _border(self, layer: int, forms: Forms) -> _Border:
        key = layer, forms
        if key not in self._borders:
            self._borders[key] = _Border(*key)
        return self._borders[key]

    def _steps(self, border: _Border) -> list[_Step]:
        if border.steps is None:
            found = [self._step(border, group) for group in self._choices.by_start[border.layer]]
            border.steps = sorted((step for step in found if step.least < inf), key=_least)
        return border.steps

    def _step(self, border: _Border, group: Group) -> _Step:
        """A group that stores, unless it must recompute."""
        times = self._choices.seconds(group, border.forms)
        recompute = False not in self._ways(group)
        seconds = times.recomputed(self._memory.again(group)) if recompute else times.stored
        after = self._choices.after(group, border.forms)
        rest = self._choices.left[group.stop].get(after, inf)
        end, room = self._border(group.stop, after), self._room - self._behind[group.stop]
        return _Step(seconds + rest, seconds, group, recompute, end, room)

    def _longer(self, label: _Label, step: _Step) -> _Label | None:
        """The way with a step behind it, unless it is too large or another one beats it."""
        own = step.own or self._own(label.border, step)
        seconds, stored, most, always, keeps, staging = label[:6]
        stored += keeps * own.handed
        if stored + own.most > most:
            most = stored + own.most
        always += own.always
        if own.staging > staging:
            staging = own.staging
        if most + always + staging > step.room:
            return None
        stored += own.stored
        if _beaten(step.end, (stored + always, most + always, staging)):
            return None
        seconds += step.seconds
        return _Label(seconds, stored, most, always, own.keeps, staging, step.end, label, step)

    def _own(self, border: _Border, step: _Step) -> GroupMemory:
        read = self._choices.read(step.group, border.forms)
        step.own = self._memory.group(step.group, read, step.recompute)
        self._add_recomputing(border, step)
        return step.own

    def _add_recomputing(self, border: _Border, step: _Step) -> None:
        """Put the same group, recomputing, among the steps behind the one that stores."""
        if step.recompute or True not in self._ways(step.group):
            return
        again = self._memory.again(step.group)
        # What computes nothing again is the same as storing.
        if again:
            times = self._choices.seconds(step.group, border.forms)
            seconds = times.recomputed(again)
            least = step.least + (seconds - step.seconds)
            other = _Step(least, seconds, step.group, True, step.end, step.room)
            insort(self._steps(border), other, key=_least)


def _least(step: _Step) -> float:
    return step.least


def _beaten(border: _Border, sizes: tuple[int, int, int]) -> bool:
    """Whether a way to here, all of which take less time, is in all not larger."""
    now, most, staging = sizes
    for a, b, c in border.sizes:
        if a > now:
            break
        if b <= most and c <= staging:
            return True
    border.sizes = [(a, b, c) for a, b, c in border.sizes if a < now or b < most or c < staging]
    insort(border.sizes, sizes)
    return False


def _grouping(label: _Label) -> Grouping:
    steps = list(label.steps())[::-1]
    return Grouping(
        label.seconds,
        tuple(step.group for step in steps),
        tuple(step.recompute for step in steps),
        label.sizes[0],
    )
