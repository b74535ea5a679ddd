"""What a tile computes and holds in a fused group of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mpitile.errors import InputError
from mpitile.geometry.box import EMPTY, Box
from mpitile.geometry.receptive import LayerGeometry


@dataclass(frozen=True, slots=True)
class GroupNeeds:
    """The boxes of one tile in one fused group.

    Attributes
    ----------
    first, stop : the group's layers are ``first <= layer < stop``.
    computed : for each of its layers in order, the output cells that the tile computes.
    fetched : for each tensor that comes from outside the group, the cells that the
        tile needs of it at the group's start, owned ones included.
    """

    first: int
    stop: int
    computed: tuple[Box, ...]
    fetched: dict[int, Box]


def group_ranges(groups: Sequence[int], layers: int) -> tuple[tuple[int, int], ...]:
    """First layer and stop of each group.

    Raises
    ------
    InputError : the list does not cover layers ``0 .. layers - 1`` in ascending order.
    """
    valid = (
        bool(groups)
        and groups[0] == 0
        and all(a < b for a, b in pairwise(groups))
        and groups[-1] < layers
    )
    if not valid:
        raise InputError(
            f"groups {list(groups)} do not cover the network: expected ascending first layers "
            f"that start with 0 and end at most with {layers - 1}"
        )
    return tuple(zip(groups, [*groups[1:], layers], strict=True))


def group_needs(
    layers: Sequence[LayerGeometry],
    sizes: Sequence[tuple[int, int]],
    owned: Callable[[int], Box],
    first: int,
    stop: int,
) -> GroupNeeds:
    """Walk back through a group from the owned cells of its outputs.

    Every layer computes at least the cells that the tile owns, and whatever the
    group's later layers read of them (the hull of both: one box).

    Parameters
    ----------
    layers, sizes : geometry of each layer, height and width of each tensor.
    owned : the tile's own cells of a tensor.
    first, stop : the group.
    """
    needed = {layer + 1: owned(layer + 1) for layer in range(first, stop)}
    fetched: dict[int, Box] = {}
    for index in reversed(range(first, stop)):
        layer = layers[index]
        for tensor, receptive in zip(layer.inputs, layer.receptive, strict=True):
            box = receptive.needs(needed[index + 1], *sizes[tensor])
            target = needed if tensor in needed else fetched
            target[tensor] = target.get(tensor, EMPTY).hull(box)
    computed = tuple(needed[layer + 1] for layer in range(first, stop))
    return GroupNeeds(first, stop, computed, dict(sorted(fetched.items())))
