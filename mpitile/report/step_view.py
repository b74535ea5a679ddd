"""What pictures of a step show, as plain data: what each rank does when, and what groups cost."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpitile.plan.partition import Partition
from mpitile.plan.simulation.intervals import COMPUTE, FLIGHT, HALO, REDUCE, Interval, Timeline
from mpitile.plan.tasks import Task, group_tasks
from mpitile.report.tile_maps import layer_name

# What a rank may be doing. Waiting for a message or a sum counts to it.
FORWARD, BACKWARD, OTHER = "forward", "backward", "other work"
IMAGES, HALOS, SUMS = "images", "halos", "sums"
DOINGS = (FORWARD, BACKWARD, OTHER, IMAGES, HALOS, SUMS)

# Simulated intervals are named "3 forward", recorded ones "forward 3".
_NUMBERED = re.compile(r"(\d+) (\w+)|(\w+) (\d+)")


@dataclass(frozen=True)
class StepView:
    """A step of some ranks.

    Attributes
    ----------
    seconds : from its start to its end on the last rank.
    devices : of every rank, the name of its device; ranks of a device follow one another.
    bars : by rank, what it does: starts, ends and one of `DOINGS`, in order.
    """

    seconds: float
    devices: tuple[str, ...]
    bars: tuple[tuple[tuple[float, float, str], ...], ...]

    def spent(self, doing: str) -> float:
        """Seconds of the mean rank."""
        found = sum(b - a for rank in self.bars for a, b, what in rank if what == doing)
        return found / len(self.bars)


@dataclass(frozen=True)
class TaskCost:
    """Layers that are computed together, and their seconds on the mean rank in a step.

    `overlap` is the part of all of them that goes into cells that other ranks own.
    """

    first: int
    last: int
    label: str
    forward: float
    again: float
    backward: float
    overlap: float

    @property
    def seconds(self) -> float:
        return self.forward + self.again + self.backward


@dataclass(frozen=True)
class GroupCost:
    """A fused group; seconds of the mean rank in a step, waiting for others included."""

    first: int
    stop: int
    recompute: bool
    filters: bool
    tasks: tuple[TaskCost, ...]
    halos: float
    sums: float

    @property
    def computing(self) -> float:
        return sum(task.seconds for task in self.tasks)

    @property
    def overlap(self) -> float:
        return sum(task.overlap for task in self.tasks)

    @property
    def seconds(self) -> float:
        return self.computing + self.halos + self.sums


@dataclass(frozen=True)
class GroupView:
    """All groups, and what belongs to none: updating weights, summing gradients, an early end.

    The seconds of groups and these add up to the step's.
    """

    seconds: float
    groups: tuple[GroupCost, ...]
    other: float
    sums: float
    idle: float


def step_view(
    intervals: Iterable[Interval], devices: Sequence[str], seconds: float | None = None
) -> StepView:
    """The bars of each rank, in which neighbours that do the same are one.

    Parameters
    ----------
    devices : by rank.
    seconds : of the step; the last end if left out.
    """
    by_rank: dict[int, list[Interval]] = defaultdict(list)
    for interval in _own(intervals):
        by_rank[interval.rank].append(interval)
    ends = (one.end for own in by_rank.values() for one in own)
    span = max(ends, default=0.0) if seconds is None else seconds
    bars = tuple(_joined(by_rank[rank], span / 4000) for rank in range(len(devices)))
    return StepView(span, tuple(devices), bars)


def doing(interval: Interval) -> str:
    """Which of `DOINGS` an interval is."""
    if IMAGES in interval.name:
        return IMAGES
    if interval.kind == HALO:
        return HALOS
    if interval.kind == REDUCE:
        return SUMS
    name = interval.name
    return next((what for what in (FORWARD, BACKWARD) if what in name), OTHER)


def group_view(partition: Partition, timeline: Timeline) -> GroupView:
    """What each group costs in a simulated step whose intervals were kept."""
    ranks = len(timeline.ranks)
    intervals = _own(timeline.intervals)
    spent, halos, sums = _by_place(partition, intervals)
    tasks = group_tasks(partition.network, partition.plan)
    flags = partition.plan.recompute or (False,) * len(tasks)
    groups = []
    for number, ((first, stop), own) in enumerate(zip(partition.ranges, tasks, strict=True)):
        again = {task.layer.index for later in own for task in later.again}
        groups.append(
            GroupCost(
                first,
                stop,
                flags[number],
                first in partition.plan.filters,
                tuple(_task_cost(partition, number, task, spent, again, ranks) for task in own),
                halos[number] / ranks,
                sums[number] / ranks,
            )
        )
    busy = sum(end - start for _, start, end, _, _ in intervals)
    return GroupView(
        timeline.seconds,
        tuple(groups),
        sum(value for (_, layer, _), value in spent.items() if layer is None) / ranks,
        sums[None] / ranks,
        timeline.seconds - busy / ranks,
    )


def _own(intervals: Iterable[Interval]) -> list[Interval]:
    """What ranks do, without the buckets that are under way beside it."""
    return [interval for interval in intervals if interval.kind != FLIGHT]


def _by_place(
    partition: Partition, intervals: Iterable[Interval]
) -> tuple[Counter[tuple], Counter[int | None], Counter[int | None]]:
    """Seconds by rank, layer and operation; of halos and sums by group."""
    spent: Counter[tuple] = Counter()
    halos: Counter[int | None] = Counter()
    sums: Counter[int | None] = Counter()
    group_of = {
        layer: group
        for group, (first, stop) in enumerate(partition.ranges)
        for layer in range(first, stop)
    }
    for rank, start, end, kind, name in intervals:
        operation, number = _numbered(name)
        if kind == COMPUTE:
            spent[rank, number, operation] += end - start
        elif kind == HALO:
            halos[number] += end - start
        else:
            sums[None if number is None else group_of[number]] += end - start
    return spent, halos, sums


def _numbered(name: str) -> tuple[str, int | None]:
    """An interval's operation, and the number of its layer or group."""
    found = _NUMBERED.search(name)
    if not found:
        return name, None
    return found[2] or found[3], int(found[1] or found[4])


def _task_cost(
    partition: Partition,
    group: int,
    task: Task,
    spent: Mapping[tuple, float],
    again: set[int],
    ranks: int,
) -> TaskCost:
    layer, tiles = task.layer.index, partition.plan.grid.tiles
    first = partition.ranges[group][0]
    forward = backward = overlap = 0.0
    for rank in range(ranks):
        ahead = spent.get((rank, layer, FORWARD), 0.0)
        behind = sum(
            spent.get((rank, layer, name), 0.0) for name in ("backward_input", "backward_weights")
        )
        forward += ahead
        backward += behind
        if layer not in partition.plan.filters:
            tile = rank % tiles
            computed = partition.needs[tile][group].computed[layer - first].cells
            owned = partition.tiling.owned(layer + 1, tile).cells
            overlap += (ahead + behind) * (1 - owned / computed) if computed else 0.0
    repeated = forward / 2 if layer in again else 0.0
    label = layer_name(task.first) + (f" + {layer_name(task.layer)}" if task.merged else "")
    return TaskCost(
        task.first.index,
        layer,
        label,
        (forward - repeated) / ranks,
        repeated / ranks,
        backward / ranks,
        overlap / ranks,
    )


def _joined(intervals: Sequence[Interval], gap: float) -> tuple[tuple[float, float, str], ...]:
    """Bars of one rank; gaps that could not be seen are closed."""
    bars: list[tuple[float, float, str]] = []
    for interval in sorted(intervals, key=lambda one: (one.start, one.end)):
        what = doing(interval)
        if bars and bars[-1][2] == what and interval.start - bars[-1][1] <= gap:
            bars[-1] = (bars[-1][0], max(bars[-1][1], interval.end), what)
        else:
            bars.append((interval.start, interval.end, what))
    return tuple(bars)
