"""Predicted seconds of a training step, rank by rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from mpitile.network.parameters import parameter_specs
from mpitile.network.spec import Network
from mpitile.plan.cost import Cost, Message
from mpitile.plan.overlap import BesideBackward, adding_seconds
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.slices import own_elements
from mpitile.plan.tasks import Task, group_tasks
from mpitile.plan.traffic import group_traffic

# Batch norm adds up float64, and one vector twice in forward, two at once in backward.
_STATISTIC_BYTES = 8
# Messages up to this size leave while the sender computes; larger ones wait for both sides:
# Open MPI's btl_tcp_eager_limit. Its ranks have no thread of their own for progress.
EAGER_BYTES = 1 << 16


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
    network: Network,
    plan: Plan,
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
    overlap : whether gradients are summed beside the last backward pass.
    """
    step = _Step(Partition(network, plan), cost, images // subdivisions)
    return step.run(optimizer, subdivisions, overlap and plan.ranks > 1)


class _Step:
    """Clocks of all ranks, and what filled their time."""

    def __init__(self, partition: Partition, cost: Cost, images: int) -> None:
        self._partition, self._plan, self._cost = partition, partition.plan, cost
        self._network = partition.network
        ranks = partition.plan.ranks
        self._images = images // partition.plan.replicas
        self._tasks = group_tasks(self._network, self._plan)
        self._elements = sum(prod(s.shape) for s in parameter_specs(self._network) if s.trained)
        self._devices = [cost.cluster.device_of(rank) for rank in range(ranks)]
        self._messages = [self._group_messages(group) for group in range(len(partition.ranges))]
        self._beside: BesideBackward | None = None
        self._clock, self._compute, self._halo, self._reduce = ([0.0] * ranks for _ in range(4))

    def run(self, optimizer: str, subdivisions: int, overlap: bool) -> Prediction:
        elements, ranks = self._elements, len(self._clock)
        for number in range(subdivisions):
            if overlap and number == subdivisions - 1:
                self._beside = BesideBackward(self._network, self._cost, ranks)
            self._pass()
        if self._beside:
            for rank in range(ranks):
                self._work(rank, adding_seconds(self._cost, rank, ranks, elements))
            self._wait_for_all(self._beside.left(self._clock))
        else:
            self._wait_for_all(self._cost.gradient_sum(elements * self._cost.itemsize, ranks))
        own = own_elements(self._cost.cluster, len(self._clock), elements)
        for rank, device in enumerate(self._devices):
            self._work(
                rank,
                self._cost.update(device, own[rank], optimizer) + self._cost.overhead(device),
            )
        step = max(self._clock)
        return Prediction(
            step,
            tuple(
                RankSeconds(*parts, max(0.0, step - sum(parts)))
                for parts in zip(self._compute, self._halo, self._reduce, strict=True)
            ),
        )

    def _pass(self) -> None:
        groups = range(len(self._partition.ranges))
        for group in groups:
            messages = self._messages[group]
            self._pack(messages)
            self._finish(messages, list(self._clock))
            self._forward(group)
        for group in reversed(groups):
            self._backward(group)

    def _forward(self, group: int) -> None:
        for task in self._tasks[group]:
            self._task(group, task, "forward")
            if task.normalized:
                for _ in range(2):
                    self._sum(_STATISTIC_BYTES * task.layer.output_shape.channels)

    def _backward(self, group: int) -> None:
        tasks = self._tasks[group]
        adjoint = [Message(m.target, m.source, m.size) for m in self._messages[group]]
        for task in reversed(tasks):
            for again in task.again:
                # Batch norm knows its sums.
                self._task(group, again, "forward")
            if task.normalized:
                self._sum(2 * _STATISTIC_BYTES * task.layer.output_shape.channels)
            self._task(group, task, "backward_input")
            if task is tasks[0]:
                self._pack(adjoint)
            begun = list(self._clock)
            self._task(group, task, "backward_weights")
            if self._beside:
                self._beside.after(task, self._clock)
        # The adjoint travels while the first layer's weight gradient is computed.
        self._finish(adjoint, begun)

    def _task(self, group: int, task: Task, operation: str) -> None:
        layer, first = task.layer, self._partition.ranges[group][0]
        for rank, device in enumerate(self._devices):
            needs = self._partition.needs[rank % self._plan.grid.tiles][group]
            box = needs.computed[layer.index - first]
            size = (self._images, box.height, box.width)
            self._work(rank, self._cost.compute(device, layer.index, operation, *size, task.merged))

    def _work(self, rank: int, seconds: float) -> None:
        self._clock[rank] += seconds
        self._compute[rank] += seconds

    def _pack(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._copy(message.source, message.size)

    def _copy(self, rank: int, size: float) -> None:
        seconds = self._cost.pack(self._devices[rank], size)
        self._clock[rank] += seconds
        self._halo[rank] += seconds

    def _finish(self, messages: list[Message], begun: list[float]) -> None:
        """End an exchange that ranks began at these times, and unpack."""
        starts: dict[int, float] = {}
        for source, target, size in messages:
            eager = size <= EAGER_BYTES
            times = (begun if eager else self._clock)[source], self._clock[target]
            start = times[0] if eager else max(times)
            for rank in (source, target):
                starts[rank] = max(starts.get(rank, 0.0), start)
        before = list(self._clock)
        found = self._cost.exchange(messages)
        if found and self._beside:
            # What the slowest waits longer, all do: they go on together soon.
            slowest = max(found.values())
            longer = self._beside.halo(min(starts.values()), slowest) / slowest
            found = {rank: longer * seconds for rank, seconds in found.items()}
        for rank, seconds in found.items():
            end = max(before[rank], starts[rank] + seconds)
            self._halo[rank] += min(seconds, end - before[rank])
            self._clock[rank] = end
        for message in messages:
            self._copy(message.target, message.size)

    def _sum(self, size: int) -> None:
        self._wait_for_all(self._cost.reduction(size, len(self._clock)))

    def _wait_for_all(self, seconds: float) -> None:
        """All ranks meet, and go on so much later."""
        end = max(self._clock) + seconds
        for rank in range(len(self._clock)):
            self._clock[rank] = end
            self._reduce[rank] += seconds

    def _group_messages(self, group: int) -> list[Message]:
        factor = self._images * self._cost.itemsize
        traffic = sorted(group_traffic(self._partition, group).items())
        tiles = self._plan.grid.tiles
        return [
            Message(base + source, base + target, factor * elements)
            for base in range(0, self._plan.ranks, tiles)
            for (source, target), elements in traffic
        ]
