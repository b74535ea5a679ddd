"""Latency and bandwidth of the links between ranks, by the messages that exchanges send."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from mpitile.comm.communicator import Communicator
from mpitile.plan.clusters.cluster import MEDIA, Link

_WORD = 8
_LARGE = 4 << 20
_SMALL_REPEATS, _LARGE_REPEATS = 100, 5
# Large messages get smaller until a few of them do not take longer than this.
_PATIENCE_SECONDS = 0.5
# A switch carries all devices' messages at once; a shared medium takes as many times longer.
_SHARED_SLOWDOWN = 1.4
# Where no device has two ranks nobody can tell, and nobody will need it.
_INSIDE = Link(1e-6, 1e10)


def latency(world: Communicator, first: int, second: int) -> float:
    """Half the time of a small message from one rank to the other and back, in seconds.

    Collective; the result is the same on all ranks.
    """
    times = []
    out, back = np.zeros(_WORD, np.uint8), np.zeros(_WORD, np.uint8)
    outward = world.channel(*_ends(world, [(first, second)], out, back))
    backward = world.channel(*_ends(world, [(second, first)], out, back))
    _meet(world)
    for _ in range(_SMALL_REPEATS):
        start = time.perf_counter()
        for channel in (outward, backward):
            channel.begin()
            channel.end()
        times.append(time.perf_counter() - start)
    outward.close()
    backward.close()
    return _told(world, first, statistics.median(times)) / 2


def rate(world: Communicator, pairs: Sequence[tuple[int, int]], wait: float = 0.0) -> float:
    """Bytes a second of each pair's large message while all pairs send, by the slowest one.

    Collective; the result is the same on all ranks. A rank may send to one and receive from
    another; each is in `pairs` at most once as source and once as target.

    Parameters
    ----------
    wait : the latency in seconds, which a message's bytes are not to answer for as well.
    """
    size = 1 << 16
    while True:
        seconds = _seconds(world, pairs, size)
        if size >= _LARGE or 8 * seconds * _LARGE_REPEATS > _PATIENCE_SECONDS:
            return size / max(seconds - wait, seconds / 2)
        size *= 8


def _seconds(world: Communicator, pairs: Sequence[tuple[int, int]], size: int) -> float:
    out, into = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    channel = world.channel(*_ends(world, pairs, out, into))
    takes_part = any(world.rank in pair for pair in pairs)
    times = []
    for _ in range(_LARGE_REPEATS + 1):
        _meet(world)
        start = time.perf_counter()
        if takes_part:
            channel.begin()
            channel.end()
        slowest = np.array([time.perf_counter() - start])
        world.maximum(slowest)
        times.append(float(slowest[0]))
    channel.close()
    return statistics.median(times[1:])


def _ends(
    world: Communicator, pairs: Sequence[tuple[int, int]], out: np.ndarray, into: np.ndarray
) -> tuple[list[tuple[int, np.ndarray]], list[tuple[int, np.ndarray]]]:
    """This rank's sends and receives."""
    sends = [(target, out) for source, target in pairs if source == world.rank]
    receives = [(source, into) for source, target in pairs if target == world.rank]
    return sends, receives


def _meet(world: Communicator) -> None:
    world.sum(np.zeros(1))


def _told(world: Communicator, rank: int, value: float) -> float:
    """One rank's value on all ranks."""
    values = np.array([value if world.rank == rank else 0.0])
    world.sum(values)
    return float(values[0])


def measure_links(world: Communicator, hosts: Sequence[range]) -> tuple[Link, Link, str]:
    """The links inside hosts and between them, and whether these are "switched" or "shared".

    Collective; the result is the same on all ranks. A host's ranks send to each other all at
    once, and so do the first ranks of all hosts, each to the next one.

    Parameters
    ----------
    hosts : the ranks of each.
    """
    inside = _INSIDE
    crowded = [ranks for ranks in hosts if len(ranks) > 1]
    if crowded:
        times = [latency(world, ranks[0], ranks[1]) for ranks in crowded]
        rings = [pair for ranks in crowded for pair in _ring(ranks)]
        inside = Link(max(times), rate(world, rings, max(times)))
    if len(hosts) < 2:
        return inside, inside, MEDIA[0]
    pairs = _ring([ranks[0] for ranks in hosts])
    slowest = max(latency(world, *pair) for pair in pairs)
    alone = statistics.median(rate(world, [pair], slowest) for pair in pairs)
    together = rate(world, pairs, slowest)
    if alone > _SHARED_SLOWDOWN * together:
        return inside, Link(slowest, alone), MEDIA[1]
    return inside, Link(slowest, together), MEDIA[0]


def _ring(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Each sends to the next."""
    return list(zip(ranks, [*ranks[1:], ranks[0]], strict=True))
