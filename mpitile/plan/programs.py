"""What every rank does in a training step under a plan, with predicted seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from mpitile.plan.bytes import parameter_elements
from mpitile.plan.cost import Cost
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
from mpitile.plan.tasks import Task, group_tasks
from mpitile.plan.traffic import group_traffic

# Batch norm adds up in double precision.
_STATISTIC_BYTES = 8
# Of what the ranks tell each other at the end of a step: the loss, and seven figures of it.
_METRIC_BYTES = (16, 56)


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
        self._elements = parameter_elements(self._network)[0]
        self._overlap = size.overlap and self._plan.ranks > 1
        self._own = own_elements(cost.cluster, self._plan.ranks, self._elements)

    @cached_property
    def _messages(self) -> list[tuple[dict[int, Parcels], dict[int, Parcels]]]:
        """For each group, by tile what it sends and what it receives, in bytes."""
        factor = self._images * self._cost.itemsize
        messages = []
        for group in range(len(self._partition.ranges)):
            sends: dict[int, list[tuple[int, int]]] = {}
            receives: dict[int, list[tuple[int, int]]] = {}
            for (source, target), elements in sorted(group_traffic(self._partition, group).items()):
                sends.setdefault(source, []).append((target, factor * elements))
                receives.setdefault(target, []).append((source, factor * elements))
            messages.append((_frozen(sends), _frozen(receives)))
        return messages

    def events(self, rank: int) -> Iterator[Event]:
        """A whole step of a rank."""
        device = self._cost.cluster.device_of(rank)
        replica, tile = divmod(rank, self._plan.grid.tiles)
        base = replica * self._plan.grid.tiles
        groups = range(len(self._partition.ranges))
        buckets = None
        for number in range(self._size.passes):
            if self._overlap and number == self._size.passes - 1:
                buckets = Completion(self._network, self._cost.itemsize)
            # Whether any rank could not read an image.
            yield from _sum(8 * self._size.images, "images")
            for group in groups:
                yield from self._forward_group(device, tile, base, group)
            for group in reversed(groups):
                yield from self._backward_group(device, tile, base, group, buckets)
        yield from self._update(device, rank)

    def _forward_group(self, device: int, tile: int, base: int, group: int) -> Iterator[Event]:
        sends, receives = self._parcels(tile, base, group)
        if sends or receives:
            yield self._copy(device, "pack", group, sends)
            yield BeginExchange(group, FORWARD, sends, receives)
            yield EndExchange(group, FORWARD)
            yield self._copy(device, "unpack", group, receives)
        for task in self._tasks[group]:
            yield self._compute(device, tile, group, task, "forward")
            if task.normalized:
                for _ in range(2):
                    yield from self._statistics(task, 1)

    def _backward_group(
        self, device: int, tile: int, base: int, group: int, buckets: Completion | None
    ) -> Iterator[Event]:
        sends, receives = self._parcels(tile, base, group)
        tasks = self._tasks[group]
        for task in reversed(tasks):
            for again in task.again:
                # Batch norm knows its sums.
                yield self._compute(device, tile, group, again, "forward")
            if task.normalized:
                yield from self._statistics(task, 2)
            if 0 not in task.first.inputs:
                yield self._compute(device, tile, group, task, "backward_input")
            if task is tasks[0] and (sends or receives):
                yield self._copy(device, "pack", group, receives)
                yield BeginExchange(group, ADJOINT, receives, sends)
            yield self._compute(device, tile, group, task, "backward_weights")
            if buckets:
                yield from (BeginBucket(size) for size in buckets.after(task))
        if sends or receives:
            yield EndExchange(group, ADJOINT)
            yield self._copy(device, "unpack", group, sends)

    def _update(self, device: int, rank: int) -> Iterator[Event]:
        size = self._elements * self._cost.itemsize
        seconds = self._cost.update(device, self._own[rank], self._size.optimizer)
        seconds += self._cost.overhead(device)
        if self._overlap:
            seconds += adding_seconds(self._cost, rank, self._plan.ranks, self._elements)
            yield Compute(seconds, "update")
            yield EndBuckets()
        else:
            yield from _sum(size, GRADIENTS)
            yield Compute(seconds, "update")
        for metric in _METRIC_BYTES:
            yield from _sum(metric, "metrics")

    def _compute(self, device: int, tile: int, group: int, task: Task, operation: str) -> Compute:
        layer, (first, _) = task.layer, self._partition.ranges[group]
        box = self._partition.needs[tile][group].computed[layer.index - first]
        seconds = self._cost.compute(
            device,
            layer.index,
            operation,
            self._images,
            box.height,
            box.width,
            merged=task.merged,
        )
        return Compute(seconds, operation, layer.index)

    def _parcels(self, tile: int, base: int, group: int) -> tuple[Parcels, Parcels]:
        sends, receives = (side.get(tile, ()) for side in self._messages[group])
        if base:
            sends = tuple((base + peer, size) for peer, size in sends)
            receives = tuple((base + peer, size) for peer, size in receives)
        return sends, receives

    def _copy(self, device: int, operation: str, group: int, parcels: Parcels) -> Compute:
        size = sum(size for _, size in parcels)
        return Compute(self._cost.pack(device, size, len(parcels)), operation, group)

    def _statistics(self, task: Task, vectors: int) -> Iterator[Event]:
        size = vectors * task.layer.output_shape.channels * _STATISTIC_BYTES
        yield from _sum(size, f"statistics of layer {task.layer.index}")


def _sum(size: int, purpose: str) -> Iterator[Event]:
    yield BeginSum(size, purpose)
    yield EndSum()


def _frozen(parcels: dict[int, list[tuple[int, int]]]) -> dict[int, Parcels]:
    return {tile: tuple(own) for tile, own in parcels.items()}
