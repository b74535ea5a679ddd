"""How much travels between which tiles in each exchange, found without asking all pairs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence

from mpitile.geometry.box import Box
from mpitile.plan.gathers import Part
from mpitile.plan.partition import Partition

# Elements of one image that travel from a tile (first) to another (second).
Traffic = dict[tuple[int, int], int]


def whole_parts(partition: Partition, group: int) -> dict[int, tuple[Part, ...]]:
    """Of each tensor that a group gathers whole, what each tile owns of it."""
    if not partition.gathers(group):
        return {}
    tiles = range(partition.plan.grid.tiles)
    return {
        tensor: tuple(
            Part(partition.owned(tensor, tile), _channels(partition, tensor, tile))
            for tile in tiles
        )
        for tensor in sorted(partition.copied[group])
    }


def _channels(partition: Partition, tensor: int, tile: int) -> tuple[int, int]:
    return partition.channels(tensor, tile) or (0, partition.network.shape(tensor).channels)


def group_traffic(partition: Partition, group: int) -> Traffic:
    """The forward messages at a group's start; the adjoint's are the same, reversed.

    None where it gathers whole tensors: see `mpitile.plan.gathers`.
    """
    found: Counter[tuple[int, int]] = Counter()
    if partition.gathers(group):
        return {}
    for tile, needs in enumerate(partition.needs):
        for tensor, box in needs[group].fetched.items():
            # Tiles read the image itself.
            if tensor == 0 or box.empty:
                continue
            for owner in _touched(partition, tensor, box):
                if owner != tile:
                    cells = partition.owned(tensor, owner).intersect(box).cells
                    first, stop = _channels(partition, tensor, owner)
                    found[owner, tile] += cells * (stop - first)
    return {pair: elements for pair, elements in found.items() if elements}


def _touched(partition: Partition, tensor: int, box: Box) -> Iterator[int]:
    """The tiles whose rows and columns a box of a tensor touches; of a sliced one all."""
    tiling = partition.tiling
    if tensor - 1 in partition.spans:
        yield from range(tiling.grid.tiles)
        return
    rows = _between(tiling.rows[tensor], box.y0, box.y1)
    columns = _between(tiling.columns[tensor], box.x0, box.x1)
    for row in rows:
        for column in columns:
            yield tiling.grid.tile(row, column)


def _between(cuts: Sequence[int], start: int, stop: int) -> range:
    """Numbers of the parts between cut lines that ``[start, stop)`` touches."""
    first = bisect_right(cuts, start) - 1
    last = bisect_left(cuts, stop)
    return range(first, min(last, len(cuts) - 1))
