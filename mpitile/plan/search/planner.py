"""The fastest plan that fits: over grids, replicas, groups, filters and recomputation."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from math import inf

from mpitile.errors import InputError
from mpitile.geometry.needs import group_ranges
from mpitile.geometry.tiling import Grid, parse_grid
from mpitile.plan.by_rule import split_at_whole_inputs, squarest_grid
from mpitile.plan.clusters.devices import cluster_devices, first_devices
from mpitile.plan.clusters.placement import placed
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.predict import Prediction, predict
from mpitile.plan.filters import check_filters, divides_filters, split_at_switches
from mpitile.plan.memory.bytes import plan_bytes
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.search.choices import Group
from mpitile.plan.search.group_lives import network_lives
from mpitile.plan.search.layout import Layout
from mpitile.plan.search.mirrored import mirrored
from mpitile.plan.search.request import AUTO, Measured, Planned, Request, first_ranks
from mpitile.plan.search.tile_weights import tile_weights
from mpitile.plan.sums.completion import goes_beside

# Plans whose passes take longer by less than this are compared step by step.
_NEAR = 1.03
# Layouts whose fastest plans take longer by less than this may be looked at in another order.
_ALIKE = 1.05
# Parts of the sums of gradients, and of handing out new values, that may be seen beside passes.
_EXPOSED = (0.65, 0.15)
# First layer and stop.
Range = tuple[int, int]
# What tiles follow from: the grid, and the weights of its rows and columns.
Tiles = tuple[Grid, tuple[float, ...] | None, tuple[float, ...] | None]


@contextmanager
def _without_collections() -> Iterator[None]:
    """Plans are many small objects and no cycles: looking for these took a sixth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Planner:
    """Answers a request.

    Raises
    ------
    InputError : what is settled in the request does not go together.
    """

    def __init__(self, request: Request) -> None:
        cluster = first_ranks(request.cluster, request.ranks)
        demand = replace(request.demand, devices=cluster_devices(cluster))
        self.request = replace(request, cluster=cluster, demand=demand)
        self.cost = Cost(request.network, cluster, request.demand.itemsize)
        self.lives = network_lives(request.network, request.demand.itemsize)
        self.ranges = self._ranges()
        self._evaluated: dict[Plan, Planned] = {}
        self._predicted: dict[Plan, Prediction] = {}
        self._partitions: dict[Plan, Partition] = {}
        # The first of those with the same tiles.
        self._tilings: dict[Tiles, Partition] = {}
        self._mirrored: dict[Layout, Layout] = {}

    @cached_property
    def layouts(self) -> list[Layout]:
        """All grids and numbers of replicas, those that may be fastest first."""
        mirrors = filter(None, map(self._mirror, self._distinct))
        return sorted((*self._distinct, *mirrors), key=lambda layout: layout.fastest.seconds)

    @cached_property
    def _distinct(self) -> list[Layout]:
        """One of two that are the same but for their rows and columns."""
        mirrors: dict[Plan, Plan | None] = {}
        for base in self._bases():
            for first in mirrors:
                if mirrored(self.request.network, self.cost, first, base):
                    mirrors[first] = base
                    break
            else:
                mirrors[base] = None
        layouts = [Layout(self, base, mirror) for base, mirror in mirrors.items()]
        return sorted(layouts, key=lambda layout: layout.fastest.seconds)

    def _mirror(self, layout: Layout) -> Layout | None:
        """The one whose rows and columns have changed places."""
        if layout.mirror and layout not in self._mirrored:
            self._mirrored[layout] = Layout(self, layout.mirror)
        return self._mirrored.get(layout)

    @_without_collections()
    def best(self) -> Planned | None:
        """The fastest plan that fits every device; None where none does.

        Of those that take about as long by the sum of their groups, it is the one with the
        shortest predicted step; and so are one group and every layer its own on their grids.
        """
        near = self._near()
        if not near:
            return None
        own, chosen = min(near, key=lambda one: self._step_seconds(one[1]))
        devices = first_devices(self.request.cluster, self.request.ranks)
        if self.request.overlap and goes_beside(len(devices)):
            fastest, _ = min(near, key=lambda one: one[1].pass_seconds)
            for layout, planned in self._exposing(fastest):
                if self._step_seconds(planned) < self._step_seconds(chosen):
                    own, chosen = layout, planned
        for layout in dict.fromkeys((*(layout for layout, _ in near), own)):
            chosen = layout.faster_by_rule(chosen)
        return chosen

    def _exposing(self, fastest: Layout) -> Iterator[tuple[Layout, Planned]]:
        """What fits and is ahead where sums of gradients are hidden, in part, beside the passes.

        Of the layout that is fastest where all sums take time, and of the one that is there.
        """
        for exposed in _EXPOSED:
            ahead = min(self._distinct, key=lambda one: one.fastest_exposing(exposed).seconds)
            for layout in dict.fromkeys((fastest, ahead)):
                planned = layout.best_exposing(exposed)
                if planned:
                    yield layout, planned

    def _step_seconds(self, planned: Planned) -> float:
        return self.predict(planned.plan).step_seconds

    def _in_turn(self) -> list[Layout]:
        """The layouts in the order in which they are looked at.

        Where the fastest is too large, the one that may be most easily made to fit comes first
        of those that are about as fast: what is found there need not be looked for elsewhere.
        """
        every = self._distinct
        if every[0].usual.fits:
            return every
        most = _ALIKE * every[0].fastest.seconds
        alike = sum(layout.fastest.seconds <= most for layout in every)
        return sorted(every[:alike], key=lambda layout: layout.usual.excess) + every[alike:]

    def _near(self) -> list[tuple[Layout, Planned]]:
        """The fastest plan of each layout that takes about as long as the fastest of all."""
        found: list[tuple[Layout, Planned]] = []
        limit, doubtful = inf, False
        for first in self._in_turn():
            if first.fastest.seconds >= limit:
                continue
            layout, planned = first, first.best(limit, doubtful)
            # What only just fits may do so with one of both grids alone.
            if not found and planned is None and first.mirror_may_fit():
                layout = self._mirror(first) or first
                planned = layout.best(limit, doubtful)
            doubtful = planned is None
            if planned is not None:
                found.append((layout, planned))
                limit = min(limit, _NEAR * planned.pass_seconds)
        return [(layout, planned) for layout, planned in found if planned.pass_seconds < limit]

    def predict(self, plan: Plan) -> Prediction:
        """The seconds of a step, rank by rank."""
        request = self.request
        if plan not in self._predicted:
            self._predicted[plan] = predict(
                self._partition(plan),
                self.cost,
                request.passes * request.demand.images,
                request.optimizer,
                request.passes,
                request.overlap,
            )
        return self._predicted[plan]

    def evaluate(self, plan: Plan, time: Callable[[], float]) -> Planned:
        """The bytes of a plan as they are allocated, beside its seconds, which `time` finds."""
        if plan not in self._evaluated:
            self._evaluated[plan] = Planned(
                plan, time, lambda: self._measure(plan), self.request.limited
            )
        return self._evaluated[plan]

    def _partition(self, plan: Plan) -> Partition:
        if plan not in self._partitions:
            tiles = plan.grid, plan.row_weights, plan.column_weights
            like = self._tilings.get(tiles)
            self._partitions[plan] = Partition(self.request.network, plan, like)
            self._tilings.setdefault(tiles, self._partitions[plan])
        return self._partitions[plan]

    def _measure(self, plan: Plan) -> Measured:
        request, places = self.request, self.request.cluster
        ranks = plan_bytes(self._partition(plan), request.demand)
        totals = [sum(kinds.values()) for kinds in ranks]
        devices = tuple(
            sum(totals[rank] for rank in places.ranks_of(device))
            for device in range(len(places.devices))
        )
        excess = max(size - request.room(device) for device, size in enumerate(devices))
        return Measured(ranks, devices, excess)

    def _ranges(self) -> frozenset[Range] | None:
        """The groups that the request names; None where it leaves them open."""
        request = self.request
        if not isinstance(request.filters, str):
            self._check_filters(request.filters)
        if isinstance(request.groups, str):
            if not isinstance(request.recompute, str):
                raise InputError(
                    f"tiling.recompute = {list(request.recompute)}: numbers of groups need "
                    "tiling.groups to name these; expected 'auto', 'none' or 'all'"
                )
            return None
        starts = split_at_whole_inputs(request.network, tuple(request.groups))
        if not isinstance(request.filters, str):
            starts = split_at_switches(request.network, starts, request.filters)
        ranges = group_ranges(starts, len(request.network.layers))
        if not isinstance(request.recompute, str):
            for number in request.recompute:
                if not 0 <= number < len(ranges):
                    raise InputError(
                        f"tiling.recompute: there is no group {number}: expected numbers from 0 "
                        f"to {len(ranges) - 1}, 'all' or 'none'"
                    )
        return frozenset(ranges)

    def _check_filters(self, filters: Sequence[int]) -> None:
        try:
            check_filters(self.request.network, filters)
        except InputError as error:
            raise InputError(f"tiling.{error}") from error

    def ways(self, group: Group) -> tuple[bool, ...]:
        """Whether a group may store, and whether it may recompute."""
        wanted = self.request.recompute
        if isinstance(wanted, str):
            return {"none": (False,), "all": (True,)}.get(wanted, (False, True))
        return (sorted(self.ranges or ()).index(group[:2]) in wanted,)

    def allowed(self, group: Group, tiles: int) -> bool:
        """Whether what the request settles leaves this group, to teams of so many tiles."""
        if self.ranges is not None and group[:2] not in self.ranges:
            return False
        wanted = self.request.filters
        if isinstance(wanted, str):
            # One rank of a team has nothing to divide.
            return not group.filters or (wanted == AUTO and tiles > 1)
        inside = [layer in wanted for layer in range(group.first, group.stop)]
        if not group.filters:
            return not any(inside)
        layers = self.request.network.layers
        # A pool among them goes on with the slice before it.
        ends = group.stop not in wanted or divides_filters(layers[group.stop])
        return all(inside) and ends

    def _bases(self) -> Iterator[Plan]:
        """Plans of one group, for each grid and number of replicas that is left open."""
        for replicas in self._replicas():
            for grid in self._grids(self.request.ranks // replicas):
                base = Plan(grid, (0,), replicas)
                yield self._weighted(base)

    def _replicas(self) -> list[int]:
        ranks, images, wanted = (
            self.request.ranks,
            self.request.demand.images,
            self.request.replicas,
        )
        if wanted != AUTO:
            if wanted < 1 or ranks % wanted:
                raise InputError(
                    f"tiling.replicas = {wanted}: expected a positive divisor of the {ranks} ranks"
                )
            return [wanted]
        counts = [n for n in range(1, ranks + 1) if ranks % n == 0 and images % n == 0]
        if self.request.grid != AUTO:
            tiles = parse_grid(self.request.grid).tiles
            counts = [n for n in counts if n * tiles == ranks]
        return counts or [1]

    def _grids(self, tiles: int) -> list[Grid]:
        wanted, shape = self.request.grid, self.request.network.shapes[0]
        if wanted != AUTO:
            grid = parse_grid(wanted)
            if grid.tiles != tiles:
                raise InputError(
                    f"grid {grid} with {self.request.ranks // tiles} replica(s) needs "
                    f"{grid.tiles * (self.request.ranks // tiles)} ranks, but there are "
                    f"{self.request.ranks}"
                )
            return [grid]
        grids = [Grid(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]
        fitting = [g for g in grids if g.rows <= shape.height and g.columns <= shape.width]
        grids = fitting or [squarest_grid(tiles, shape.height, shape.width)]
        device_of, ranks = self.cost.cluster.device_of, self.request.ranks
        return [placed(grid, device_of, ranks, shape.height, shape.width) for grid in grids]

    def _weighted(self, base: Plan) -> Plan:
        request = self.request
        rows, columns = request.row_weights, request.column_weights
        if rows is None and columns is None:
            images = request.demand.images // base.replicas
            rows, columns = tile_weights(request.network, self.cost, base, images)
        return replace(base, row_weights=rows, column_weights=columns)
