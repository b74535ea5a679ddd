"""What a fused group holds at which time, whatever the tiles: bytes for each cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from mpitile.geometry.box import Box
from mpitile.geometry.needs import GroupNeeds, group_ranges
from mpitile.network.merging import merged_pools
from mpitile.network.spec import Network
from mpitile.plan.memory.lifetimes import DELTA, VALUE, Buffer, pass_entries, sized
from mpitile.plan.partition import TilePart
from mpitile.plan.pass_order import pass_order
from mpitile.plan.recomputation import Stage, Stages
from mpitile.plan.search.choices import Forms, Group

# Bytes for each cell of a tensor and image, and where it is divided by channels for each of
# those, by tensor; a copy of tensor t that the group reads is ``~t``.
PerCell = Mapping[int, int]

_CELL = Box(0, 1, 0, 1)


class GroupLives(NamedTuple):
    """A group's arrays. Its last output counts among those of the group behind it.

    Attributes
    ----------
    stored : in use between forward and backward.
    handed : kept with the last output between forward and backward, for each cell of it.
        Of the network's last group, among `stored` instead.
    moments : in use while the group computes, or a loss behind it, at times none of which
        has all of another's. What earlier groups have stored comes on top.
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
        self._pools = merged_pools(network, ())
        self._stages = Stages(network)
        self._last_reader = {
            tensor: layer.index for layer in network.layers for tensor in layer.inputs
        }
        self._known: dict[tuple[Group, Forms, bool], GroupLives] = {}

    def of(self, group: Group, sliced: Forms, recompute: bool) -> GroupLives:
        """Of a group that reads these tensors divided by channels."""
        key = (group, sliced, recompute)
        if key not in self._known:
            self._known[key] = self._find(*key)
        return self._known[key]

    def _find(self, group: Group, sliced: Forms, recompute: bool) -> GroupLives:
        first, stop, _ = group
        layers = len(self._network.layers)
        groups = sorted({0, first, stop} - {layers})
        flags = tuple(recompute and start == first for start in groups)
        cut = self._stages.of(groups, flags, self._pools.difference(groups))
        time = pass_order(cut)
        buffers = self._buffers(groups, group, sliced, cut)
        between = [buffer for buffer in buffers if buffer.used_at(time.loss - 1)]
        last = [b for b in between if b.group is None and b.tensor == stop]
        stored = [
            b
            for b in between
            if b.group is not None
            or first < b.tensor < stop
            or (b.tensor == first and b.name == VALUE)
        ]
        own = [buffer for buffer in buffers if _present(buffer, first, stop)]
        events = [
            by_layer[layer]
            for by_layer in (time.forward, time.again, time.backward)
            for layer in range(first, stop)
            if layer in by_layer
        ]
        if stop == layers:
            events.append(time.loss)
        return GroupLives(
            _sum(stored + (last if stop == layers else [])),
            sum(buffer.size for buffer in last if buffer.name != VALUE and stop < layers),
            _moments(own, events),
            tuple(layer - first for layer in range(first, stop) if layer in time.again),
        )

    def _buffers(
        self, groups: list[int], group: Group, sliced: Forms, cut: Sequence[Stage]
    ) -> list[Buffer]:
        """Of tensors that the group or a later one has to do with, each of one cell."""
        part = _cells(self._network, groups, group, sliced)
        # The gradients of earlier tensors may be in use while the group computes.
        tensors = {t for t in range(group.first) if self._last_reader.get(t, 0) >= group.first}
        tensors.update(range(group.first, group.stop + 1))
        entries = pass_entries(self._network, part, cut, self._itemsize, tensors=tensors)
        # What exists once on a device is not of its tiles.
        return [b for b in sized(entries, self._network, part, 1) if not b.common]


@lru_cache(8)
def network_lives(network: Network, itemsize: int) -> Lives:
    """The lives of a network's groups, for all that plan it."""
    return Lives(network, itemsize)


def _cells(network: Network, groups: list[int], group: Group, sliced: Forms) -> TilePart:
    """A part that holds one cell of every tensor, and one channel of those divided by them."""
    ranges = group_ranges(groups, len(network.layers))
    written = range(group.first + 1, group.stop + 1) if group.filters else ()
    copied = network.layers[group.first].inputs if group.filters else sliced
    copies = {tensor: _CELL for tensor in copied if tensor}
    return TilePart(
        0,
        (_CELL,) * len(network.shapes),
        (_CELL,) * len(network.shapes),
        tuple(GroupNeeds(a, b, (_CELL,) * (b - a), {}) for a, b in ranges),
        (),
        dict.fromkeys((*sliced, *written), (0, 1)),
        {groups.index(group.first): copies} if copies else {},
    )


def _present(buffer: Buffer, first: int, stop: int) -> bool:
    """Whether a buffer is in use only because of a group, while that group computes."""
    if buffer.group is not None:
        return True
    if buffer.tensor > first:
        return buffer.tensor <= stop
    return buffer.name == DELTA or (buffer.tensor == first and buffer.name == VALUE)


def _moments(buffers: Sequence[Buffer], events: Iterable[int]) -> tuple[PerCell, ...]:
    """What is in use at the events, but for those at which less is than at another."""
    # By event, a bit for each buffer.
    spans = [(buffer.events, 1 << number) for number, buffer in enumerate(buffers)]
    used = {sum(bit for own, bit in spans if own >> event & 1) for event in events}
    return tuple(
        _sum(buffer for number, buffer in enumerate(buffers) if some >> number & 1)
        for some in used
        if not any(some & other == some != other for other in used)
    )


def _sum(buffers: Iterable[Buffer]) -> PerCell:
    found: dict[int, int] = defaultdict(int)
    for buffer in buffers:
        found[_key(buffer)] += buffer.size
    return dict(found)


def _key(buffer: Buffer) -> int:
    return buffer.tensor if buffer.group is None else ~buffer.tensor
