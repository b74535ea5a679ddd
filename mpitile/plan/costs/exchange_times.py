"""Seconds of a group's exchange, added up by rank and device without listing its messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from types import MappingProxyType
from typing import NamedTuple

from mpitile.network.spec import Network
from mpitile.plan.clusters.wires import EAGER_BYTES
from mpitile.plan.costs.alike import alike_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.reach import Interval, Intervals, Reach
from mpitile.plan.plan import Plan

_NOTHING: Mapping[int, Sequence[int]] = MappingProxyType({})


class Exchange(NamedTuple):
    """An exchange in one direction.

    Attributes
    ----------
    link : seconds on the links until the last message has arrived.
    copy : seconds of packing and unpacking on the slowest rank.
    eager : whether messages travel while their ranks compute.
    """

    link: float
    copy: float
    eager: bool

    @property
    def seconds(self) -> float:
        return self.link + self.copy


class _Load:
    """Bytes that a tile receives and sends, of how many messages, and of the largest of them."""

    __slots__ = ("into", "largest", "out", "peers")

    def __init__(self) -> None:
        self.into = self.out = self.peers = self.largest = 0


class _Inside:
    """Bytes that the tiles of a crew send to each other."""

    def __init__(self, tiles: Sequence[int]) -> None:
        self.into = dict.fromkeys(tiles, 0)
        self.out = dict.fromkeys(tiles, 0)

    def add(self, target: int, source: int, size: int) -> None:
        self.into[target] += size
        self.out[source] += size


class _Line(NamedTuple):
    """A row or column of the grid: what it fetches of a tensor, and what others fetch of its own.

    Attributes
    ----------
    fetched, asked : along the axis, its own among it.
    own : what it fetches of its own.
    sources, targets, itself : of how many lines each of these is.
    largest, elsewhere : the most that it fetches of one line, and of another one.
    """

    fetched: int
    asked: int
    own: int
    sources: int
    targets: int
    itself: int
    largest: int
    elsewhere: int


# For each line of an axis that fetches, how much of which lines.
_Overlaps = Sequence[Mapping[int, int]]


class ExchangeTimes:
    """The exchanges of a grid on a cluster.

    What `mpitile.plan.costs.cost.Cost.exchange` says of the messages between all pairs of ranks,
    the slowest rank's: overlaps of boxes are products, so that sums over peers are, too.

    Parameters
    ----------
    plan : its grid and number of replicas.
    rows, columns : the axes of its tiling.
    images : of a pass on one team.
    """

    def __init__(
        self, network: Network, cost: Cost, plan: Plan, rows: Reach, columns: Reach, images: int
    ) -> None:
        self._cost = cost
        self._rows, self._columns = rows, columns
        self._channels = [shape.channels for shape in network.shapes]
        self._cell_bytes = images * cost.itemsize
        self._places = [plan.grid.position(tile) for tile in range(plan.grid.tiles)]
        self._alike = alike_devices(cost, plan)
        self._known: dict[tuple, Exchange] = {}
        # By axis, tensor and what is fetched.
        self._axes: dict[tuple[bool, int, Intervals], tuple[_Overlaps, list[_Line]]] = {}
        self._crews = list({crew.tiles for alike in self._alike for crew in alike.crews})
        # Which tile computes on a device of which speed.
        self._pairs = {(alike.device, tile) for alike in self._alike for tile in alike.tiles()}

    def seconds(
        self,
        rows: Mapping[int, Intervals],
        columns: Mapping[int, Intervals],
        sliced: Mapping[int, Sequence[int]] = _NOTHING,
    ) -> Exchange:
        """Of an exchange of what the grid's rows and columns fetch of each tensor.

        Parameters
        ----------
        sliced : how many channels each tile's rank owns of tensors that are divided by them.
        """
        # Many groups fetch the same.
        channels = ((tensor, tuple(owned)) for tensor, owned in sliced.items())
        key = (*rows.items(),), (*columns.items(),), (*channels,)
        if key not in self._known:
            self._known[key] = self._seconds(rows, columns, sliced)
        return self._known[key]

    def _seconds(
        self,
        rows: Mapping[int, Intervals],
        columns: Mapping[int, Intervals],
        sliced: Mapping[int, Sequence[int]],
    ) -> Exchange:
        loads = [_Load() for _ in self._places]
        insides = {tiles: _Inside(tiles) for tiles in self._crews}
        for tensor, fetched in rows.items():
            # Tiles read the image themselves.
            if tensor in sliced:
                self._add_sliced(sliced[tensor], fetched, columns[tensor], loads, insides)
            elif tensor:
                self._add(tensor, fetched, columns[tensor], loads, insides)
        if not any(load.peers for load in loads):
            return Exchange(0.0, 0.0, False)
        out, into = self._between_devices(loads, insides)
        seconds = self._cost.between_devices(out, into)
        inside = max(max(*of.into.values(), *of.out.values()) for of in insides.values())
        if inside:
            seconds = max(seconds, self._cost.cluster.inside.seconds(inside))
        copying = max(
            self._cost.pack(device, load.into + load.out, load.peers)
            for device, load in ((device, loads[tile]) for device, tile in self._pairs)
        )
        return Exchange(seconds, copying, max(load.largest for load in loads) <= EAGER_BYTES)

    def _between_devices(
        self, loads: Sequence[_Load], insides: Mapping[tuple[int, ...], _Inside]
    ) -> tuple[list[int], list[int]]:
        """Bytes that leave each device, and that reach it."""
        outer = {
            tiles: (
                sum(loads[tile].out for tile in tiles) - sum(of.out.values()),
                sum(loads[tile].into for tile in tiles) - sum(of.into.values()),
            )
            for tiles, of in insides.items()
        }
        out: list[int] = []
        into: list[int] = []
        for alike in self._alike:
            out += [sum(outer[crew.tiles][0] for crew in alike.crews)] * alike.count
            into += [sum(outer[crew.tiles][1] for crew in alike.crews)] * alike.count
        return out, into

    def _add(
        self,
        tensor: int,
        rows: Intervals,
        columns: Intervals,
        loads: Sequence[_Load],
        insides: Mapping[tuple[int, ...], _Inside],
    ) -> None:
        """Add what each tile receives and sends of a tensor."""
        over_rows, down = self._along(self._rows, tensor, rows)
        over_columns, across = self._along(self._columns, tensor, columns)
        factor = self._channels[tensor] * self._cell_bytes
        for (y, x), load in zip(self._places, loads, strict=True):
            row, column = down[y], across[x]
            received, sent = _moved(row, column)
            load.into += factor * received
            load.out += factor * sent
            peers = row.sources * column.sources + row.targets * column.targets
            load.peers = max(load.peers, peers - 2 * row.itself * column.itself)
            largest = max(row.elsewhere * column.largest, row.largest * column.elsewhere)
            load.largest += factor * largest
        for tiles, of in insides.items():
            for target, source in permutations(tiles, 2):
                (y, x), (v, u) = self._places[target], self._places[source]
                if v in over_rows[y] and u in over_columns[x]:
                    of.add(target, source, factor * over_rows[y][v] * over_columns[x][u])

    def _add_sliced(
        self,
        channels: Sequence[int],
        rows: Intervals,
        columns: Intervals,
        loads: Sequence[_Load],
        insides: Mapping[tuple[int, ...], _Inside],
    ) -> None:
        """The same of one divided by channels: each tile needs its box from all others."""
        boxes = [_length(rows[y]) * _length(columns[x]) for y, x in self._places]
        cells, every = sum(boxes), sum(channels)
        needing, having = sum(map(bool, boxes)), sum(map(bool, channels))
        widest, most = max(boxes), max(channels)
        for tile, load in enumerate(loads):
            box, own = self._cell_bytes * boxes[tile], self._cell_bytes * channels[tile]
            load.into += box * (every - channels[tile])
            load.out += own * (cells - boxes[tile])
            peers = (having - (own > 0)) * (box > 0) + (needing - (box > 0)) * (own > 0)
            load.peers = max(load.peers, peers)
            load.largest += max(box * most, own * widest)
        for tiles, of in insides.items():
            for target, source in permutations(tiles, 2):
                of.add(target, source, self._cell_bytes * boxes[target] * channels[source])

    def cells(
        self,
        tensor: int,
        rows: Intervals,
        columns: Intervals,
        places: Iterable[tuple[int, int]],
    ) -> list[int]:
        """Cells of a tensor that tiles at these places of the grid receive and send."""
        _, down = self._along(self._rows, tensor, rows)
        _, across = self._along(self._columns, tensor, columns)
        return [sum(_moved(down[y], across[x])) for y, x in places]

    def _along(self, axis: Reach, tensor: int, fetched: Intervals) -> tuple[_Overlaps, list[_Line]]:
        key = (axis is self._rows, tensor, fetched)
        if key not in self._axes:
            overlaps = axis.overlaps(tensor, fetched)
            self._axes[key] = overlaps, _lines(overlaps)
        return self._axes[key]


def _lines(overlaps: _Overlaps) -> list[_Line]:
    asked, targets = [0] * len(overlaps), [0] * len(overlaps)
    for row in overlaps:
        for line, cells in row.items():
            asked[line] += cells
            targets[line] += 1
    return [
        _Line(
            sum(row.values()),
            asked[line],
            row.get(line, 0),
            len(row),
            targets[line],
            int(line in row),
            max(row.values(), default=0),
            max((cells for other, cells in row.items() if other != line), default=0),
        )
        for line, row in enumerate(overlaps)
    ]


def _moved(row: _Line, column: _Line) -> tuple[int, int]:
    """Cells that the tile in a row and column receives and sends."""
    own = row.own * column.own
    return row.fetched * column.fetched - own, row.asked * column.asked - own


def _length(interval: Interval) -> int:
    return max(0, interval[1] - interval[0])
