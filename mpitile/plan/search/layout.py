"""One grid and number of replicas: the groups that may be chosen there, and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property, partial
from math import inf
from typing import TYPE_CHECKING

from mpitile.geometry.needs import group_ranges
from mpitile.plan.by_rule import recompute_flags, split_at_whole_inputs
from mpitile.plan.costs.filter_times import FilterTimes
from mpitile.plan.costs.group_times import GroupTimes
from mpitile.plan.filters import split_at_switches
from mpitile.plan.plan import Plan
from mpitile.plan.search.borders import Grouping, fastest
from mpitile.plan.search.choices import TILED, Choices, EveryGroup, Group, Untimed
from mpitile.plan.search.group_bytes import GroupBytes
from mpitile.plan.search.request import AUTO, Planned
from mpitile.plan.search.within import groupings_within

if TYPE_CHECKING:
    from mpitile.plan.search.planner import Planner

# Sums of groups may say more than a whole plan takes; what they refuse by less is looked at.
# They said at most 0.1% more of the networks in jobs/cfg, on 1 to 24 ranks.
_SLACK = 1.01
# Plans that take up to so many times as long as the fastest are looked at first.
_FAR = 1.5
# Bytes that follow from which layers are filter-parallel, and those that no group changes.
_TRAINED = ("weights", "gradients", "optimizer")
_FIXED = ("workspace", "sums")


class Layout:
    """One grid and number of replicas.

    Attributes
    ----------
    base : the plan of one group.
    mirror : that of another grid that it stands for, its rows and columns exchanged.
    choices : the groups that may be chosen, but for long ones that take longer than short ones.
    fastest : the grouping of the fewest seconds, whether it fits or not.
    """

    def __init__(self, planner: Planner, base: Plan, mirror: Plan | None = None) -> None:
        self._planner = planner
        self.base = base
        self.mirror = mirror
        self._images = planner.request.demand.images // base.replicas
        settled = planner.request.recompute not in (AUTO, "none")
        self._times = GroupTimes(
            planner.request.network,
            planner.cost,
            base,
            self._images,
            planner.ranges is not None or settled,
            planner.request.passes,
            planner.request.optimizer,
        )
        self._divided = FilterTimes(
            planner.request.network, planner.cost, base, self._images, self._times.sums
        )
        self.choices = self._wanted(self._times)
        self._settled = settled
        # By the part of the sums of gradients that takes time.
        self._exposing: dict[float, Choices] = {}
        # By device.
        self._memories: dict[int, GroupBytes] = {}
        self.fastest = self._fastest(self.choices)

    def best(self, limit: float = inf, doubtful: bool = False) -> Planned | None:
        """The fastest plan of this layout that fits and takes less than `limit` seconds a pass.

        Where nothing fits, that is found out faster if it is said to be `doubtful`.
        """
        return self._fitting(self.usual, self.choices, limit, doubtful)

    def best_exposing(self, exposed: float) -> Planned | None:
        """The same where this part of the sums of gradients takes time."""
        first = self.planned(self.fastest_exposing(exposed))
        return self._fitting(first, self._exposing[exposed], inf)

    def fastest_exposing(self, exposed: float) -> Grouping:
        """The grouping of the fewest seconds there, whether it fits or not."""
        if exposed not in self._exposing:
            self._exposing[exposed] = self.choices.exposing(exposed)
        return self._fastest(self._exposing[exposed])

    def _fastest(self, choices: Choices) -> Grouping:
        """The grouping of the fewest seconds, whether it fits or not."""
        if self._settled:
            # Some groups recompute whatever it costs.
            return next(groupings_within(choices, self.memory(0), self._planner.ways, inf))
        return fastest(choices)

    def _fitting(
        self, first: Planned, choices: Choices, limit: float, doubtful: bool = False
    ) -> Planned | None:
        """The fastest choice that fits, where `first` is the fastest."""
        usual = self.usual
        # Where the usual one is too large, so is the other as a rule; measuring takes a while.
        if usual.fits and first.fits:
            return first
        room = self._room(usual)
        if limit < inf:
            return self._within(choices, room, limit)
        if doubtful and not self._may_fit(usual):
            return None
        found = self._within(choices, room, _FAR * first.pass_seconds)
        if found or not self._may_fit(usual):
            return found
        for every in (choices, self._all_choices):
            found = self._within(every, room, inf)
            if found:
                return found
        # The sums may have refused what only just fits.
        leanest = self.leanest()
        return leanest if leanest.fits else None

    def mirror_may_fit(self) -> bool:
        """Whether any groups may fit on the mirror, if there is one, whatever time they take."""
        # Measuring takes a while.
        most = self._planner.request.room(self._tightest(self.usual))
        if self.mirror is None or self._leanest.size > most * _SLACK:
            return False
        return self._may_fit(
            self._evaluated(self.fastest, lambda: self.fastest.seconds, self.mirror)
        )

    def _may_fit(self, usual: Planned) -> bool:
        return self._leanest.size <= self._room(usual) * _SLACK

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
                other = self._planner.evaluate(plan, partial(self._stored, starts, filters))
                chosen = other if other.fits else chosen
        return chosen

    def _within(self, choices: Choices, room: float, limit: float) -> Planned | None:
        """The fastest grouping that fits every device as a whole."""
        # How much more than the sum of its groups a plan takes, as seen on the latest: one that
        # recomputes may take more than others.
        more = {False: 0.0, True: 0.0}
        ways = self._planner.ways
        for grouping in groupings_within(choices, self._tight, ways, room * _SLACK, limit):
            again = any(grouping.recompute)
            if grouping.size + more[again] > room:
                continue
            found = self.planned(grouping)
            if found.fits:
                return found
            more[again] = found.excess - (grouping.size - room)
        return None

    def leanest(self) -> Planned:
        """The plan of the fewest bytes, whatever time it takes."""
        return self._evaluated(self._leanest, lambda: self._seconds(self._leanest))

    @cached_property
    def _leanest(self) -> Grouping:
        return next(groupings_within(self._untimed, self._tight, self._planner.ways, inf))

    @cached_property
    def _tight(self) -> GroupBytes:
        """What groups take on the device that lacks most memory."""
        return self.memory(self._tightest(self.usual))

    def _seconds(self, grouping: Grouping) -> float:
        """Of a pass with these groups."""
        seconds, forms = 0.0, TILED
        for group, recompute in zip(grouping.groups, grouping.recompute, strict=True):
            again = self._tight.again(group) if recompute else ()
            seconds += self._all_choices.seconds(group, forms).recomputed(again)
            forms = self._all_choices.after(group, forms)
        return seconds

    def planned(self, grouping: Grouping, base: Plan | None = None) -> Planned:
        """The layout, or its mirror, with these groups, looked at as a whole."""
        return self._evaluated(grouping, lambda: grouping.seconds, base)

    def _evaluated(
        self, grouping: Grouping, time: Callable[[], float], base: Plan | None = None
    ) -> Planned:
        flags = grouping.recompute if any(grouping.recompute) else ()
        plan = replace(
            base or self.base, groups=grouping.starts, recompute=flags, filters=grouping.filters
        )
        return self._planner.evaluate(plan, time)

    def timed(self, starts: Sequence[int], filters: Collection[int] = ()) -> Grouping:
        """These groups, none of which recomputes."""
        ranges = group_ranges(starts, len(self._planner.request.network.layers))
        groups = tuple(Group(*group, group[0] in filters) for group in ranges)
        return Grouping(self._every.total(groups), groups, (False,) * len(groups))

    def _stored(self, starts: Sequence[int], filters: Collection[int]) -> float:
        return self.timed(starts, filters).seconds

    @cached_property
    def _untimed(self) -> Choices:
        request = self._planner.request
        storing = request.recompute == "none"
        return self._wanted(self._times if storing else EveryGroup(request.network), Untimed)

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
        return self._times.with_every()

    def _wanted(self, times: GroupTimes | EveryGroup, kind: type[Choices] = Choices) -> Choices:
        planner = self._planner
        tiles = self.base.grid.tiles
        return kind(
            planner.request.network,
            times,
            self._divided,
            lambda group: planner.allowed(group, tiles),
        )

    @property
    def usual(self) -> Planned:
        """The plan of the fastest groups, whether it fits or not."""
        return self.planned(self.fastest)

    def _tightest(self, planned: Planned) -> int:
        """The device that lacks most memory."""
        request = self._planner.request
        return max(
            range(len(planned.devices)),
            key=lambda number: planned.devices[number] - request.room(number),
        )

    def _room(self, usual: Planned) -> float:
        """The bytes that any groups may take on the tightest device, here or on a mirror."""
        device = self._tightest(usual)
        # On a device as much is trained as on its mirror.
        return self._planner.request.room(device) - self.fixed(usual, self._tight, device)

    def fixed(self, planned: Planned, memory: GroupBytes, device: int) -> int:
        """The bytes on a device that groups do not change."""
        ranks = self._planner.request.cluster.ranks_of(device)
        every = sum(planned.ranks[rank][kind] for rank in ranks for kind in _TRAINED)
        fixed = sum(planned.ranks[rank][kind] for rank in ranks for kind in _FIXED)
        return fixed + every - memory.trained(set(planned.plan.filters))

    def memory(self, device: int) -> GroupBytes:
        """What groups take on a device."""
        request = self._planner.request
        if device not in self._memories:
            self._memories[device] = GroupBytes(
                request.network,
                self.base,
                self._times,
                self._divided,
                request.cluster.ranks_of(device),
                self._images,
                request.demand,
                self._planner.lives,
            )
        return self._memories[device]
