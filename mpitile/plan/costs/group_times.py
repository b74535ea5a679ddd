"""Seconds of every possible fused group on one grid: what the planner adds up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

from mpitile.network import receptive
from mpitile.network.merging import merged_pools
from mpitile.network.receptive import whole_input_layers
from mpitile.network.spec import Network
from mpitile.plan.clusters.cluster import OPERATIONS
from mpitile.plan.costs.alike import alike_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.exchange_times import ExchangeTimes
from mpitile.plan.costs.reach import Intervals, Reach, Reached
from mpitile.plan.costs.sum_times import SumTimes
from mpitile.plan.partition import plan_tiling
from mpitile.plan.plan import Plan

# Different tiles may be the slowest in different layers: what seems to take longer by less
# than this may not.
_MARGIN = 1.05
# Groups of up to so many layers are looked at first.
_FEW = 6


# Of each tensor, what every row or column of the grid fetches.
_Fetched = Mapping[int, Intervals]


class GroupSeconds(NamedTuple):
    """One pass through a group on its slowest rank.

    Attributes
    ----------
    forward, backward : computing.
    exchange : the messages at its start, and packing them.
    adjoint : those on their way back.
    hidden : of the messages back, while the first layer's weight gradient is computed.
    again : for each of its layers, computing it forward once more.
    sums : of its gradients over ranks, with the weights' update.
    statistics : batch norm's sums over ranks.
    """

    forward: float
    backward: float
    exchange: float
    adjoint: float
    hidden: float
    again: tuple[float, ...]
    sums: float = 0.0
    statistics: float = 0.0

    @property
    def stored(self) -> float:
        """Of a group that keeps its inner activations."""
        return self.own + self.sums + self.statistics

    @property
    def own(self) -> float:
        """The same without sums."""
        return self.forward + self.backward + self.exchange + self.adjoint - self.hidden

    def recomputed(self, layers: Iterable[int]) -> float:
        """Of one that computes some of its layers, counted from its first, a second time."""
        return self.stored + sum(self.again[layer] for layer in layers)


class _Tile(NamedTuple):
    """A tile that may be the slowest of a group, and a device that computes it."""

    row: int
    column: int
    device: int


class GroupTimes:
    """The groups of a network under one grid and number of replicas.

    Groups never reach over a layer that needs its whole input: it has to start one.

    Parameters
    ----------
    plan : grid, replicas and weights; its groups do not matter.
    images : of a pass on one team.
    every : whether groups are wanted that take longer than their layers one by one. They may
        save memory, where their inner activations are computed again.

    Attributes
    ----------
    groups : of tiles, by first layer and stop, where what they fetch is tiled, too.
    rows, columns : the axes of the tiling.
    sums : what sums over ranks take.
    """

    def __init__(
        self,
        network: Network,
        cost: Cost,
        plan: Plan,
        images: int,
        every: bool = False,
        passes: int = 1,
        optimizer: str = "sgd",
    ) -> None:
        self._network, self._cost, self._images, self._every = network, cost, images, every
        tiling = plan_tiling(network, plan)
        layers, sizes = receptive.geometry(network), receptive.sizes(network)
        self.rows = Reach(layers, [height for height, _ in sizes], tiling.rows, True)
        self.columns = Reach(layers, [width for _, width in sizes], tiling.columns, False)
        self.exchanges = ExchangeTimes(network, cost, plan, self.rows, self.columns, images)
        self.sums = SumTimes(network, cost, plan, passes, optimizer)
        self._tiles = _tiles(cost, plan)
        self._pools = merged_pools(network, ())
        self._known: dict[tuple[int, int, int, int, bool], tuple[float, float, float]] = {}
        self._layer_sums: dict[int, tuple[float, float]] = {}
        self._find_groups()

    def with_every(self) -> GroupTimes:
        """The same with all groups."""
        found = copy(self)
        found._every = True
        found._find_groups()
        return found

    def _find_groups(self) -> None:
        self.groups: dict[tuple[int, int], GroupSeconds] = {}
        # What each of them fetches, by rows and by columns, and the seconds of weight gradients.
        self._fetched: dict[tuple[int, int], tuple[_Fetched, _Fetched, float]] = {}
        forced = (0, *whole_input_layers(self._network))
        for stop in range(1, len(self._network.layers) + 1):
            least = max(first for first in forced if first < stop)
            near = least if self._every else max(least, stop - _FEW)
            # Long groups are hardly ever wanted, and take a while to be looked at.
            if self._add_groups(stop, near) and near > least:
                self._add_groups(stop, least)

    def _add_groups(self, stop: int, least: int) -> bool:
        """Groups that end before layer `stop` and start at `least` or later.

        Returns
        -------
        Whether longer ones may be wanted, too.
        """
        rows = dict(self.rows.back_from(stop, least))
        columns = dict(self.columns.back_from(stop, least))
        tiles = _candidates(
            self._tiles,
            [_lengths(reached) for reached in rows.values()],
            [_lengths(reached) for reached in columns.values()],
        )
        sums = [_Sum(self, tile, least) for tile in tiles]
        # What the layers take in groups of their own, and what their sums do in any group.
        apart = added = statistics = 0.0
        for first, reached in rows.items():
            across = columns[first]
            for one in sums:
                one.step(first, reached, across)
            exchange = self.exchanges.seconds(reached.fetched, across.fetched)
            weights = max(one.weights for one in sums)
            own_sums, own_statistics = self._sums_of(first)
            added, statistics = added + own_sums, statistics + own_statistics
            group = self.groups[first, stop] = GroupSeconds(
                max(one.forward for one in sums),
                max(one.backward for one in sums),
                exchange.seconds,
                exchange.seconds,
                min(exchange.link, weights) if exchange.eager else 0.0,
                tuple(map(max, zip(*(reversed(one.again) for one in sums), strict=True))),
                added,
                statistics,
            )
            self._fetched[first, stop] = reached.fetched, across.fetched, weights
            alone = self.groups[first, first + 1]
            apart += alone.own
            # Longer groups repeat all of this, and more; but a pool may cost less together with
            # the convolution before it.
            final = not self._every and first not in self._pools
            if final and group.forward + group.backward > _MARGIN * apart:
                return False
        return True

    def reading(self, first: int, stop: int, sliced: Mapping[int, Sequence[int]]) -> GroupSeconds:
        """A group of tiles where some of what it fetches is divided by channels.

        Parameters
        ----------
        sliced : how many channels each tile's rank owns of these tensors.
        """
        group, (rows, columns, weights) = self.groups[first, stop], self._fetched[first, stop]
        exchange = self.exchanges.seconds(rows, columns, sliced)
        return group._replace(
            exchange=exchange.seconds,
            adjoint=exchange.seconds,
            hidden=min(exchange.link, weights) if exchange.eager else 0.0,
        )

    def fetched(self, first: int, stop: int) -> Collection[int]:
        """The tensors that a group of tiles reads from outside."""
        return self._fetched[first, stop][0].keys()

    def _sums_of(self, layer: int) -> tuple[float, float]:
        if layer not in self._layer_sums:
            channels = self._network.layers[layer].output_shape.channels
            statistics = self.sums.statistics(layer, channels)
            self._layer_sums[layer] = self.sums.tiled(layer), statistics
        return self._layer_sums[layer]

    def layer(
        self, device: int, layer: int, rows: int, columns: int, merged: bool
    ) -> tuple[float, float, float]:
        """Seconds forward, backward, and of the latter for weights, of a layer's box."""
        key = (device, layer, rows, columns, merged)
        seconds = self._known.get(key)
        if seconds is None:
            box = (self._images, rows, columns, merged)
            forward, inputs, weights = (
                self._cost.compute(device, layer, name, *box) for name in OPERATIONS
            )
            seconds = self._known[key] = forward, inputs + weights, weights
        return seconds

    def merges(self, layer: int, first: int) -> bool:
        """Whether a layer is a pool that joins the convolution before it in a group."""
        return layer in self._pools and layer > first


class _Sum:
    """Seconds of one tile in the groups that stop at the same layer, as they grow forward."""

    def __init__(self, times: GroupTimes, tile: _Tile, least: int) -> None:
        self._times, self._tile, self._least = times, tile, least
        self._behind = (0.0, 0.0)
        # A pool whose convolution is not in the group yet: its number and its box.
        self._pool: tuple[int, int, int] | None = None
        self.forward = self.backward = self.weights = 0.0
        self.again: list[float] = []

    def step(self, layer: int, rows: Reached, columns: Reached) -> None:
        """Take in the layer before those that have been taken in."""
        tile, times = self._tile, self._times
        box = _length(rows.computed[tile.row]), _length(columns.computed[tile.column])
        merged = self._pool is not None
        if self._pool is not None:
            layer, *box = self._pool
            # The pool is computed with its convolution now, not on its own.
            self.again[-1] = 0.0
        self._pool = None
        own = times.layer(tile.device, layer, *box, merged)
        forward, backward, self.weights = own
        self.forward, self.backward = self._behind[0] + forward, self._behind[1] + backward
        self.again.append(forward)
        if times.merges(layer, self._least) and not merged:
            self._pool = (layer, *box)
        else:
            self._behind = (self.forward, self.backward)


def _tiles(cost: Cost, plan: Plan) -> tuple[_Tile, ...]:
    """Each tile with one device for every speed at which a replica computes it."""
    found: dict[_Tile, None] = {}
    for alike in alike_devices(cost, plan):
        for tile in alike.tiles():
            found[_Tile(*plan.grid.position(tile), alike.device)] = None
    return tuple(found)


def _candidates(
    tiles: Sequence[_Tile], rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]
) -> list[_Tile]:
    """Without the tiles that are nowhere larger than another one of the same speed.

    `rows` and `columns` hold for each layer the parts' lengths.
    """
    # Tiles of the same lengths count once.
    down, across = _firsts(rows), _firsts(columns)
    below_rows, below_columns = _dominance(rows, set(down)), _dominance(columns, set(across))
    left: list[_Tile] = []
    for tile in {_Tile(down[tile.row], across[tile.column], tile.device): None for tile in tiles}:
        covered = any(
            other.device == tile.device
            and other.row in below_rows[tile.row]
            and other.column in below_columns[tile.column]
            for other in left
        )
        if not covered:
            left = [
                other
                for other in left
                if not (
                    other.device == tile.device
                    and tile.row in below_rows[other.row]
                    and tile.column in below_columns[other.column]
                )
            ]
            left.append(tile)
    return left


def _firsts(lengths: Sequence[Sequence[int]]) -> list[int]:
    """For each part, the first one with the same lengths."""
    first: dict[tuple[int, ...], int] = {}
    return [first.setdefault(own, part) for part, own in enumerate(zip(*lengths, strict=True))]


def _dominance(
    lengths: Sequence[Sequence[int]], parts: Collection[int]
) -> dict[int, frozenset[int]]:
    """For each of these parts, those that are nowhere shorter."""
    profiles = {part: [line[part] for line in lengths] for part in parts}
    return {
        part: frozenset(
            other
            for other, longer in profiles.items()
            if all(b >= a for a, b in zip(profile, longer, strict=True))
        )
        for part, profile in profiles.items()
    }


def _length(interval: tuple[int, int]) -> int:
    return max(0, interval[1] - interval[0])


def _lengths(reached: Reached) -> list[int]:
    return [_length(interval) for interval in reached.computed]
