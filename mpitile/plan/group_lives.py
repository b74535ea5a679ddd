"""What a fused group holds at which time, whatever the tiles: bytes for each cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mpitile.geometry.box import Box
from mpitile.geometry.needs import GroupNeeds, group_ranges
from mpitile.network.merging import merged_pools
from mpitile.network.spec import Network
from mpitile.plan.lifetimes import DELTA, VALUE, Buffer, pass_buffers
from mpitile.plan.partition import TilePart
from mpitile.plan.recomputation import stages
from mpitile.plan.timeline import make_timeline

# Bytes for each cell of a tensor and image, by tensor.
PerCell = Mapping[int, int]

_CELL = Box(0, 1, 0, 1)


class GroupLives(NamedTuple):
    """A group's arrays. Its last output counts among those of the group behind it.

    Attributes
    ----------
    stored : in use between forward and backward.
    handed : kept with the last output between forward and backward, for each cell of it.
        Of the network's last group, among `stored` instead.
    moments : in use while the group computes, at times none of which has all of
        another's. What earlier groups have stored comes on top.
    again : layers that are computed a second time, counted from the group's first.
    """

    stored: PerCell
    handed: int
    moments: tuple[PerCell, ...]
    again: tuple[int, ...]


class Lives:
    """The lives of a network's groups, each found when it is first asked for."""

    def __init__(self, network: Network, itemsize: int) -> None:
        self._network, self._itemsize = network, itemsize
        self._known: dict[tuple[int, int, bool], GroupLives] = {}

    def of(self, first: int, stop: int, recompute: bool) -> GroupLives:
        """Of layers ``first .. stop - 1``, where they are a group."""
        key = (first, stop, recompute)
        if key not in self._known:
            self._known[key] = group_lives(self._network, *key, self._itemsize)
        return self._known[key]


def group_lives(
    network: Network, first: int, stop: int, recompute: bool, itemsize: int
) -> GroupLives:
    """The lives of the arrays of layers ``first .. stop - 1``, where they are a group."""
    layers = len(network.layers)
    groups = sorted({0, first, stop} - {layers})
    flags = tuple(recompute and group == first for group in groups)
    merged = merged_pools(network, groups)
    cut = stages(network, groups, flags, merged)
    time = make_timeline(cut)
    buffers = pass_buffers(
        network, _cells(network, groups), 1, itemsize, merged=merged, recompute=flags
    )
    between = [buffer for buffer in buffers if buffer.used_at(time.loss - 1)]
    inner = [buffer for buffer in between if first < buffer.tensor < stop]
    taken = [buffer for buffer in between if buffer.tensor == first and buffer.name == VALUE]
    last = [buffer for buffer in between if buffer.tensor == stop]
    own = [buffer for buffer in buffers if _present(buffer, first, stop)]
    own_layers = range(first, stop)
    events = [
        by_layer[layer]
        for by_layer in (time.forward, time.again, time.backward)
        for layer in own_layers
        if layer in by_layer
    ]
    return GroupLives(
        _sum(inner + taken + (last if stop == layers else [])),
        sum(buffer.size for buffer in last if buffer.name != VALUE and stop < layers),
        _moments(own, events),
        tuple(layer - first for layer in own_layers if layer in time.again),
    )


def _cells(network: Network, groups: list[int]) -> TilePart:
    """A part that holds one cell of every tensor."""
    ranges = group_ranges(groups, len(network.layers))
    return TilePart(
        0,
        (_CELL,) * len(network.shapes),
        (_CELL,) * len(network.shapes),
        tuple(GroupNeeds(a, b, (_CELL,) * (b - a), {}) for a, b in ranges),
        (),
    )


def _present(buffer: Buffer, first: int, stop: int) -> bool:
    """Whether a buffer is in use only because of a group, while that group computes."""
    if buffer.tensor > first:
        return buffer.tensor <= stop
    return buffer.name == DELTA or (buffer.tensor == first and buffer.name == VALUE)


def _moments(buffers: Iterable[Buffer], events: Iterable[int]) -> tuple[PerCell, ...]:
    """What is in use at the events, but for those at which less is than at another."""
    sets = {frozenset(b for b in buffers if b.used_at(event)) for event in events}
    return tuple(_sum(some) for some in sets if not any(some < other for other in sets))


def _sum(buffers: Iterable[Buffer]) -> PerCell:
    found: dict[int, int] = defaultdict(int)
    for buffer in buffers:
        found[buffer.tensor] += buffer.size
    return dict(found)
