"""Predicted seconds of a training step, rank by rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mpitile.plan.clusters.devices import first_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.group_moves import GroupMoves
from mpitile.plan.costs.overlap import BesideBackward, BesideForward, adding_seconds
from mpitile.plan.costs.planned_exchange import both_ways
from mpitile.plan.costs.small_sums import SmallSums
from mpitile.plan.costs.sum_times import STATISTIC_BYTES, PeerSums
from mpitile.plan.memory.state_bytes import tile_elements
from mpitile.plan.partition import Partition
from mpitile.plan.recording import ADJOINT, FORWARD
from mpitile.plan.sums.completion import goes_beside
from mpitile.plan.sums.slices import own_elements
from mpitile.plan.tasks import Task, group_tasks


@dataclass(frozen=True, slots=True)
class RankSeconds:
    """How a rank spends a step: computing, on messages, on sums, and waiting for others."""

    compute: float
    halo: float
    reduce: float
    wait: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of a step without reading images, and of each rank's parts of it."""

    step_seconds: float
    ranks: tuple[RankSeconds, ...]


def predict(
    partition: Partition,
    cost: Cost,
    images: int,
    optimizer: str = "sgd",
    subdivisions: int = 1,
    overlap: bool = True,
) -> Prediction:
    """The time of a step, in the order of `mpitile.runtime.program`'s and the trainer's work.

    Each rank has a clock: an exchange begins for a rank when its neighbours have come there,
    a sum when all ranks have.

    Parameters
    ----------
    images : of a step over all replicas.
    subdivisions : passes of a step.
    overlap : whether gradients are summed beside the last backward pass, on several devices.
    """
    step = _Step(partition, cost, images // subdivisions)
    devices = len(first_devices(cost.cluster, partition.plan.ranks))
    return step.run(optimizer, subdivisions, overlap and goes_beside(devices))


class _Step:
    """Clocks of all ranks, and what filled their time."""

    def __init__(self, partition: Partition, cost: Cost, images: int) -> None:
        self._partition, self._plan, self._cost = partition, partition.plan, cost
        self._network = partition.network
        ranks, tiles = partition.plan.ranks, partition.plan.grid.tiles
        self._images = images // partition.plan.replicas
        self._tasks = group_tasks(self._network, self._plan)
        # Trained numbers that all ranks have alike, and those of each tile's slices.
        elements = tile_elements(self._network, self._plan)
        self._elements = elements[0][0][0]
        self._sliced = [sliced for _, (sliced, _) in elements]
        self._devices = [cost.cluster.device_of(rank) for rank in range(ranks)]
        self._moves = GroupMoves(partition, cost, self._images)
        self._exchanges = [
            both_ways(cost, tuple(self._moves.messages(group)))
            for group in range(len(partition.ranges))
        ]
        self._computing: dict[tuple[int, str], list[float]] = {}
        self._beside: BesideBackward | BesideForward | None = None
        self._clock, self._compute, self._halo, self._reduce = ([0.0] * ranks for _ in range(4))
        self._everyone = [range(ranks)]
        self._small_sums = SmallSums(cost, ranks)
        self._peers = [range(tile, ranks, tiles) for tile in range(tiles)]

    def run(self, optimizer: str, subdivisions: int, overlap: bool) -> Prediction:
        ranks = len(self._clock)
        for number in range(subdivisions):
            self._pass(overlap and number == 0, overlap and number == subdivisions - 1)
        self._sum_gradients()
        own = own_elements(self._cost.cluster, ranks, self._elements)
        for rank, device in enumerate(self._devices):
            sliced = self._sliced[rank % self._plan.grid.tiles] / self._plan.replicas
            self._work(
                rank,
                self._cost.update(device, own[rank] + sliced, optimizer)
                + self._cost.overhead(device),
            )
        step = max(self._clock)
        return Prediction(
            step,
            tuple(
                RankSeconds(*parts, max(0.0, step - sum(parts)))
                for parts in zip(self._compute, self._halo, self._reduce, strict=True)
            ),
        )

    def _sum_gradients(self) -> None:
        size, elements, ranks = self._cost.itemsize, self._elements, len(self._clock)
        sizes = [size * elements for elements in self._sliced]
        peers = PeerSums(self._cost, self._plan)
        if self._beside:
            for adding in (adding_seconds(self._cost, ranks, elements), peers.adding(sizes)):
                for rank, seconds in enumerate(adding):
                    self._work(rank, seconds)
            self._meet(self._everyone, self._beside.left(self._clock))
            return
        if elements:
            self._meet(self._everyone, self._cost.gradient_sum(elements * size, ranks))
        if self._plan.replicas > 1 and any(sizes):
            self._meet(self._peers, peers.seconds(sizes))

    def _pass(self, values: bool, sums: bool) -> None:
        """One pass, with new values beside forward or sums beside backward."""
        groups = range(len(self._partition.ranges))
        self._beside = BesideForward(self._partition, self._cost) if values else None
        for group in groups:
            self._begin(group, FORWARD)
            self._finish(group, FORWARD, list(self._clock))
            self._forward(group)
        self._beside = BesideBackward(self._partition, self._cost) if sums else None
        for group in reversed(groups):
            self._backward(group)

    def _forward(self, group: int) -> None:
        for task in self._tasks[group]:
            if isinstance(self._beside, BesideForward):
                self._await(self._beside.before(task))
            self._task(group, task, "forward")
            if task.normalized:
                for _ in range(2):
                    self._statistics(task, 1)

    def _backward(self, group: int) -> None:
        tasks = self._tasks[group]
        for task in reversed(tasks):
            for again in task.again:
                # Batch norm knows its sums.
                self._task(group, again, "forward")
            if task.normalized:
                self._statistics(task, 2)
            self._task(group, task, "backward_input")
            if task is tasks[0]:
                self._begin(group, ADJOINT)
            begun = list(self._clock)
            self._task(group, task, "backward_weights")
            if isinstance(self._beside, BesideBackward):
                self._beside.after(task, self._clock)
        # The adjoint travels while the first layer's weight gradient is computed.
        self._finish(group, ADJOINT, begun)

    def _task(self, group: int, task: Task, operation: str) -> None:
        key = (task.layer.index, operation)
        if key not in self._computing:
            self._computing[key] = list(self._times(group, task, operation))
        for rank, seconds in enumerate(self._computing[key]):
            self._work(rank, seconds)

    def _times(self, group: int, task: Task, operation: str) -> Iterator[float]:
        """Of each rank."""
        layer, first = task.layer, self._partition.ranges[group][0]
        spans, tiles = self._partition.spans.get(layer.index), self._plan.grid.tiles
        boxes = [needs[group].computed[layer.index - first] for needs in self._partition.needs]
        sizes = [(box.height, box.width) for box in boxes]
        channels = [stop - start for start, stop in spans] if spans else [None] * tiles
        for rank, device in enumerate(self._devices):
            tile = rank % tiles
            yield self._cost.compute(
                device,
                layer.index,
                operation,
                self._images,
                *sizes[tile],
                task.merged,
                channels[tile],
            )

    def _work(self, rank: int, seconds: float) -> None:
        self._clock[rank] += seconds
        self._compute[rank] += seconds

    def _await(self, ready: float) -> None:
        """Every rank waits until then."""
        for rank, now in enumerate(self._clock):
            late = max(0.0, ready - now)
            self._clock[rank] += late
            self._reduce[rank] += late

    def _copy(self, rank: int, seconds: float) -> None:
        self._clock[rank] += seconds
        self._halo[rank] += seconds

    def _begin(self, group: int, direction: str) -> None:
        """Pack what is sent."""
        if self._moves.parts(group) is None:
            for rank, seconds in self._exchanges[group][direction].packing.items():
                self._copy(rank, seconds)
            return
        for rank, (before, _) in enumerate(self._moves.copying(group, direction)):
            self._copy(rank, before)
        # What its ranks have put together, a device sends once.
        self._meet(self._moves.gathers.devices, 0.0)

    def _finish(self, group: int, direction: str, begun: list[float]) -> None:
        """End an exchange that ranks began at these times, and unpack."""
        exchange = self._exchanges[group][direction]
        starts = exchange.starts(begun, self._clock)
        before = list(self._clock)
        found = exchange.seconds
        if found and self._beside:
            # What the slowest waits longer, all do: they go on together soon.
            slowest = max(found.values())
            longer = self._beside.halo(min(starts.values()), slowest) / slowest
            found = {rank: longer * seconds for rank, seconds in found.items()}
        for rank, seconds in found.items():
            end = max(before[rank], starts[rank] + seconds)
            self._halo[rank] += min(seconds, end - before[rank])
            self._clock[rank] = end
        if self._moves.parts(group) is None:
            for rank, seconds in exchange.unpacking.items():
                self._copy(rank, seconds)
            return
        if direction == FORWARD:
            self._meet(self._moves.gathers.devices, 0.0)
        for rank, (_, after) in enumerate(self._moves.copying(group, direction)):
            self._copy(rank, after)

    def _statistics(self, task: Task, vectors: int) -> None:
        """Batch norm's sums, of a filter-parallel layer's channels over replicas alone."""
        spans = self._partition.spans.get(task.first.index)
        if not spans:
            size = vectors * STATISTIC_BYTES * task.layer.output_shape.channels
            self._meet(self._everyone, self._small_sums.seconds(size) + self._behind())
        elif self._plan.replicas > 1:
            size = vectors * STATISTIC_BYTES * max(stop - start for start, stop in spans)
            seconds = self._cost.reduction(size, self._plan.replicas)
            self._meet(self._peers, seconds + self._behind())

    def _behind(self) -> float:
        """What a small sum waits for on links that are busy beside the pass."""
        return self._beside.small(max(self._clock)) if self._beside else 0.0

    def _meet(self, teams: Iterable[Sequence[int]], seconds: float) -> None:
        """The ranks of each team wait for each other, and go on so much later."""
        for team in teams:
            end = max(self._clock[rank] for rank in team) + seconds
            for rank in team:
                self._clock[rank] = end
                self._reduce[rank] += seconds
