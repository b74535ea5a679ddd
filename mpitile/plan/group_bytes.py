"""Bytes of every possible fused group on one device: what the planner holds against its memory.

The sums of groups are close to what `mpitile.plan.bytes` finds for a whole plan, and cheap.
They leave out what two groups have to do with each other, but for one that fetches
the last output of the one before it: a tensor that several groups fetch counts with the first
one's halo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpitile.network.spec import Network
from mpitile.plan.bytes import STAGES, Demand
from mpitile.plan.exchange_times import ExchangeTimes
from mpitile.plan.group_lives import Lives, PerCell
from mpitile.plan.reach import Interval, Intervals, Reach, Reached

# Number of rows and of columns of a tile.
Place = tuple[int, int]


class GroupMemory(NamedTuple):
    """Bytes on a device because of a group.

    Attributes
    ----------
    stored : between forward and backward, but for the last output.
    most : while it computes, what it stores included.
    always : in buffers that outlive passes: of messages and images.
    handed : for each byte per cell that the group before keeps with its last output, on
        the cells that this one fetches.
    keeps : those bytes per cell of the group itself.
    """

    stored: int
    most: int
    always: int
    handed: int
    keeps: int


class _Cells(NamedTuple):
    """By tile: cells of a layer's output, and those held of tensors from outside its group."""

    computed: list[int]
    held: dict[int, list[int]]
    messages: list[int]


class GroupBytes:
    """The groups of a network on the tiles that one device computes.

    Parameters
    ----------
    rows, columns : the axes of the tiling.
    places : of the tiles of the device's ranks.
    images : of a pass on one team.
    lives : of the network's groups.
    """

    def __init__(
        self,
        network: Network,
        rows: Reach,
        columns: Reach,
        exchanges: ExchangeTimes,
        places: Sequence[Place],
        images: int,
        demand: Demand,
        lives: Lives,
    ) -> None:
        self._network, self._places = network, places
        self._rows, self._columns, self._exchanges = rows, columns, exchanges
        self._images, self._demand = images, demand
        self._walks: dict[int, dict[int, _Cells]] = {}
        self._owned: dict[int, list[int]] = {}
        self._lives = lives

    def group(self, first: int, stop: int, recompute: bool) -> GroupMemory:
        """The bytes of layers ``first .. stop - 1`` as one group."""
        lives = self._lives.of(first, stop, recompute)
        walk = self._walk(stop)
        start = walk[first]
        cells = {layer + 1: walk[layer].computed for layer in range(first, stop)}
        for tensor in {first, *(t for moment in lives.moments for t in moment if t <= first)}:
            cells[tensor] = start.held.get(tensor) or self._own(tensor)
        stored = most = always = handed = 0
        for tile in range(len(self._places)):
            stored += _bytes(lives.stored, cells, tile) + lives.handed * cells[stop][tile]
            most += max(_bytes(moment, cells, tile) for moment in lives.moments)
            always += self._always(start, tile)
            handed += cells[first][tile] - self._own(first)[tile]
        images = self._images
        return GroupMemory(
            images * stored, images * most, images * always, images * handed, lives.handed
        )

    def again(self, first: int, stop: int) -> tuple[int, ...]:
        """The layers that a recomputing group computes twice, counted from its first."""
        return self._lives.of(first, stop, True).again

    def _always(self, start: _Cells, tile: int) -> int:
        """Bytes for each image of message buffers, and of the image and where it is read into."""
        copies = 1 + (STAGES * self._demand.feeders if self._demand.readers == "all" else 0)
        image = start.held[0][tile] * self._network.shape(0).channels if 0 in start.held else 0
        return (start.messages[tile] + copies * image) * self._demand.itemsize

    def _own(self, tensor: int) -> list[int]:
        if tensor not in self._owned:
            rows, columns = self._rows.owned(tensor), self._columns.owned(tensor)
            self._owned[tensor] = self._counted(rows, columns)
        return self._owned[tensor]

    def _walk(self, stop: int) -> dict[int, _Cells]:
        """For each layer, as the first of a group with this stop."""
        if stop not in self._walks:
            both = zip(self._rows.back_from(stop), self._columns.back_from(stop), strict=True)
            self._walks[stop] = {
                layer: self._cells(rows, columns) for (layer, rows), (_, columns) in both
            }
        return self._walks[stop]

    def _cells(self, rows: Reached, columns: Reached) -> _Cells:
        held = {
            tensor: self._counted(
                self._rows.held(tensor, fetched),
                self._columns.held(tensor, columns.fetched[tensor]),
            )
            for tensor, fetched in rows.fetched.items()
        }
        messages = [0] * len(self._places)
        for tensor, fetched in rows.fetched.items():
            if tensor:
                moved = self._exchanges.cells(tensor, fetched, columns.fetched[tensor])
                for tile, place in enumerate(self._places):
                    received, sent = moved[place]
                    messages[tile] += (received + sent) * self._network.shape(tensor).channels
        return _Cells(self._counted(rows.computed, columns.computed), held, messages)

    def _counted(self, rows: Intervals, columns: Intervals) -> list[int]:
        return [_length(rows[y]) * _length(columns[x]) for y, x in self._places]


def _bytes(per_cell: PerCell, cells: dict[int, list[int]], tile: int) -> int:
    return sum(size * cells[tensor][tile] for tensor, size in per_cell.items())


def _length(interval: Interval) -> int:
    return max(0, interval[1] - interval[0])
