"""The fastest plan that fits: over grids, replicas, groups, filters and recomputation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from math import inf

from mpitile.errors import InputError
from mpitile.geometry.needs import group_ranges
from mpitile.geometry.tiling import Grid, parse_grid
from mpitile.plan.bytes import plan_bytes
from mpitile.plan.choices import Choices, Group, Untimed
from mpitile.plan.choose import recompute_flags, split_at_whole_inputs, squarest_grid
from mpitile.plan.cost import Cost
from mpitile.plan.devices import cluster_devices
from mpitile.plan.filter_times import FilterTimes
from mpitile.plan.filters import check_filters, divides_filters, split_at_switches
from mpitile.plan.group_bytes import GroupBytes
from mpitile.plan.group_lives import Lives
from mpitile.plan.group_times import GroupTimes
from mpitile.plan.partition import Partition
from mpitile.plan.placement import placed
from mpitile.plan.plan import Plan
from mpitile.plan.predict import Prediction, predict
from mpitile.plan.request import AUTO, Measured, Planned, Request, first_ranks
from mpitile.plan.search import Grouping, Ways, cheapest_within, fastest
from mpitile.plan.tile_weights import tile_weights

# Sums of groups may say more than a whole plan takes; what they refuse by less is looked at.
_SLACK = 1.05
# Plans whose passes take longer by less than this are compared step by step.
_NEAR = 1.03
# Parts of the sums of gradients that may be seen beside the backward pass.
_EXPOSED = (0.7, 0.4)
# Bytes that follow from which layers are filter-parallel, and those that no group changes.
_TRAINED = ("weights", "gradients", "optimizer")
_FIXED = ("workspace", "sums")
# First layer and stop.
Range = tuple[int, int]


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
        shortest predicted step; and so are one group and every layer its own on their grids.
        """
        found: list[tuple[Layout, Planned]] = []
        limit = inf
        for layout in self.layouts:
            if layout.fastest.seconds >= limit:
                break
            planned = layout.best(limit)
            if planned is not None:
                found.append((layout, planned))
                limit = min(limit, _NEAR * planned.pass_seconds)
        near = [(layout, planned) for layout, planned in found if planned.pass_seconds < limit]
        if not near:
            return None
        candidates = [planned for _, planned in near]
        if self.request.overlap and self.request.ranks > 1:
            # Sums that are hidden beside the backward pass leave other plans ahead.
            for exposed in _EXPOSED:
                candidates += filter(None, (near[0][0].best_exposing(exposed),))
        chosen = min(candidates, key=lambda one: self.predict(one.plan).step_seconds)
        for layout, _ in near:
            chosen = layout.faster_by_rule(chosen)
        return chosen

    def predict(self, plan: Plan) -> Prediction:
        """The seconds of a step, rank by rank."""
        request = self.request
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
            self._evaluated[plan] = Planned(
                plan, pass_seconds, lambda: self._measure(plan), self.request.limited
            )
        return self._evaluated[plan]

    def _measure(self, plan: Plan) -> Measured:
        request, places = self.request, self.request.cluster
        ranks = plan_bytes(Partition(request.network, plan), request.demand)
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
                    f"{grid.tiles * (self.request.ranks // tiles)} ranks, but "
                    f"{self.request.ranks} were started"
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


class Layout:
    """One grid and number of replicas.

    Attributes
    ----------
    base : the plan of one group.
    choices : the groups that may be chosen, but for long ones that take longer than short ones.
    fastest : the grouping of the fewest seconds, whether it fits or not.
    """

    def __init__(self, planner: Planner, base: Plan) -> None:
        self._planner = planner
        self.base = base
        self._images = planner.request.demand.images // base.replicas
        settled = planner.request.recompute not in (AUTO, "none")
        self._times = self._make_times(every=planner.ranges is not None or settled)
        self._divided = FilterTimes(
            planner.request.network, planner.cost, base, self._images, self._times.sums
        )
        self.choices = self._wanted(self._times)
        if settled:
            # Some groups recompute whatever it costs.
            self.fastest = cheapest_within(self.choices, self.memory(0), planner.ways, inf)[0]
        else:
            self.fastest = fastest(self.choices)

    def best(self, limit: float = inf) -> Planned | None:
        """The fastest plan of this layout that fits and takes less than `limit` seconds a pass."""
        return self._fitting(self.planned(self.fastest), self.choices, limit)

    def best_exposing(self, exposed: float) -> Planned | None:
        """The same where this part of the sums of gradients takes time."""
        choices = self._wanted(self._times, exposed=exposed)
        return self._fitting(self.planned(fastest(choices)), choices, inf)

    def _fitting(self, first: Planned, choices: Choices, limit: float) -> Planned | None:
        """The fastest choice that fits, where `first` is the fastest."""
        if first.fits:
            return first
        device = self._tightest(first)
        memory = self.memory(device)
        room = self._planner.request.room(device) - self.fixed(first, memory, device)
        found = None
        if self._planner.request.recompute == AUTO:
            # What fits without recomputation, and is found at once, bounds what else to look at.
            found = self._within(choices, memory, lambda group: (False,), room, limit)
            limit = found.pass_seconds if found else limit
        ways = self._planner.ways
        found = self._within(choices, memory, ways, room, limit) or found
        return found or self._within(self._all_choices, memory, ways, room, limit)

    def faster_by_rule(self, chosen: Planned) -> Planned:
        """One group, or every layer its own, where it fits and its step is predicted shorter."""
        request, network = self._planner.request, self._planner.request.network
        if self._planner.ranges is not None:
            return chosen
        filters = () if isinstance(request.filters, str) else tuple(sorted(set(request.filters)))
        for starts in ((0,), range(len(network.layers))):
            starts = split_at_switches(network, split_at_whole_inputs(network, starts), filters)
            flags = recompute_flags(request.recompute, len(starts))
            plan = replace(self.base, groups=starts, recompute=flags, filters=filters)
            best = self._planner.predict(chosen.plan).step_seconds
            if self._planner.predict(plan).step_seconds < best:
                other = self._planner.evaluate(plan, self.timed(starts, filters).seconds)
                chosen = other if other.fits else chosen
        return chosen

    def _within(
        self, choices: Choices, memory: GroupBytes, ways: Ways, room: float, limit: float
    ) -> Planned | None:
        """The fastest grouping that fits every device as a whole."""
        # How much more than the sum of its groups a plan takes, as seen on the latest.
        more = 0.0
        for grouping in cheapest_within(choices, memory, ways, room * _SLACK, limit):
            if grouping.size + more > room:
                continue
            found = self.planned(grouping)
            if found.fits:
                return found
            more = found.excess - (grouping.size - room)
        return None

    def leanest(self) -> Planned:
        """The plan of the fewest bytes, whatever time it takes."""
        device = self._tightest(self.planned(self.fastest))
        storing = self._planner.request.recompute == "none"
        choices = self._wanted(self._times if storing else self._all_times, Untimed)
        found = cheapest_within(choices, self.memory(device), self._planner.ways, inf)
        return self.planned(min(found, key=lambda grouping: grouping.size))

    def planned(self, grouping: Grouping) -> Planned:
        """The layout with these groups, looked at as a whole."""
        flags = grouping.recompute if any(grouping.recompute) else ()
        plan = replace(self.base, groups=grouping.starts, recompute=flags, filters=grouping.filters)
        return self._planner.evaluate(plan, grouping.seconds)

    def timed(self, starts: Sequence[int], filters: Collection[int] = ()) -> Grouping:
        """These groups, none of which recomputes."""
        ranges = group_ranges(starts, len(self._planner.request.network.layers))
        groups = tuple(Group(*group, group[0] in filters) for group in ranges)
        return Grouping(self._every.total(groups), groups, (False,) * len(groups))

    @cached_property
    def _all_choices(self) -> Choices:
        """Long groups included, where recomputing them may save memory."""
        storing = self._planner.request.recompute == "none"
        return self.choices if storing else self._wanted(self._all_times)

    @cached_property
    def _every(self) -> Choices:
        """All groups, also those that are not wanted."""
        network = self._planner.request.network
        return Choices(network, self._all_times, self._divided, lambda group: True)

    @cached_property
    def _all_times(self) -> GroupTimes:
        return self._make_times(every=True)

    def _make_times(self, every: bool) -> GroupTimes:
        request = self._planner.request
        return GroupTimes(
            request.network,
            self._planner.cost,
            self.base,
            self._images,
            every,
            request.passes,
            request.optimizer,
        )

    def _wanted(
        self, times: GroupTimes, kind: type[Choices] = Choices, exposed: float = 1.0
    ) -> Choices:
        planner = self._planner
        tiles = self.base.grid.tiles
        return kind(
            planner.request.network,
            times,
            self._divided,
            lambda group: planner.allowed(group, tiles),
            exposed,
        )

    def _tightest(self, planned: Planned) -> int:
        """The device that lacks most memory."""
        request = self._planner.request
        return max(
            range(len(planned.devices)),
            key=lambda number: planned.devices[number] - request.room(number),
        )

    def fixed(self, planned: Planned, memory: GroupBytes, device: int) -> int:
        """The bytes on a device that groups do not change."""
        ranks = self._planner.request.cluster.ranks_of(device)
        every = sum(planned.ranks[rank][kind] for rank in ranks for kind in _TRAINED)
        fixed = sum(planned.ranks[rank][kind] for rank in ranks for kind in _FIXED)
        return fixed + every - memory.trained(set(planned.plan.filters))

    def memory(self, device: int) -> GroupBytes:
        """What groups take on a device."""
        request, times = self._planner.request, self._times
        return GroupBytes(
            request.network,
            self.base,
            times,
            self._divided,
            request.cluster.ranks_of(device),
            self._images,
            request.demand,
            self._planner.lives,
        )
