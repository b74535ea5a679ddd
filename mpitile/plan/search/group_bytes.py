"""Bytes of every possible fused group on one device: what the planner holds against its memory.

The sums of groups are close to what `mpitile.plan.memory.bytes` finds for a whole plan, and cheap.
They leave out what two groups have to do with each other, but for one that fetches
the last output of the one before it: a tensor that several groups fetch counts with the first
one's halo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from mpitile.network.spec import Network
from mpitile.plan.costs.filter_times import FilterTimes
from mpitile.plan.costs.group_times import GroupTimes
from mpitile.plan.costs.reach import Interval, Intervals, Reached
from mpitile.plan.memory.bytes import STAGES, Demand
from mpitile.plan.memory.trained_bytes import TrainedBytes
from mpitile.plan.plan import Plan
from mpitile.plan.search.choices import Forms, Group
from mpitile.plan.search.group_lives import Lives, PerCell


class GroupMemory(NamedTuple):
    """Bytes on a device because of a group.

    Attributes
    ----------
    stored : between forward and backward, but for the last output.
    most : while it computes, what it stores included.
    always : in buffers that outlive passes: of messages, images and what is trained; and in
        whole copies, which exist once for a team's ranks.
    handed : for each byte per cell that the group before keeps with its last output, on
        the cells that this one fetches.
    keeps : those bytes per cell of the group itself.
    staging : in the memory by way of which groups gather whole tensors, one after the other.
    """

    stored: int
    most: int
    always: int
    handed: int
    keeps: int
    staging: int = 0


# By layer, backwards, along rows and along columns.
_Walk = Iterator[tuple[tuple[int, Reached], tuple[int, Reached]]]


class _Cells(NamedTuple):
    """By tile: cells of a layer's output, and those of tensors from outside its group.

    `held` are those in the tensor itself, `fetched` those that the tile needs.
    """

    computed: list[int]
    held: dict[int, list[int]]
    fetched: dict[int, list[int]]
    rows: Mapping[int, Intervals]
    columns: Mapping[int, Intervals]


class GroupBytes:
    """The groups of a network on the tiles that one device computes.

    Parameters
    ----------
    plan : grid, number of replicas and weights.
    times, divided : of the same grid.
    ranks : of the device.
    images : of a pass on one team.
    lives : of the network's groups.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        times: GroupTimes,
        divided: FilterTimes,
        ranks: Sequence[int],
        images: int,
        demand: Demand,
        lives: Lives,
    ) -> None:
        self._network, self._times, self._divided = network, times, divided
        self._tiles = [rank % plan.grid.tiles for rank in ranks]
        self._teams = len({rank // plan.grid.tiles for rank in ranks})
        self._places = [plan.grid.position(tile) for tile in self._tiles]
        # By rank of the device its tile, and how many other devices its team is on.
        self._others = [(rank % plan.grid.tiles, divided.devices_of(rank) - 1) for rank in ranks]
        self._every = [plan.grid.position(tile) for tile in range(plan.grid.tiles)]
        self._images, self._demand = images, demand
        # By stop, what is yet to be walked back through, and what has been.
        self._walks: dict[int, tuple[_Walk, dict[int, _Cells]]] = {}
        self._owned: dict[int, list[int]] = {}
        self._known: dict[tuple[Group, Forms, bool], GroupMemory] = {}
        self._lives = lives
        self._trained = TrainedBytes(network, plan, divided.slices, ranks, demand)

    def group(self, group: Group, sliced: Forms, recompute: bool) -> GroupMemory:
        """The bytes of a group that reads these tensors divided by channels."""
        key = (group, sliced, recompute)
        if key not in self._known:
            self._known[key] = self._find(*key)
        return self._known[key]

    def _find(self, group: Group, sliced: Forms, recompute: bool) -> GroupMemory:
        first, stop, filters = group
        lives = self._lives.of(group, sliced, recompute)
        cells, fetched, messages = (self._whole if filters else self._tiled)(group, sliced)
        for moment in (lives.stored, *lives.moments):
            for tensor in moment:
                if tensor not in cells:
                    cells[tensor] = self._home(tensor, tensor in sliced)
        always = handed = 0
        for tile in range(len(self._places)):
            always += self._always(fetched.get(0), messages[tile], tile)
            if first not in sliced and first in cells:
                handed += cells[first][tile] - self._own(first)[tile]
        stored = lives.handed * sum(cells[stop])
        most = 0
        # Tiles of the same sizes count once.
        for sizes, count in Counter(zip(*cells.values(), strict=True)).items():
            own = dict(zip(cells, sizes, strict=True))
            stored += count * _bytes(lives.stored, own)
            most += count * max(_bytes(moment, own) for moment in lives.moments)
        images = self._images
        if filters:
            always += self._common(first)
        return GroupMemory(
            images * stored,
            images * most,
            images * always + self._trained.of(range(first, stop), filters),
            images * handed,
            lives.handed,
            self._staging(first, sliced) if filters else 0,
        )

    def again(self, group: Group) -> tuple[int, ...]:
        """The layers that a recomputing group computes twice, counted from its first."""
        return self._lives.of(group, frozenset(), True).again

    @cached_property
    def least_behind(self) -> list[int]:
        """By layer, bytes of what is trained in it and behind it, however layers are divided."""
        behind = [0]
        for layer in reversed(self._network.layers):
            ways = [False] + [True] * (layer.output in self._divided.slices)
            behind.append(behind[-1] + min(self._trained.of((layer.index,), way) for way in ways))
        return behind[::-1]

    def trained(self, filters: Collection[int]) -> int:
        """Bytes of what is trained where these layers are filter-parallel."""
        return sum(
            self._trained.of((layer.index,), layer.index in filters)
            for layer in self._network.layers
        )

    def _tiled(
        self, group: Group, sliced: Forms
    ) -> tuple[dict[int, list[int]], dict[int, list[int]], list[int]]:
        """Cells of what a group of tiles holds, of what it fetches, and numbers in messages."""
        first, stop, _ = group
        walk = self._walk(first, stop)
        start = walk[first]
        cells = {layer + 1: walk[layer].computed for layer in range(first, stop)}
        cells[first] = self._home(first, first in sliced)
        for tensor, held in start.held.items():
            if tensor in sliced:
                cells[~tensor] = start.fetched[tensor]
            else:
                cells[tensor] = held
        messages = [0] * len(self._places)
        for tensor, rows in start.rows.items():
            if tensor:
                for tile, moved in enumerate(self._moved(tensor, rows, start, tensor in sliced)):
                    messages[tile] += moved
        return cells, start.held, messages

    def _whole(
        self, group: Group, sliced: Forms
    ) -> tuple[dict[int, list[int]], dict[int, list[int]], list[int]]:
        """The same of a filter-parallel group."""
        first, stop, _ = group
        (tensor,) = self._network.layers[first].inputs
        shape = self._network.shape(tensor)
        whole = [shape.height * shape.width] * len(self._tiles)
        cells = {written: self._home(written, True) for written in range(first + 1, stop + 1)}
        if not tensor:
            return cells, {0: whole}, [0] * len(whole)
        cells[~tensor] = whole
        return cells, {}, [0] * len(whole)

    def _common(self, first: int) -> int:
        """Bytes for each image of whole copies, of which each team has one."""
        (tensor,) = self._network.layers[first].inputs
        shape = self._network.shape(tensor)
        cells = shape.height * shape.width * shape.channels
        return self._teams * cells * self._demand.itemsize if tensor else 0

    def _staging(self, first: int, sliced: Forms) -> int:
        """What the ranks add to shared memory, as `mpitile.plan.gathers` has it."""
        (tensor,) = self._network.layers[first].inputs
        if not tensor:
            return 0
        sizes = self._divided.parts(tensor, tensor in sliced)
        return sum(sum(sizes) + others * sizes[tile] for tile, others in self._others)

    def _moved(self, tensor: int, rows: Intervals, start: _Cells, sliced: bool) -> list[int]:
        """Numbers of a tensor that each of the device's tiles receives and sends."""
        columns = start.columns[tensor]
        if not sliced:
            channels = self._network.shape(tensor).channels
            moved = self._times.exchanges.cells(tensor, rows, columns, self._places)
            return [cells * channels for cells in moved]
        boxes = [_length(rows[y]) * _length(columns[x]) for y, x in self._every]
        slices = self._divided.slices[tensor]
        return [
            boxes[tile] * (sum(slices) - slices[tile]) + slices[tile] * (sum(boxes) - boxes[tile])
            for tile in self._tiles
        ]

    def _always(self, image: list[int] | None, messages: int, tile: int) -> int:
        """Bytes for each image of message buffers, and of the image and where it is read into."""
        copies = 1 + (STAGES * self._demand.feeders if self._demand.readers == "all" else 0)
        pixels = image[tile] * self._network.shape(0).channels if image else 0
        return (messages + copies * pixels) * self._demand.itemsize

    def _home(self, tensor: int, sliced: bool) -> list[int]:
        """What the tiles own of a tensor: cells, or where it is divided cells times channels."""
        if not sliced:
            return self._own(tensor)
        shape, slices = self._network.shape(tensor), self._divided.slices[tensor]
        return [shape.height * shape.width * slices[tile] for tile in self._tiles]

    def _own(self, tensor: int) -> list[int]:
        if tensor not in self._owned:
            rows, columns = self._times.rows.owned(tensor), self._times.columns.owned(tensor)
            self._owned[tensor] = self._counted(rows, columns)
        return self._owned[tensor]

    def _walk(self, first: int, stop: int) -> dict[int, _Cells]:
        """For each layer from `first` on, as the first of a group with this stop."""
        if stop not in self._walks:
            axes = self._times.rows.back_from(stop), self._times.columns.back_from(stop)
            self._walks[stop] = zip(*axes, strict=True), {}
        steps, walk = self._walks[stop]
        while first not in walk:
            (layer, rows), (_, columns) = next(steps)
            walk[layer] = self._cells(rows, columns)
        return walk

    def _cells(self, rows: Reached, columns: Reached) -> _Cells:
        fetched = {
            tensor: self._counted(intervals, columns.fetched[tensor])
            for tensor, intervals in rows.fetched.items()
        }
        held = {
            tensor: self._counted(
                self._times.rows.held(tensor, intervals),
                self._times.columns.held(tensor, columns.fetched[tensor]),
            )
            for tensor, intervals in rows.fetched.items()
        }
        computed = self._counted(rows.computed, columns.computed)
        return _Cells(computed, held, fetched, rows.fetched, columns.fetched)

    def _counted(self, rows: Intervals, columns: Intervals) -> list[int]:
        return [_length(rows[y]) * _length(columns[x]) for y, x in self._places]


def _bytes(per_cell: PerCell, cells: Mapping[int, int]) -> int:
    return sum(size * cells[tensor] for tensor, size in per_cell.items())


def _length(interval: Interval) -> int:
    return max(0, interval[1] - interval[0])
