"""Dynamic programming over the borders of fused groups, where memory has no cap."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from mpitile.plan.search.choices import TILED, Choices, Group

_ROUNDING = 1e-9

# Whether a group may store its inner activations, and whether it may compute them again.
Ways = Callable[[Group], tuple[bool, ...]]


class Grouping(NamedTuple):
    """A way to cut the layers into groups.

    Attributes
    ----------
    seconds : of a pass.
    groups : in the order of forward.
    recompute : a flag for each group.
    size : bytes on the device that was looked at; 0 where none was.
    """

    seconds: float
    groups: tuple[Group, ...]
    recompute: tuple[bool, ...]
    size: int = 0

    @property
    def starts(self) -> tuple[int, ...]:
        """The first layer of each group."""
        return tuple(group.first for group in self.groups)

    @property
    def filters(self) -> tuple[int, ...]:
        """The filter-parallel layers."""
        return tuple(layer for group in self.groups if group.filters for layer in range(*group[:2]))


def fastest(choices: Choices) -> Grouping:
    """The grouping of the fewest seconds; tiles win a tie, and the longer first group."""
    left = choices.left
    groups: list[Group] = []
    first, forms = 0, TILED
    while first < choices.layers:
        # What differs by rounding alone is a tie.
        least = left[first][forms] * (1 + _ROUNDING)
        group = max(
            (
                group
                for group in choices.by_start[first]
                if choices.seconds(group, forms).stored
                + left[group.stop].get(choices.after(group, forms), inf)
                <= least
            ),
            key=lambda group: (not group.filters, group.stop),
        )
        groups.append(group)
        first, forms = group.stop, choices.after(group, forms)
    return Grouping(left[0][TILED], tuple(groups), (False,) * len(groups))
