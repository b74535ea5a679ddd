"""Measures the device of a rank: its layers on tiles of many sizes, sums and updates, memory."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from mpitile.comm.communicator import Communicator
from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.network.spec import Network
from mpitile.plan.by_rule import default_groups, split_at_whole_inputs
from mpitile.plan.clusters.cluster import Point
from mpitile.plan.memory.arena import lay_out
from mpitile.plan.memory.lifetimes import pass_buffers
from mpitile.plan.memory.state_bytes import parameter_elements
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.sums.slices import bucket_elements
from mpitile.runtime.pace import Pace
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.profiling import TileTimes, middle_tile, time_tile
from mpitile.train.optimizer import make_optimizer

Points = dict[tuple[str, str], list[Point]]

# Tiles of many sizes, each about half as large as the next larger one; some of whole rows, which
# some kernels like better. In an order in which those that time is left for lie far apart.
_GRIDS = tuple(
    Grid(*grid) for grid in ((4, 4), (2, 2), (6, 8), (1, 1), (2, 4), (4, 1), (4, 6), (2, 1), (1, 2))
)
_MOST_TILES = max(grid.tiles for grid in _GRIDS)
_IMAGES = (1, 4)
_REPEATS = 5
# Of a device's memory, for all ranks together; systems need some as well.
_MEMORY_SHARE = 0.6
_UPDATES = {"sgd": 1, "adam": 2}
_UPDATE_REPEATS = 3


@dataclass(frozen=True)
class Measured:
    """What one rank found out; seconds are those of a whole core.

    Attributes
    ----------
    points : by layer class and operation.
    clear, copy, add : bytes a second, zeroed, packed, and added to others.
    piece : seconds for each message packed.
    update : seconds for each weight by optimiser.
    share : the part of a core that the rank had.
    """

    points: Points
    clear: float
    copy: float
    add: float
    piece: float
    update: dict[str, float]
    share: float


def measure_device(
    world: Communicator,
    networks: Sequence[Network],
    neighbours: int,
    seconds: float,
    tell: Callable[[str], None],
    pace: Pace,
) -> Measured:
    """This rank's speed while all others measure theirs. Collective.

    A core's speed may change meanwhile: layers' times are those at the mean of its paces.

    Parameters
    ----------
    networks : of which one at least is trained.
    neighbours : ranks on this device, itself included.
    seconds : about how long it may take.
    pace : of this rank; the mean is of what it takes here.

    Raises
    ------
    InputError : on all ranks, where not even a small tile of a network fits into memory.
    """
    times: list[TileTimes] = []
    for network in networks:
        tell(f"layers of {network.name}")
        room = _MEMORY_SHARE * (device_memory() or inf) / neighbours
        parameters = Parameters(network, np.float32)
        parameters.draw(1)
        found = _time_tiles(world, parameters, seconds / len(networks), room, pace)
        if not found:
            raise InputError(
                f"{network.name}: not even one of {_MOST_TILES} tiles of an image fits into "
                f"the memory of a device with {neighbours} rank(s)"
            )
        times += found
    usual = statistics.mean(pace.taken)
    times = [time.at(usual) for time in times]
    # Its arrays may not stand beside another network's.
    del parameters
    parameters = Parameters(max(networks, key=trained_count), np.float32)
    # Memory that nobody has written to is not there, and quick to read.
    parameters.draw(1)
    piece, copy = _packing(times)
    return Measured(
        points=merged(time.points for time in times),
        clear=_clearing(parameters),
        copy=copy,
        add=_adding(parameters),
        piece=piece,
        update=_updates(parameters, room),
        share=min(1.0, sum(time.cpu for time in times) / sum(time.wall for time in times)),
    )


def trained_count(network: Network) -> int:
    """How many numbers of a network are trained."""
    trained, _ = parameter_elements(network)
    return trained


def device_memory() -> int | None:
    """Bytes of this device's memory, or of what its control group may use of it."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemTotal:"):
                found.append(1024 * int(line.split()[1]))
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    except (OSError, ValueError):
        # No control group, or one without a limit.
        pass
    return min(found, default=None)


def merged(every: Iterable[Points]) -> Points:
    """All points by class and operation; those of equal size become their median."""
    sizes: dict[tuple[str, str], dict[tuple[int, int, int], list[float]]] = defaultdict(dict)
    for points in every:
        for key, values in points.items():
            for point in values:
                size = (point.images, point.rows, point.columns)
                sizes[key].setdefault(size, []).append(point.seconds)
    return {
        key: [Point(*size, statistics.median(seconds)) for size, seconds in sorted(by_size.items())]
        for key, by_size in sizes.items()
    }


def _time_tiles(
    world: Communicator, parameters: Parameters, seconds: float, room: float, pace: Pace
) -> list[TileTimes]:
    """Tiles of many sizes, as long as time and memory last. Collective."""

    def take() -> float:
        # All ranks of a device are to compute at once.
        world.sum(np.zeros(1))
        return pace.take()

    network, times = parameters.network, []
    start = time.perf_counter()
    cell_seconds = 0.0
    for plan, images in _plans(network):
        cells = images / plan.grid.tiles
        wanted = cells * cell_seconds * (_REPEATS + 1)
        late = bool(times) and time.perf_counter() - start + wanted > seconds
        if _any(world, late or _bytes(parameters, plan, images) > room):
            continue
        times.append(time_tile(parameters, plan, images, _REPEATS, pace=take))
        cell_seconds = times[-1].wall / _REPEATS / cells
    return times


def _plans(network: Network) -> Iterator[tuple[Plan, int]]:
    """Tilings and images of a pass: in common groups, and each layer as a group of its own."""
    shape = network.shape(0)
    for images in _IMAGES:
        for grid in _GRIDS:
            if grid.rows > shape.height or grid.columns > shape.width:
                continue
            for groups in (default_groups(network), range(len(network.layers))):
                yield Plan(grid, split_at_whole_inputs(network, tuple(groups))), images


def _bytes(parameters: Parameters, plan: Plan, images: int) -> int:
    """About what the tile in the middle allocates; no less."""
    network, itemsize = parameters.network, parameters.values.itemsize
    part = Partition(network, plan).part(middle_tile(plan))
    passes = lay_out(pass_buffers(network, part, images, itemsize)).size
    image = images * part.stored[0].cells * network.shape(0).channels * itemsize
    return passes + image + 2 * parameters.values.nbytes


def _any(world: Communicator, flag: bool) -> bool:
    flags = np.array([float(flag)])
    world.maximum(flags)
    return bool(flags[0])


def _packing(times: Sequence[TileTimes]) -> tuple[float, float]:
    """Seconds for each message and bytes a second: least squares of the relative errors."""
    packings = [time.exchange for time in times if time.exchange.pieces]
    if not packings:
        return 1e-5, 1e9
    rows = [[p.pieces / p.seconds, p.bytes / 1e6 / p.seconds] for p in packings]
    piece, megabyte = nnls(np.array(rows), np.ones(len(rows)))[0]
    return max(piece, 1e-7), 1e6 / max(megabyte, 1e-6)


def _clearing(parameters: Parameters) -> float:
    """Bytes a second that are set to zero."""
    parameters.gradients[...] = 1
    start = time.thread_time()
    parameters.gradients[...] = 0
    return parameters.gradients.nbytes / max(time.thread_time() - start, 1e-7)


def _adding(parameters: Parameters) -> float:
    """Bytes a second that are added to others, as those of gradients are bucket by bucket."""
    into, summand = parameters.gradients, parameters.values
    step = bucket_elements(into.itemsize)
    times = []
    for _ in range(_UPDATE_REPEATS + 1):
        start = time.thread_time()
        for first in range(0, into.size, step):
            part = into[first : first + step]
            np.add(part, summand[first : first + step], out=part)
        times.append(time.thread_time() - start)
    return into.nbytes / max(statistics.median(times[1:]), 1e-7)


def _updates(parameters: Parameters, room: float) -> dict[str, float]:
    """Seconds for each weight by optimiser, as far as memory allows."""
    result = {}
    values = parameters.values
    for kind, states in _UPDATES.items():
        if result and (2 + states) * values.nbytes > room:
            # It moves that many more numbers to and fro.
            result[kind] = result["sgd"] * states
            continue
        optimizer = make_optimizer(kind, parameters, parameters.network.options)
        times = []
        for step in range(_UPDATE_REPEATS + 1):
            start = time.thread_time()
            optimizer.update(0.0, 1, step + 1)
            times.append(time.thread_time() - start)
        result[kind] = max(statistics.median(times[1:]), 1e-7) / values.size
    return result
