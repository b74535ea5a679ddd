"""The groups that a network can be cut into on one grid, and how one bears on those behind it.

A group is of tiles or filter-parallel, and reads what it fetches in the form in which it was
written. So what a group takes depends on the forms of the tensors that cross its start;
the last layer's output alone in a chain, a few more where routes and shortcuts reach back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from mpitile.network.spec import Network
from mpitile.plan.costs.filter_times import FilterTimes
from mpitile.plan.costs.group_times import GroupSeconds, GroupTimes

# Tensors that are divided by channels and read again.
Forms = frozenset[int]
TILED: Forms = frozenset()


class Group(NamedTuple):
    """Layers ``first .. stop - 1``, and whether they are filter-parallel."""

    first: int
    stop: int
    filters: bool = False


class Choices:
    """Seconds of groups by the forms of what they read.

    Parameters
    ----------
    allowed : whether a group may be chosen.
    exposed : the part of the sums of gradients that counts, where others go on beside them.

    Attributes
    ----------
    layers : how many there are.
    by_start : for each layer, the groups that may start there.
    """

    def __init__(
        self,
        network: Network,
        times: GroupTimes,
        divided: FilterTimes,
        allowed: Callable[[Group], bool],
        exposed: float = 1.0,
    ) -> None:
        self._times, self._divided = times, divided
        self._exposed = exposed
        self._inputs = [layer.inputs for layer in network.layers]
        self.layers = len(network.layers)
        self._last_reader = [-1] * len(network.shapes)
        for layer in network.layers:
            for tensor in layer.inputs:
                self._last_reader[tensor] = max(self._last_reader[tensor], layer.index)
        self.by_start: list[list[Group]] = [[] for _ in network.layers]
        for filters, groups in ((False, times.groups), (True, divided.groups)):
            for first, stop in groups:
                group = Group(first, stop, filters)
                if allowed(group):
                    self.by_start[first].append(group)
        self._known: dict[tuple[Group, Forms], GroupSeconds] = {}

    def seconds(self, group: Group, forms: Forms) -> GroupSeconds:
        """Of a group, where these of the tensors before it are divided by channels."""
        sliced = self.read(group, forms)
        if not group.filters and not sliced and self._exposed == 1:
            return self._times.groups[group[:2]]
        key = (group, sliced)
        if key not in self._known:
            found = self._reading(group, sliced)
            self._known[key] = found._replace(sums=self._exposed * found.sums)
        return self._known[key]

    def read(self, group: Group, forms: Forms) -> Forms:
        """Those of the tensors divided by channels that a group fetches."""
        if not forms:
            return forms
        if group.filters:
            return forms.intersection(self._inputs[group.first])
        return forms.intersection(self._times.fetched(group.first, group.stop))

    def after(self, group: Group, forms: Forms) -> Forms:
        """What is divided by channels and still to be read behind a group."""
        own = range(group.first + 1, group.stop + 1) if group.filters else ()
        if not forms and not own:
            return forms
        return frozenset(t for t in (*forms, *own) if self._last_reader[t] >= group.stop)

    def total(self, groups: Iterable[Group]) -> float:
        """Seconds of a way to cut the whole network, nothing of it computed again."""
        seconds, forms = 0.0, TILED
        for group in groups:
            seconds += self.seconds(group, forms).stored
            forms = self.after(group, forms)
        return seconds

    def _reading(self, group: Group, sliced: Forms) -> GroupSeconds:
        if group.filters:
            return self._divided.reading(group.first, group.stop, bool(sliced))
        if not sliced:
            return self._times.groups[group[:2]]
        slices: Mapping[int, tuple[int, ...]] = self._divided.slices
        return self._times.reading(
            group.first, group.stop, {tensor: slices[tensor] for tensor in sliced}
        )


class Untimed(Choices):
    """The same where time does not matter."""

    def seconds(self, group: Group, forms: Forms) -> GroupSeconds:
        """None at all."""
        return GroupSeconds(0.0, 0.0, 0.0, 0.0, 0.0, (0.0,) * (group.stop - group.first))
