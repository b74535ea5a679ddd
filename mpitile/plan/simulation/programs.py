"""What every rank does in a training step under a plan, with predicted seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mpitile.network.parameters import divided_specs
from mpitile.plan.clusters.devices import first_devices
from mpitile.plan.costs.cost import Cost, Message
from mpitile.plan.costs.group_moves import GroupMoves
from mpitile.plan.costs.overlap import adding_seconds
from mpitile.plan.costs.sum_times import STATISTIC_BYTES, PeerSums
from mpitile.plan.filters import tile_spans
from mpitile.plan.memory.state_bytes import tile_elements
from mpitile.plan.partition import Partition
from mpitile.plan.recording import (
    ADJOINT,
    EVERYONE,
    FORWARD,
    GRADIENTS,
    METRICS,
    UPDATE,
    BeginBucket,
    BeginExchange,
    BeginGather,
    BeginSum,
    BeginValues,
    Compute,
    EndBuckets,
    EndExchange,
    EndSum,
    EndValues,
    Event,
    Members,
    Parcels,
    Program,
)
from mpitile.plan.sums.buckets import Bucket, layer_buckets
from mpitile.plan.sums.completion import Awaiting, Completion, goes_beside, value_bytes
from mpitile.plan.sums.slices import own_elements
from mpitile.plan.tasks import Task, group_tasks

# Of what the ranks tell each other at the end of a step: the loss and what each device has sent,
# and seven figures of all.
_FIGURE_BYTES, _FIGURES = 8, 7

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
    overlap : whether gradients are summed beside the last backward pass, on several devices.
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
        elements = tile_elements(self._network, self._plan)
        # Trained numbers that all ranks have alike, and those of each tile's slices.
        self._elements = elements[0][0][0]
        self._sliced = [sliced for _, (sliced, _) in elements]
        self._devices = len(first_devices(cost.cluster, self._plan.ranks))
        self._overlap = size.overlap and goes_beside(self._devices)
        self._own = own_elements(cost.cluster, self._plan.ranks, self._elements)
        self._moves = GroupMoves(partition, cost, self._images)

    @cached_property
    def _messages(self) -> list[Exchanged]:
        """For each group, by rank what it sends and what it receives, in bytes.

        Those of gathers follow from their parts.
        """
        groups = range(len(self._partition.ranges))
        return [
            _by_rank(self._moves.messages(group) if self._moves.parts(group) is None else ())
            for group in groups
        ]

    @cached_property
    def _buckets(self) -> list[Sequence[Bucket]]:
        """What all ranks have alike, then each tile's slices, as backward completes it."""
        specs = [
            divided_specs(self._network, tile_spans(self._network, self._plan, tile))
            for tile in range(self._plan.grid.tiles)
        ]
        own = [specs[0][0], *(sliced for _, sliced in specs)]
        return [layer_buckets(each, self._cost.itemsize) for each in own]

    @cached_property
    def _adding(self) -> tuple[list[float], list[float]]:
        """Seconds in which each rank adds up gradients: those that all have, and slices."""
        sizes = [self._cost.itemsize * elements for elements in self._sliced]
        everything = adding_seconds(self._cost, self._plan.ranks, self._elements)
        return everything, PeerSums(self._cost, self._plan).adding(sizes)

    def _peers(self, rank: int) -> Members:
        """The ranks of this one's tile in all replicas."""
        tiles = self._plan.grid.tiles
        return EVERYONE if tiles == 1 else tuple(range(rank % tiles, self._plan.ranks, tiles))

    def _arrays(self, rank: int) -> list[tuple[Sequence[Bucket], Members]]:
        """The buckets of what this rank adds up with others, and who these are."""
        whole, *slices = self._buckets
        found = [(whole, EVERYONE)]
        if self._plan.replicas > 1:
            found.append((slices[rank % len(slices)], self._peers(rank)))
        return found if self._overlap else []

    def events(self, rank: int) -> Iterator[Event]:
        """A whole step of a rank."""
        groups = range(len(self._partition.ranges))
        arrays, itemsize = self._arrays(rank), self._cost.itemsize
        values = [(Awaiting(buckets), ranks) for buckets, ranks in arrays]
        completions: list[tuple[Completion, Members]] = []
        for number in range(self._size.passes):
            if number == self._size.passes - 1:
                completions = [(Completion(own, itemsize), ranks) for own, ranks in arrays]
            # Whether any rank could not read an image.
            yield from _sums([(8 * self._size.images, EVERYONE)], "images")
            if number == 0:
                for buckets, ranks in arrays:
                    yield from (BeginValues(size, ranks) for size in value_bytes(buckets, itemsize))
            for group in groups:
                yield from self._begin(rank, group, FORWARD)
                yield from self._end(rank, group, FORWARD)
                yield from self._forward_group(rank, group, values)
            for group in reversed(groups):
                yield from self._backward_group(rank, group, completions)
        yield from self._update(rank)

    def _forward_group(
        self, rank: int, group: int, values: Sequence[tuple[Awaiting, Members]]
    ) -> Iterator[Event]:
        for task in self._tasks[group]:
            for awaiting, ranks in values:
                yield from (EndValues(count, ranks) for count in awaiting.before(task))
            yield self._compute(rank, group, task, "forward")
            if task.normalized:
                for _ in range(2):
                    yield from self._statistics(rank, task, 1)

    def _backward_group(
        self, rank: int, group: int, completions: Sequence[tuple[Completion, Members]]
    ) -> Iterator[Event]:
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
            for completion, ranks in completions:
                complete = completion.after(task)
                yield from (BeginBucket(size, ranks, early) for size, early in complete)
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
        yield Compute(self._moves.copying(group, direction)[rank][0], "pack", group)
        yield BeginGather(group, direction, rank - rank % len(parts), parts)

    def _end(self, rank: int, group: int, direction: str) -> Iterator[Event]:
        """Wait for what is received, and unpack it."""
        sends, receives = self._parcels(rank, group, direction)
        if self._moves.parts(group) is None:
            if sends or receives:
                yield EndExchange(group, direction)
                yield self._copy(rank, "unpack", group, receives)
            return
        yield EndExchange(group, direction)
        yield Compute(self._moves.copying(group, direction)[rank][1], "unpack", group)

    def _update(self, rank: int) -> Iterator[Event]:
        device = self._cost.cluster.device_of(rank)
        sliced = self._sliced[rank % len(self._sliced)]
        if not self._overlap:
            yield from _sums(self._gradients(rank), GRADIENTS)
        own = self._own[rank] + sliced / self._plan.replicas
        seconds = self._cost.update(device, own, self._size.optimizer)
        seconds += self._cost.overhead(device)
        if self._overlap:
            for adding in self._adding:
                seconds += adding[rank]
        yield Compute(seconds, UPDATE)
        if self._overlap:
            yield EndBuckets()
        for figures in (1 + self._devices, _FIGURES):
            yield from _sums([(_FIGURE_BYTES * figures, EVERYONE)], METRICS)

    def _gradients(self, rank: int) -> Iterator[tuple[int, Members]]:
        """The bytes of all gradients that the rank adds up with others."""
        if self._elements:
            yield self._cost.itemsize * self._elements, EVERYONE
        sliced = self._sliced[rank % len(self._sliced)]
        if sliced and self._plan.replicas > 1:
            yield self._cost.itemsize * sliced, self._peers(rank)

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
        size, ranks = vectors * STATISTIC_BYTES, EVERYONE
        spans = self._partition.spans.get(task.first.index)
        if spans:
            start, stop = spans[rank % len(spans)]
            size, ranks = size * (stop - start), self._peers(rank)
        else:
            size *= task.layer.output_shape.channels
        if not spans or self._plan.replicas > 1:
            yield from _sums([(size, ranks)], f"statistics of layer {task.layer.index}")


def _sums(sizes: Iterable[tuple[int, Members]], purpose: str) -> Iterator[Event]:
    """Sums of so many bytes that are taken at the same time."""
    begun = [BeginSum(size, purpose, ranks) for size, ranks in sizes]
    yield from begun
    yield from (EndSum() for _ in begun)


def _by_rank(messages: Iterable[Message]) -> Exchanged:
    sends: dict[int, list[tuple[int, int]]] = {}
    receives: dict[int, list[tuple[int, int]]] = {}
    for source, target, size in messages:
        sends.setdefault(source, []).append((target, size))
        receives.setdefault(target, []).append((source, size))
    return _frozen(sends), _frozen(receives)


def _frozen(parcels: dict[int, list[tuple[int, int]]]) -> dict[int, Parcels]:
    return {rank: tuple(own) for rank, own in parcels.items()}
