"""What every row or column of a grid computes and fetches in any group, along one axis.

The boxes of `mpitile.geometry.needs` are products of intervals, so that a grid of R rows and
C columns takes R + C walks back through the layers instead of R x C. And what a
layer computes depends on where its group stops, not on where it starts, so that one walk
serves all groups that stop at the same layer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from mpitile.geometry.receptive import Enlarged, LayerGeometry, Receptive, Window

# Half-open; empty where the end is not behind the start.
Interval = tuple[int, int]
Intervals = tuple[Interval, ...]

# Of a window its size, stride and first cell; of an enlarged tensor the factor; None for all.
_Rule = tuple[int, int, int] | int | None

_NONE: Interval = (0, 0)


class Reached(NamedTuple):
    """A layer as the first one of a group with a given stop, along one axis.

    Attributes
    ----------
    computed : of the layer's output, by part of the axis.
    fetched : of each tensor that comes from outside such a group, by part.
    """

    computed: Intervals
    fetched: dict[int, Intervals]


class Reach:
    """One axis of a tiling.

    Where a tile owns no cell of a tensor although it owns some of its rows, intervals may be
    larger than what `group_needs` finds.

    Parameters
    ----------
    layers : the geometry of each layer.
    lengths : of each tensor along the axis.
    cuts : ascending cut lines of each tensor.
    vertical : whether the axis is that of the rows.
    """

    def __init__(
        self,
        layers: Sequence[LayerGeometry],
        lengths: Sequence[int],
        cuts: Sequence[Sequence[int]],
        vertical: bool,
    ) -> None:
        self._lengths = lengths
        self._cuts = cuts
        self._owned = [tuple(pairwise(lines)) for lines in cuts]
        self._inputs = [
            [
                (tensor, _along(receptive, vertical))
                for tensor, receptive in zip(layer.inputs, layer.receptive, strict=True)
            ]
            for layer in layers
        ]

    def back_from(self, stop: int, least: int = 0) -> Iterator[tuple[int, Reached]]:
        """Each layer from the one before `stop` down to `least`, as the first of a group."""
        pending: dict[int, Intervals] = {}
        for layer in range(stop - 1, least - 1, -1):
            computed = self._owned[layer + 1]
            if layer + 1 in pending:
                computed = _hulls(computed, pending.pop(layer + 1))
            for tensor, rule in self._inputs[layer]:
                needs = self._needs(rule, computed, self._lengths[tensor])
                pending[tensor] = _hulls(pending[tensor], needs) if tensor in pending else needs
            yield layer, Reached(computed, dict(pending))

    def overlaps(self, tensor: int, fetched: Intervals) -> list[dict[int, int]]:
        """For each part that fetches, how much of it parts own that own any."""
        cuts = self._cuts[tensor]
        parts = len(cuts) - 1
        found = []
        for low, high in fetched:
            row = {}
            if low < high:
                start = bisect_right(cuts, low) - 1
                for part in range(start, min(parts, bisect_left(cuts, high))):
                    cells = min(high, cuts[part + 1]) - max(low, cuts[part])
                    if cells > 0:
                        row[part] = cells
            found.append(row)
        return found

    def owned(self, tensor: int) -> Intervals:
        """What each part owns of a tensor."""
        return self._owned[tensor]

    def held(self, tensor: int, fetched: Intervals) -> Intervals:
        """What each part holds of a tensor that it fetches: its own and that."""
        return _hulls(self._owned[tensor], fetched)

    @staticmethod
    def _needs(rule: _Rule, computed: Intervals, length: int) -> Intervals:
        """`mpitile.geometry.receptive`'s needs, along one axis."""
        if rule is None:
            return tuple((0, length) if low < high else _NONE for low, high in computed)
        if isinstance(rule, int):
            return tuple(
                (low // rule, min((high - 1) // rule + 1, length)) if low < high else _NONE
                for low, high in computed
            )
        size, stride, before = rule
        found = []
        for low, high in computed:
            if low >= high:
                found.append(_NONE)
                continue
            start = low * stride - before
            end = (high - 1) * stride - before + size
            start, end = max(start, 0), min(end, length)
            found.append((start, end) if start < end else _NONE)
        return tuple(found)


def _along(receptive: Receptive, vertical: bool) -> _Rule:
    if isinstance(receptive, Window):
        size = receptive.size_y if vertical else receptive.size_x
        return size, receptive.stride, receptive.before
    return receptive.factor if isinstance(receptive, Enlarged) else None


def _hulls(some: Intervals, others: Intervals) -> Intervals:
    return tuple(
        other
        if one[0] >= one[1]
        else one
        if other[0] >= other[1]
        else (min(one[0], other[0]), max(one[1], other[1]))
        for one, other in zip(some, others, strict=True)
    )
