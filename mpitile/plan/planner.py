"""The fastest plan that fits: over grids, replicas, group borders and recomputation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from math import inf

from mpitile.errors import InputError
from mpitile.geometry.needs import group_ranges
from mpitile.geometry.tiling import Grid, parse_grid
from mpitile.plan.bytes import plan_bytes
from mpitile.plan.choose import split_at_whole_inputs, squarest_grid
from mpitile.plan.cost import Cost
from mpitile.plan.devices import cluster_devices
from mpitile.plan.group_bytes import GroupBytes
from mpitile.plan.group_lives import Lives
from mpitile.plan.group_times import GroupSeconds, GroupTimes
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.predict import Prediction, predict
from mpitile.plan.request import AUTO, Planned, Request, first_ranks
from mpitile.plan.search import Grouping, Range, Ways, cheapest_within, fastest
from mpitile.plan.tile_weights import tile_weights

# Sums of groups may say more than a whole plan takes; what they refuse by less is looked at.
_SLACK = 1.05
# Plans whose passes take longer by less than this are compared step by step.
_NEAR = 1.03


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
        self.lives = Lives(request.network, request.demand.itemsize)
        self.ranges = self._ranges()
        self._evaluated: dict[Plan, Planned] = {}
        self._predicted: dict[Plan, Prediction] = {}

    @cached_property
    def layouts(self) -> list[Layout]:
        """All grids and numbers of replicas, those that may be fastest first."""
        layouts = [Layout(self, base) for base in self._bases()]
        return sorted(layouts, key=lambda layout: layout.fastest.seconds)

    def best(self) -> Planned | None:
        """The fastest plan that fits every device; None where none does.

        Of those that take about as long by the sum of their groups, it is the one with the
        shortest predicted step.
        """
        found: list[Planned] = []
        limit = inf
        for layout in self.layouts:
            if layout.fastest.seconds >= limit:
                break
            planned = layout.best(limit)
            if planned is not None:
                found.append(planned)
                limit = min(limit, _NEAR * planned.pass_seconds)
        if not found:
            # Bounds by the sum of groups may refuse what only just fits.
            lean = [layout.leanest() for layout in self.layouts]
            found = [planned for planned in lean if planned.fits]
            limit = inf
        near = [planned for planned in found if planned.pass_seconds < limit]
        if len(near) < 2:
            return near[0] if near else None
        return min(near, key=lambda planned: self.predict(planned).step_seconds)

    def predict(self, planned: Planned) -> Prediction:
        """The seconds of a step, rank by rank."""
        plan, request = planned.plan, self.request
        if plan not in self._predicted:
            self._predicted[plan] = predict(
                request.network,
                plan,
                self.cost,
                request.passes * request.demand.images,
                request.optimizer,
                request.passes,
                request.overlap,
            )
        return self._predicted[plan]

    def evaluate(self, plan: Plan, pass_seconds: float) -> Planned:
        """The bytes of a plan as they are allocated, beside its seconds."""
        if plan not in self._evaluated:
            request = self.request
            ranks = plan_bytes(Partition(request.network, plan), request.demand)
            totals = [sum(kinds.values()) for kinds in ranks]
            places = request.cluster
            devices = tuple(
                sum(totals[rank] for rank in places.ranks_of(device))
                for device in range(len(places.devices))
            )
            excess = max(size - request.room(device) for device, size in enumerate(devices))
            self._evaluated[plan] = Planned(plan, pass_seconds, ranks, devices, excess)
        return self._evaluated[plan]

    def _ranges(self) -> frozenset[Range] | None:
        """The groups that the request names; None where it leaves them open."""
        request = self.request
        if isinstance(request.groups, str):
            if not isinstance(request.recompute, str):
                raise InputError(
                    f"tiling.recompute = {list(request.recompute)}: numbers of groups need "
                    "tiling.groups to name these; expected 'auto', 'none' or 'all'"
                )
            return None
        starts = split_at_whole_inputs(request.network, tuple(request.groups))
        ranges = group_ranges(starts, len(request.network.layers))
        if not isinstance(request.recompute, str):
            for number in request.recompute:
                if not 0 <= number < len(ranges):
                    raise InputError(
                        f"tiling.recompute: there is no group {number}: expected numbers from 0 "
                        f"to {len(ranges) - 1}, 'all' or 'none'"
                    )
        return frozenset(ranges)

    def ways(self, group: Range) -> tuple[bool, ...]:
        """Whether a group may store, and whether it may recompute."""
        wanted = self.request.recompute
        if isinstance(wanted, str):
            return {"none": (False,), "all": (True,)}.get(wanted, (False, True))
        return (sorted(self.ranges or ()).index(group) in wanted,)

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
                    f"{grid.tiles * (self.request.ranks // tiles)} ranks, but "
                    f"{self.request.ranks} were started"
                )
            return [grid]
        grids = [Grid(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]
        fitting = [g for g in grids if g.rows <= shape.height and g.columns <= shape.width]
        return fitting or [squarest_grid(tiles, shape.height, shape.width)]

    def _weighted(self, base: Plan) -> Plan:
        request = self.request
        rows, columns = request.row_weights, request.column_weights
        if rows is None and columns is None:
            images = request.demand.images // base.replicas
            rows, columns = tile_weights(request.network, self.cost, base, images)
        return replace(base, row_weights=rows, column_weights=columns)


class Layout:
    """One grid and number of replicas.

    Attributes
    ----------
    base : the plan of one group.
    fastest : the grouping of the fewest seconds, whether it fits or not.
    """

    def __init__(self, planner: Planner, base: Plan) -> None:
        self._planner = planner
        self.base = base
        self._images = planner.request.demand.images // base.replicas
        self._layers = len(planner.request.network.layers)
        settled = planner.request.recompute not in (AUTO, "none")
        self._times = self._make_times(every=planner.ranges is not None or settled)
        groups = self._wanted(self._times.groups)
        if settled:
            # Some groups recompute whatever it costs.
            memory = self._memory(0)
            self.fastest = cheapest_within(groups, memory, planner.ways, self._layers, inf)[0]
        else:
            self.fastest = fastest(groups, self._layers)

    def best(self, limit: float = inf) -> Planned | None:
        """The fastest plan of this layout that fits and takes less than `limit` seconds a pass."""
        first = self.planned(self.fastest)
        if first.fits:
            return first
        device, fixed = self._tightest(first)
        room = self._planner.request.room(device) - fixed
        memory, groups = self._memory(device), self._wanted(self._times.groups)
        found = None
        if self._planner.request.recompute == AUTO:
            # What fits without recomputation, and is found at once, bounds what else to look at.
            found = self._within(groups, memory, lambda group: (False,), room, limit)
            limit = found.pass_seconds if found else limit
        ways = self._planner.ways
        found = self._within(groups, memory, ways, room, limit) or found
        return found or self._within(self._all_groups(), memory, ways, room, limit)

    def _within(
        self,
        groups: dict[Range, GroupSeconds],
        memory: GroupBytes,
        ways: Ways,
        room: float,
        limit: float,
    ) -> Planned | None:
        """The fastest grouping that fits every device as a whole."""
        # How much more than the sum of its groups a plan takes, as seen on the latest.
        more = 0.0
        for grouping in cheapest_within(groups, memory, ways, self._layers, room * _SLACK, limit):
            if grouping.size + more > room:
                continue
            found = self.planned(grouping)
            if found.fits:
                return found
            more = found.excess - (grouping.size - room)
        return None

    def leanest(self) -> Planned:
        """The plan of the fewest bytes, whatever time it takes."""
        device, _ = self._tightest(self.planned(self.fastest))
        groups = {
            group: GroupSeconds(0.0, 0.0, 0.0, 0.0, (0.0,) * len(seconds.again))
            for group, seconds in self._all_groups().items()
        }
        memory = self._memory(device)
        found = cheapest_within(groups, memory, self._planner.ways, self._layers, inf)
        leanest = min(found, key=lambda grouping: grouping.size)
        return self.planned(leanest._replace(seconds=self._seconds(leanest, memory)))

    def _seconds(self, grouping: Grouping, memory: GroupBytes) -> float:
        """Of a pass with these groups."""
        groups, seconds = self._all_groups(), 0.0
        ranges = group_ranges(grouping.starts, self._layers)
        for group, again in zip(ranges, grouping.recompute, strict=True):
            seconds += groups[group].recomputed(memory.again(*group) if again else ())
        return seconds

    def planned(self, grouping: Grouping) -> Planned:
        """The layout with these groups, looked at as a whole."""
        flags = grouping.recompute if any(grouping.recompute) else ()
        plan = replace(self.base, groups=grouping.starts, recompute=flags)
        return self._planner.evaluate(plan, grouping.seconds)

    def timed(self, starts: tuple[int, ...]) -> Grouping:
        """These groups, none of which recomputes."""
        groups = self._every.groups
        ranges = group_ranges(starts, self._layers)
        seconds = sum(groups[group].stored for group in ranges)
        return Grouping(seconds, starts, (False,) * len(starts))

    def _all_groups(self) -> dict[Range, GroupSeconds]:
        """Long groups included, where recomputing them may save memory."""
        storing = self._planner.request.recompute == "none"
        return self._wanted((self._times if storing else self._every).groups)

    @cached_property
    def _every(self) -> GroupTimes:
        return self._make_times(every=True)

    def _make_times(self, every: bool) -> GroupTimes:
        planner = self._planner
        return GroupTimes(planner.request.network, planner.cost, self.base, self._images, every)

    def _wanted(self, groups: dict[Range, GroupSeconds]) -> dict[Range, GroupSeconds]:
        ranges = self._planner.ranges
        if ranges is None:
            return groups
        return {group: seconds for group, seconds in groups.items() if group in ranges}

    def _tightest(self, planned: Planned) -> tuple[int, int]:
        """The device that lacks most memory, and the bytes there that groups do not change."""
        request = self._planner.request
        device = max(
            range(len(planned.devices)),
            key=lambda number: planned.devices[number] - request.room(number),
        )
        same = ("weights", "gradients", "optimizer", "workspace")
        ranks = request.cluster.ranks_of(device)
        return device, sum(planned.ranks[rank][kind] for rank in ranks for kind in same)

    def _memory(self, device: int) -> GroupBytes:
        request, times = self._planner.request, self._times
        tiles = [rank % self.base.grid.tiles for rank in request.cluster.ranks_of(device)]
        return GroupBytes(
            request.network,
            times.rows,
            times.columns,
            times.exchanges,
            [self.base.grid.position(tile) for tile in tiles],
            self._images,
            request.demand,
            self._planner.lives,
        )
