"""Times each layer of a tile as it runs in a program, without the other tiles."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from mpitile.comm.mute import MuteCommunicator
from mpitile.comm.topology import Topology, make_topology
from mpitile.kernels.choice import Choices
from mpitile.layers.base import LayerWork, Step
from mpitile.network.heads import heads
from mpitile.network.spec import Network
from mpitile.plan.clusters.cluster import OPERATIONS, Point
from mpitile.plan.costs.layer_class import box_class, loss_class
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.recomputation import Piece
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program

# Objects in each image as (x, y, width, height, class): as many as photographs have.
_OBJECTS = 8
# Images that are as good as new: a region's first ones are treated otherwise.
_SEEN = 20000


@dataclass(frozen=True, slots=True)
class Packing:
    """Messages of a step, packed and unpacked: CPU seconds, bytes and pieces."""

    seconds: float
    bytes: int
    pieces: int


@dataclass(frozen=True)
class TileTimes:
    """What a tile's passes took.

    Attributes
    ----------
    points : by layer class and operation; what a pass takes outside layers and exchanges is
        shared out among them.
    exchange : packing and unpacking.
    wall, cpu : seconds of all passes, to tell how much of a core this rank had.
    pace : the mean of those around the passes; all other CPU seconds are as if it had stayed so.
    """

    points: dict[tuple[str, str], list[Point]]
    exchange: Packing
    wall: float
    cpu: float
    pace: float

    def at(self, pace: float) -> TileTimes:
        """The same as if the core had had another pace."""
        factor = pace / self.pace
        return replace(
            self,
            points={
                key: [replace(point, seconds=point.seconds * factor) for point in points]
                for key, points in self.points.items()
            },
            exchange=replace(self.exchange, seconds=self.exchange.seconds * factor),
            pace=pace,
        )


class _Timed:
    """A piece of work that counts its CPU seconds: those of a rank that is not interrupted."""

    def __init__(self, work: LayerWork) -> None:
        self.work = work
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def forward(self, step: Step) -> None:
        self._time("forward", step)

    def backward_input(self, step: Step) -> None:
        self._time("backward_input", step)

    def backward_weights(self, step: Step) -> None:
        self._time("backward_weights", step)

    def _time(self, operation: str, step: Step) -> None:
        call = getattr(self.work, operation)
        start = time.thread_time()
        call(step)
        self.seconds[operation].append(time.thread_time() - start)

    def scale(self, factors: Sequence[float]) -> None:
        """Multiply each pass's seconds by its factor."""
        for operation, seconds in self.seconds.items():
            self.seconds[operation] = _products(seconds, factors)


class _TimedExchange:
    """An exchange whose packing and unpacking are counted."""

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange
        self.bytes = exchange.bytes
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Callable[[], None]:
        call = getattr(self._exchange, name)

        def timed() -> None:
            start = time.thread_time()
            call()
            self.seconds += time.thread_time() - start

        return timed


class _TimedProgram(Program):
    """A program whose pieces are timed."""

    def _group(self, number: int) -> Any:
        group = super()._group(number)
        return replace(
            group,
            exchange=_TimedExchange(group.exchange),
            tasks=tuple(replace(task, work=_Timed(task.work)) for task in group.tasks),
        )

    @property
    def exchanges(self) -> list[_TimedExchange]:
        return [group.exchange for group in self._groups]

    @property
    def works(self) -> list[tuple[Piece, _Timed]]:
        return [(task.layers, task.work) for group in self._groups for task in group.tasks]


def middle_tile(plan: Plan) -> int:
    """A tile with as many neighbours as any."""
    return plan.grid.tile(plan.grid.rows // 2, plan.grid.columns // 2)


def time_tile(
    parameters: Parameters,
    plan: Plan,
    images: int,
    repeats: int,
    choices: Choices | None = None,
    pace: Callable[[], float] = lambda: 1.0,
) -> TileTimes:
    """Run a tile in the middle of a grid forward and backward.

    Parameters
    ----------
    parameters : of the network.
    repeats : passes to take medians of; another one is run before.
    pace : called before each pass and behind the last, all ranks of a device at once: how slow
        the core is just now, in any unit.
    """
    network = parameters.network
    topology = make_topology(MuteCommunicator(middle_tile(plan), plan.ranks), plan)
    program = _TimedProgram(Partition(network, plan), topology, parameters, images, choices=choices)
    noise = np.random.default_rng(1)
    image = program.values[0].array
    image[...] = noise.random(image.shape, np.float32)
    step = _step(network, topology, images)
    wall, cpu, paces = [], [], [pace()]
    for _ in range(repeats + 1):
        wall.append(-time.perf_counter())
        cpu.append(-time.thread_time())
        program.forward(step)
        program.backward(step)
        wall[-1] += time.perf_counter()
        cpu[-1] += time.thread_time()
        paces.append(pace())
    around = [(before + behind) / 2 for before, behind in pairwise(paces)]
    usual = statistics.mean(around)
    factors = [usual / own for own in around]
    for _, work in program.works:
        work.scale(factors)
    times = TileTimes(
        points=_points(program, images, _share_of_rest(program, _products(cpu, factors))),
        exchange=_packing(program, repeats + 1),
        wall=sum(wall[1:]),
        cpu=sum(cpu[1:]),
        pace=usual,
    )
    program.close()
    return times


def _products(seconds: Sequence[float], factors: Sequence[float]) -> list[float]:
    return [a * b for a, b in zip(seconds, factors, strict=True)]


def _step(network: Network, topology: Topology, images: int) -> Step:
    generator = np.random.default_rng(2)
    truths: Sequence = [0] * images
    if heads(network):
        truths = generator.uniform(0.1, 0.9, (images, _OBJECTS, 5))
        truths[..., 4] = 0
    return Step(
        training=True,
        reduce=topology.world.sum,
        images=images,
        seen=_SEEN,
        overwrite=True,
        truths=truths,
    )


def _points(
    program: _TimedProgram, images: int, factor: float
) -> dict[tuple[str, str], list[Point]]:
    layers = program.network.layers
    points: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for numbers, work in program.works:
        layer = layers[numbers[-1] if numbers else -1]
        box = program.part.computed(layer.index)
        if box.empty:
            continue
        if not numbers:
            name = loss_class(layer.output_shape)
        else:
            convolution = layers[numbers[0]] if len(numbers) > 1 else None
            name = box_class(layer, box.width, convolution)
        for operation in OPERATIONS:
            seconds = factor * statistics.median(work.seconds[operation][1:])
            if operation != "backward_weights" or _has_weights(program, numbers):
                point = Point(images, box.height, box.width, max(seconds, 1e-9))
                points[name, operation].append(point)
    return dict(points)


def _packing(program: _TimedProgram, passes: int) -> Packing:
    """Of one step: each buffer is packed or unpacked once in each direction."""
    transfers = program.part.transfers
    pieces = sum(len(message.pieces) for t in transfers for message in (*t.sends, *t.receives))
    return Packing(
        sum(exchange.seconds for exchange in program.exchanges) / passes,
        2 * sum(exchange.bytes for exchange in program.exchanges),
        2 * pieces,
    )


def _has_weights(program: _TimedProgram, numbers: Piece) -> bool:
    return any(program.parameters.of_layer(number) for number in numbers)


def _share_of_rest(program: _TimedProgram, cpu: Sequence[float]) -> float:
    """By how much a pass takes longer, without its exchanges, than its works together."""
    works = sum(
        statistics.median(seconds[1:])
        for _, work in program.works
        for seconds in work.seconds.values()
    )
    exchanges = sum(exchange.seconds for exchange in program.exchanges) / len(cpu)
    return max(1.0, (statistics.median(cpu[1:]) - exchanges) / max(works, 1e-9))
