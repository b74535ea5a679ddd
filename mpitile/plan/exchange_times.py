"""Seconds of a group's exchange, added up by rank and device without listing its messages."""

from __future__ import annotations

from collections.abc import Mapping

from mpitile.network.spec import Network
from mpitile.plan.cost import Cost
from mpitile.plan.plan import Plan
from mpitile.plan.reach import Intervals, Reach


class ExchangeTimes:
    """The exchanges of a grid on a cluster.

    What `mpitile.plan.cost.Cost.exchange` says of the messages between all pairs of ranks,
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
        device_of = cost.cluster.device_of
        tiles = plan.grid.tiles
        # For each rank its tile, its device, and the places of its team's others there.
        self._ranks = []
        for rank in range(plan.ranks):
            team, device = rank - rank % tiles, device_of(rank)
            mates = [t for t in range(tiles) if device_of(team + t) == device and team + t != rank]
            self._ranks.append((rank % tiles, device, [self._places[mate] for mate in mates]))

    def seconds(
        self, rows: Mapping[int, Intervals], columns: Mapping[int, Intervals]
    ) -> tuple[float, float]:
        """Seconds on the links, and of packing and unpacking on the slowest rank.

        Parameters
        ----------
        rows, columns : what the grid's rows and columns fetch of each tensor.
        """
        if not any(rows):
            return 0.0, 0.0
        ranks = len(self._ranks)
        into, out, own_into, own_out = ([0.0] * ranks for _ in range(4))
        for tensor, fetched in rows.items():
            # Tiles read the image itself.
            if tensor == 0:
                continue
            self._add(tensor, fetched, columns[tensor], into, out, own_into, own_out)
        cluster = self._cost.cluster
        links_in, links_out = [0.0] * len(cluster.devices), [0.0] * len(cluster.devices)
        packing = 0.0
        for rank, (_, device, _) in enumerate(self._ranks):
            links_in[device] += into[rank] - own_into[rank]
            links_out[device] += out[rank] - own_out[rank]
            packing = max(packing, self._cost.pack(device, into[rank] + out[rank]))
        seconds = 0.0
        busiest = max(*links_in, *links_out)
        if busiest:
            shared = cluster.medium == "shared"
            seconds = cluster.between.seconds(sum(links_out) if shared else busiest)
        inside = max(*own_into, *own_out)
        if inside:
            seconds = max(seconds, cluster.inside.seconds(inside))
        return seconds, packing

    def _add(
        self,
        tensor: int,
        rows: Intervals,
        columns: Intervals,
        into: list[float],
        out: list[float],
        own_into: list[float],
        own_out: list[float],
    ) -> None:
        """Add a tensor's bytes that each rank receives and sends, in all and on its device."""
        over_rows = self._rows.overlaps(tensor, rows)
        over_columns = self._columns.overlaps(tensor, columns)
        factor = self._channels[tensor] * self._cell_bytes
        moved = self._moved(over_rows, over_columns)
        for rank, (tile, _, mates) in enumerate(self._ranks):
            place = self._places[tile]
            received, sent = moved[place]
            into[rank] += factor * received
            out[rank] += factor * sent
            y, x = place
            row, column = over_rows[y], over_columns[x]
            received = sent = 0
            for v, u in mates:
                received += row[v] * column[u]
                sent += over_rows[v][y] * over_columns[u][x]
            own_into[rank] += factor * received
            own_out[rank] += factor * sent

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
