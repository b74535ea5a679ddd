"""What every rank does in a training step under a plan, with predicted seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from mpitile.plan.bytes import tile_elements
from mpitile.plan.collectives import MEETING_BYTES
from mpitile.plan.cost import Cost, Message
from mpitile.plan.group_moves import GroupMoves
from mpitile.plan.overlap import Completion, adding_seconds
from mpitile.plan.partition import Partition
from mpitile.plan.recording import (
    ADJOINT,
    FORWARD,
    GRADIENTS,
    BeginBucket,
    BeginExchange,
    BeginSum,
    Compute,
    EndBuckets,
    EndExchange,
    EndSum,
    Event,
    Parcels,
    Program,
)
from mpitile.plan.slices import own_elements
from mpitile.plan.sum_times import STATISTIC_BYTES, peer_adding, peer_messages
from mpitile.plan.tasks import Task, group_tasks

# Of what the ranks tell each other at the end of a step: the loss, and seven figures of it.
_METRIC_BYTES = (16, 56)

# By rank what it sends, and by rank what it receives.
Exchanged = tuple[dict[int, Parcels], dict[int, Parcels]]


@dataclass(frozen=True, slots=True)
class StepSize:
    """What a step consists of.

    Attributes
    ----------
    images : of a pass over all replicas.
    passes : of a step.
    optimizer : "sgd" or "adam".
    overlap : whether gradients are summed beside the last backward pass.
    """

    images: int
    passes: int = 1
    optimizer: str = "sgd"
    overlap: bool = True


def step_programs(partition: Partition, cost: Cost, size: StepSize) -> tuple[Program, ...]:
    """The programs of all ranks; `partition`'s plan may be for fewer than the cluster has.

    In the order of work of `mpitile.runtime.program` and `mpitile.train.trainer`.
    """
    step = _Step(partition, cost, size)
    return tuple(tuple(step.events(rank)) for rank in range(partition.plan.ranks))


class _Step:
    """The parts of a step that all ranks share."""

    def __init__(self, partition: Partition, cost: Cost, size: StepSize) -> None:
        self._partition, self._cost, self._size = partition, cost, size
        self._plan, self._network = partition.plan, partition.network
        self._images = size.images // self._plan.replicas
        self._tasks = group_tasks(self._network, self._plan)
        tiles = range(self._plan.grid.tiles)
        elements = [tile_elements(self._network, self._plan, tile) for tile in tiles]
        # Trained numbers that all ranks have alike, and those of each tile's slices.
        self._elements = elements[0][0][0]
        self._sliced = [sliced for _, (sliced, _) in elements]
        self._overlap = size.overlap and self._plan.ranks > 1
        self._own = own_elements(cost.cluster, self._plan.ranks, self._elements)
        self._moves = GroupMoves(partition, cost, self._images)

    @cached_property
    def _messages(self) -> list[Exchanged]:
        """For each group, by rank what it sends and what it receives, in bytes."""
        return [_by_rank(self._moves.messages(g)) for g in range(len(self._partition.ranges))]

    @cached_property
    def _peers(self) -> Exchanged:
        """The same of the sums of slices over replicas."""
        sizes = [self._cost.itemsize * elements for elements in self._sliced]
        return _by_rank(peer_messages(self._cost, self._plan, sizes))

    @cached_property
    def _mates(self) -> dict[int, Parcels]:
        """For each rank, what it tells the others of its device and team to meet."""
        return {
            rank: tuple((other, MEETING_BYTES) for other in ranks if other != rank)
            for ranks in self._moves.gathers.devices
            for rank in ranks
        }

    def events(self, rank: int) -> Iterator[Event]:
        """A whole step of a rank."""
        groups = range(len(self._partition.ranges))
        buckets = None
        for number in range(self._size.passes):
            if self._overlap and number == self._size.passes - 1:
                buckets = Completion(self._network, self._plan.filters, self._cost.itemsize)
            # Whether any rank could not read an image.
            yield from _sum(8 * self._size.images, "images")
            for group in groups:
                yield from self._begin(rank, group, FORWARD)
                yield from self._end(rank, group, FORWARD)
                yield from self._forward_group(rank, group)
            for group in reversed(groups):
                yield from self._backward_group(rank, group, buckets)
        yield from self._update(rank)

    def _forward_group(self, rank: int, group: int) -> Iterator[Event]:
        for task in self._tasks[group]:
            yield self._compute(rank, group, task, "forward")
            if task.normalized:
                for _ in range(2):
                    yield from self._statistics(rank, task, 1)

    def _backward_group(self, rank: int, group: int, buckets: Completion | None) -> Iterator[Event]:
        tasks = self._tasks[group]
        for task in reversed(tasks):
            for again in task.again:
                # Batch norm knows its sums.
                yield self._compute(rank, group, again, "forward")
            if task.normalized:
                yield from self._statistics(rank, task, 2)
            if 0 not in task.first.inputs:
                yield self._compute(rank, group, task, "backward_input")
            if task is tasks[0]:
                yield from self._begin(rank, group, ADJOINT)
            yield self._compute(rank, group, task, "backward_weights")
            if buckets:
                yield from (BeginBucket(size) for size in buckets.after(task))
        yield from self._end(rank, group, ADJOINT)

    def _begin(self, rank: int, group: int, direction: str) -> Iterator[Event]:
        """Pack what is sent, and send it."""
        sends, receives = self._parcels(rank, group, direction)
        parts = self._moves.parts(group)
        if parts is None:
            if sends or receives:
                yield self._copy(rank, "pack", group, sends)
                yield BeginExchange(group, direction, sends, receives)
            return
        yield Compute(self._moves.gathers.of(direction)(rank, parts)[0], "pack", group)
        if direction == ADJOINT:
            yield from self._meet(rank, group, direction)
        yield BeginExchange(group, direction, sends, receives)

    def _end(self, rank: int, group: int, direction: str) -> Iterator[Event]:
        """Wait for what is received, and unpack it."""
        sends, receives = self._parcels(rank, group, direction)
        parts = self._moves.parts(group)
        if parts is None:
            if sends or receives:
                yield EndExchange(group, direction)
                yield self._copy(rank, "unpack", group, receives)
            return
        yield EndExchange(group, direction)
        if direction == FORWARD:
            yield from self._meet(rank, group, direction)
        yield Compute(self._moves.gathers.of(direction)(rank, parts)[1], "unpack", group)

    def _meet(self, rank: int, group: int, direction: str) -> Iterator[Event]:
        """The ranks of a device wait until all of them have come here."""
        # Also where there is one: exchanges are told apart by how many there have been.
        mates = self._mates[rank]
        yield BeginExchange(group, direction, mates, mates)
        yield EndExchange(group, direction)

    def _update(self, rank: int) -> Iterator[Event]:
        device = self._cost.cluster.device_of(rank)
        if self._elements and not self._overlap:
            yield from _sum(self._elements * self._cost.itemsize, GRADIENTS)
        sizes = [self._cost.itemsize * elements for elements in self._sliced]
        sums = peer_adding(self._cost, self._plan, rank, sizes)
        yield from self._over_peers(rank, self._peers, sums)
        own = self._own[rank] + self._sliced[rank % len(sizes)] / self._plan.replicas
        seconds = self._cost.update(device, own, self._size.optimizer)
        seconds += self._cost.overhead(device)
        if self._overlap:
            seconds += adding_seconds(self._cost, rank, self._plan.ranks, self._elements)
        yield Compute(seconds, "update")
        if self._overlap:
            yield EndBuckets()
        for metric in _METRIC_BYTES:
            yield from _sum(metric, "metrics")

    def _over_peers(self, rank: int, exchanged: Exchanged, adding: float) -> Iterator[Event]:
        """A sum over the ranks of a tile in all replicas: parts to who adds them up, and back."""
        if not any(exchanged):
            return
        sends, receives = (side.get(rank, ()) for side in exchanged)
        number = len(self._partition.ranges)
        yield BeginExchange(number, ADJOINT, sends, receives)
        yield EndExchange(number, ADJOINT)
        yield Compute(adding, "sum")
        yield BeginExchange(number, FORWARD, receives, sends)
        yield EndExchange(number, FORWARD)

    def _compute(self, rank: int, group: int, task: Task, operation: str) -> Compute:
        layer, (first, _) = task.layer, self._partition.ranges[group]
        tile = rank % self._plan.grid.tiles
        box = self._partition.needs[tile][group].computed[layer.index - first]
        spans = self._partition.spans.get(layer.index)
        seconds = self._cost.compute(
            self._cost.cluster.device_of(rank),
            layer.index,
            operation,
            self._images,
            box.height,
            box.width,
            task.merged,
            spans[tile][1] - spans[tile][0] if spans else None,
        )
        return Compute(seconds, operation, layer.index)

    def _parcels(self, rank: int, group: int, direction: str) -> tuple[Parcels, Parcels]:
        sends, receives = (side.get(rank, ()) for side in self._messages[group])
        return (sends, receives) if direction == FORWARD else (receives, sends)

    def _copy(self, rank: int, operation: str, group: int, parcels: Parcels) -> Compute:
        size = sum(size for _, size in parcels)
        device = self._cost.cluster.device_of(rank)
        return Compute(self._cost.pack(device, size, len(parcels)), operation, group)

    def _statistics(self, rank: int, task: Task, vectors: int) -> Iterator[Event]:
        """Batch norm's sums, of a filter-parallel layer's channels over replicas alone."""
        size = vectors * STATISTIC_BYTES
        spans = self._partition.spans.get(task.first.index)
        if not spans:
            size *= task.layer.output_shape.channels
            yield from _sum(size, f"statistics of layer {task.layer.index}")
        elif self._plan.replicas > 1:
            sizes = [size * (stop - start) for start, stop in spans]
            exchanged = _by_rank(peer_messages(self._cost, self._plan, sizes))
            yield from self._over_peers(rank, exchanged, 0.0)


def _sum(size: int, purpose: str) -> Iterator[Event]:
    yield BeginSum(size, purpose)
    yield EndSum()


def _by_rank(messages: Iterable[Message]) -> Exchanged:
    sends: dict[int, list[tuple[int, int]]] = {}
    receives: dict[int, list[tuple[int, int]]] = {}
    for source, target, size in messages:
        sends.setdefault(source, []).append((target, size))
        receives.setdefault(target, []).append((source, size))
    return _frozen(sends), _frozen(receives)


def _frozen(parcels: dict[int, list[tuple[int, int]]]) -> dict[int, Parcels]:
    return {rank: tuple(own) for rank, own in parcels.items()}
