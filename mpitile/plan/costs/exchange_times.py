"""Seconds of a group's exchange, added up by rank and device without listing its messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from mpitile.network.spec import Network
from mpitile.plan.clusters.wires import EAGER_BYTES
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
    """Bytes that a rank receives and sends, in all and on its device, and how many messages."""

    __slots__ = ("into", "largest", "out", "own_into", "own_out", "peers")

    def __init__(self) -> None:
        self.into = self.out = self.own_into = self.own_out = self.largest = 0.0
        self.peers = 0


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
        self._tiles = {place: tile for tile, place in enumerate(self._places)}
        device_of = cost.cluster.device_of
        tiles = plan.grid.tiles
        # For each rank its tile, its device, and the places of its team's others there.
        self._ranks = []
        for rank in range(plan.ranks):
            team, device = rank - rank % tiles, device_of(rank)
            mates = [t for t in range(tiles) if device_of(team + t) == device and team + t != rank]
            self._ranks.append((rank % tiles, device, [self._places[mate] for mate in mates]))

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
        loads = [_Load() for _ in self._ranks]
        for tensor, fetched in rows.items():
            # Tiles read the image themselves.
            if tensor in sliced:
                self._add_sliced(sliced[tensor], fetched, columns[tensor], loads)
            elif tensor:
                self._add(tensor, fetched, columns[tensor], loads)
        if not any(load.peers for load in loads):
            return Exchange(0.0, 0.0, False)
        cluster = self._cost.cluster
        links_in, links_out = [0.0] * len(cluster.devices), [0.0] * len(cluster.devices)
        copying = inside = largest = 0.0
        for (_, device, _), load in zip(self._ranks, loads, strict=True):
            links_in[device] += load.into - load.own_into
            links_out[device] += load.out - load.own_out
            size = load.into + load.out
            copying = max(copying, self._cost.pack(device, size, load.peers))
            inside = max(inside, load.own_into, load.own_out)
            largest = max(largest, load.largest)
        seconds = 0.0
        busiest = max(*links_in, *links_out)
        if busiest:
            shared = cluster.medium == "shared"
            seconds = cluster.between.seconds(sum(links_out) if shared else busiest)
        if inside:
            seconds = max(seconds, cluster.inside.seconds(inside))
        return Exchange(seconds, copying, largest <= EAGER_BYTES)

    def _add(
        self, tensor: int, rows: Intervals, columns: Intervals, loads: Sequence[_Load]
    ) -> None:
        """Add what each rank receives and sends of a tensor."""
        over_rows = self._rows.overlaps(tensor, rows)
        over_columns = self._columns.overlaps(tensor, columns)
        factor = self._channels[tensor] * self._cell_bytes
        moved = self._moved(over_rows, over_columns)
        peers = self._moved(_flags(over_rows), _flags(over_columns))
        for (tile, _, mates), load in zip(self._ranks, loads, strict=True):
            y, x = place = self._places[tile]
            received, sent = moved[place]
            load.into += factor * received
            load.out += factor * sent
            load.peers = max(load.peers, sum(peers[place]))
            load.largest += factor * _largest(over_rows[y], y, over_columns[x], x)
            for v, u in mates:
                load.own_into += factor * over_rows[y][v] * over_columns[x][u]
                load.own_out += factor * over_rows[v][y] * over_columns[u][x]

    def _add_sliced(
        self, channels: Sequence[int], rows: Intervals, columns: Intervals, loads: Sequence[_Load]
    ) -> None:
        """The same of one divided by channels: each tile needs its box from all others."""
        boxes = [_length(rows[y]) * _length(columns[x]) for y, x in self._places]
        cells, every = sum(boxes), sum(channels)
        needing, having = sum(map(bool, boxes)), sum(map(bool, channels))
        for (tile, _, mates), load in zip(self._ranks, loads, strict=True):
            box, own = self._cell_bytes * boxes[tile], self._cell_bytes * channels[tile]
            load.into += box * (every - channels[tile])
            load.out += own * (cells - boxes[tile])
            peers = (having - (own > 0)) * (box > 0) + (needing - (box > 0)) * (own > 0)
            load.peers = max(load.peers, peers)
            load.largest += max(box * max(channels), own * max(boxes))
            for place in mates:
                mate = self._tiles[place]
                load.own_into += box * channels[mate]
                load.own_out += own * boxes[mate]

    def cells(
        self, tensor: int, rows: Intervals, columns: Intervals
    ) -> dict[tuple[int, int], tuple[int, int]]:
        """Cells of a tensor that each place of the grid receives and sends."""
        return self._moved(
            self._rows.overlaps(tensor, rows), self._columns.overlaps(tensor, columns)
        )

    def _moved(
        self, over_rows: list[list[int]], over_columns: list[list[int]]
    ) -> dict[tuple[int, int], tuple[int, int]]:
        asked_rows = [sum(column) for column in zip(*over_rows, strict=True)]
        asked_columns = [sum(column) for column in zip(*over_columns, strict=True)]
        held_rows = [sum(row) for row in over_rows]
        held_columns = [sum(row) for row in over_columns]
        found = {}
        for y, x in self._places:
            own = over_rows[y][y] * over_columns[x][x]
            found[y, x] = (
                held_rows[y] * held_columns[x] - own,
                asked_rows[y] * asked_columns[x] - own,
            )
        return found


def _length(interval: Interval) -> int:
    return max(0, interval[1] - interval[0])


def _flags(overlaps: list[list[int]]) -> list[list[int]]:
    return [[int(cells > 0) for cells in row] for row in overlaps]


def _largest(row: list[int], y: int, column: list[int], x: int) -> int:
    """Cells of the largest message to the tile in row y and column x."""
    elsewhere_y = max((cells for part, cells in enumerate(row) if part != y), default=0)
    elsewhere_x = max((cells for part, cells in enumerate(column) if part != x), default=0)
    return max(elsewhere_y * max(column), max(row) * elsewhere_x)
