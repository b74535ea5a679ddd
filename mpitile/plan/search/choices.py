"""The groups that a network can be cut into on one grid, and how one bears on those behind it.

A group is of tiles or filter-parallel, and reads what it fetches in the form in which it was
written. So what a group takes depends on the forms of the tensors that cross its start;
the last layer's output alone in a chain, a few more where routes and shortcuts reach back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from functools import cached_property
from math import inf
from typing import NamedTuple

from mpitile.network.receptive import whole_input_layers
from mpitile.network.spec import Network
from mpitile.plan.costs.filter_times import FilterTimes
from mpitile.plan.costs.group_times import GroupSeconds, GroupTimes

# Tensors that are divided by channels and read again.
Forms = frozenset[int]
TILED: Forms = frozenset()
# Seconds by layer and by the forms of what crosses its start.
Left = list[dict[Forms, float]]
# Combinations of forms that are followed up at a border, the fastest ones.
_MOST_FORMS = 64


class Group(NamedTuple):
    """Layers ``first .. stop - 1``, and whether they are filter-parallel."""

    first: int
    stop: int
    filters: bool = False


class EveryGroup:
    """All groups of tiles of a network, as `GroupTimes` has them, but for their seconds."""

    def __init__(self, network: Network) -> None:
        self._inputs = [layer.inputs for layer in network.layers]
        forced = (0, *whole_input_layers(network))
        self.groups = [
            (first, stop)
            for stop in range(1, len(network.layers) + 1)
            for first in reversed(range(max(layer for layer in forced if layer < stop), stop))
        ]

    def fetched(self, first: int, stop: int) -> Collection[int]:
        """The tensors that a group of tiles reads from outside."""
        return {tensor for inputs in self._inputs[first:stop] for tensor in inputs} & {
            *range(first + 1)
        }


class Choices:
    """Seconds of groups by the forms of what they read.

    Parameters
    ----------
    allowed : whether a group may be chosen.

    Attributes
    ----------
    layers : how many there are.
    by_start : for each layer, the groups that may start there.
    """

    def __init__(
        self,
        network: Network,
        times: GroupTimes | EveryGroup,
        divided: FilterTimes,
        allowed: Callable[[Group], bool],
    ) -> None:
        self._times, self._divided = times, divided
        self._exposed = 1.0
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
        # By the tensors divided by channels that a group fetches, with all of its sums.
        self._known: dict[tuple[Group, Forms], GroupSeconds] = {}
        self._exposing: dict[tuple[Group, Forms], GroupSeconds] = {}

    def exposing(self, exposed: float) -> Choices:
        """The same where this part of the sums of gradients counts: the rest is hidden."""
        found = copy(self)
        vars(found).pop("left", None)
        found._exposed, found._exposing = exposed, {}
        return found

    def seconds(self, group: Group, forms: Forms) -> GroupSeconds:
        """Of a group, where these of the tensors before it are divided by channels."""
        sliced = self.read(group, forms)
        if self._exposed == 1:
            return self._every_sum(group, sliced)
        key = (group, sliced)
        if key not in self._exposing:
            found = self._every_sum(group, sliced)
            self._exposing[key] = found._replace(sums=self._exposed * found.sums)
        return self._exposing[key]

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

    @cached_property
    def left(self) -> Left:
        """The fewest seconds from a group that starts at a layer to the network's end."""
        reached = self._reached()
        left: Left = [{} for _ in range(self.layers)] + [{TILED: 0.0}]
        for first in reversed(range(self.layers)):
            for forms in reached[first]:
                left[first][forms] = min(
                    (
                        self.seconds(group, forms).stored + rest
                        for group in self.by_start[first]
                        if (rest := left[group.stop].get(self.after(group, forms))) is not None
                    ),
                    default=inf,
                )
        return left

    def _reached(self) -> Left:
        """The fewest seconds from the network's start to each layer."""
        reached: Left = [{} for _ in range(self.layers + 1)]
        reached[0][TILED] = 0.0
        for first in range(self.layers):
            before = reached[first]
            if len(before) > _MOST_FORMS:
                fewest = sorted(before.items(), key=lambda one: one[1])[:_MOST_FORMS]
                before = reached[first] = dict(fewest)
            for forms, seconds in before.items():
                for group in self.by_start[first]:
                    after = self.after(group, forms)
                    total = seconds + self.seconds(group, forms).stored
                    if total < reached[group.stop].get(after, inf):
                        reached[group.stop][after] = total
        return reached

    def _every_sum(self, group: Group, sliced: Forms) -> GroupSeconds:
        if not group.filters and not sliced:
            return self._times.groups[group[:2]]
        key = (group, sliced)
        if key not in self._known:
            self._known[key] = self._reading(group, sliced)
        return self._known[key]

    def _reading(self, group: Group, sliced: Forms) -> GroupSeconds:
        if group.filters:
            return self._divided.reading(group.first, group.stop, bool(sliced))
        slices: Mapping[int, tuple[int, ...]] = self._divided.slices
        return self._times.reading(
            group.first, group.stop, {tensor: slices[tensor] for tensor in sliced}
        )


class Untimed(Choices):
    """The same where time does not matter; here `EveryGroup` will do for times."""

    def seconds(self, group: Group, forms: Forms) -> GroupSeconds:
        """None at all."""
        return GroupSeconds(0.0, 0.0, 0.0, 0.0, 0.0, (0.0,) * (group.stop - group.first))
