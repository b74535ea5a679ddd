"""How much travels between which tiles in each exchange, found without asking all pairs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from mpitile.geometry.box import Box
from mpitile.plan.gathers import Part
from mpitile.plan.partition import Partition

# Elements of one image that travel from a tile (first) to another (second).
Traffic = Mapping[tuple[int, int], int]


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


# What a plan takes in memory and how long its step is are often asked for one after the other.
@lru_cache(256)
def group_traffic(partition: Partition, group: int) -> Traffic:
    """The forward messages at a group's start; the adjoint's are the same, reversed.

    None where it gathers whole tensors: see `mpitile.plan.gathers`.
    """
    found: Counter[tuple[int, int]] = Counter()
    if partition.gathers(group):
        return {}
    tensors = partition.needs[0][group].fetched
    for tensor in tensors:
        # Tiles read the image itself.
        if tensor:
            boxes = [needs[group].fetched[tensor] for needs in partition.needs]
            divided = tensor - 1 in partition.spans
            for pair, elements in (_sliced if divided else _tiled)(partition, tensor, boxes):
                found[pair] += elements
    return dict(found)


def _sliced(
    partition: Partition, tensor: int, boxes: Sequence[Box]
) -> Iterator[tuple[tuple[int, int], int]]:
    """Of a tensor that is divided by channels: what each tile needs of all others' slices."""
    widths = [stop - start for start, stop in partition.spans[tensor - 1]]
    for tile, box in enumerate(boxes):
        for owner, width in enumerate(widths):
            if owner != tile and box.cells * width:
                yield (owner, tile), box.cells * width


def _tiled(
    partition: Partition, tensor: int, boxes: Sequence[Box]
) -> Iterator[tuple[tuple[int, int], int]]:
    """Of a tiled one: overlaps of boxes are products of those along rows and along columns."""
    tiling, channels = partition.tiling, partition.network.shape(tensor).channels
    rows, columns = tiling.rows[tensor], tiling.columns[tensor]
    tiles = {tiling.grid.position(tile): tile for tile in range(len(boxes))}
    for tile, box in enumerate(boxes):
        across = _overlaps(columns, box.x0, box.x1)
        for row, height in _overlaps(rows, box.y0, box.y1):
            for column, width in across:
                owner = tiles[row, column]
                if owner != tile:
                    yield (owner, tile), height * width * channels


def _overlaps(cuts: Sequence[int], start: int, stop: int) -> list[tuple[int, int]]:
    """Numbers of the parts between cut lines that own some of ``[start, stop)``, and how much."""
    if start >= stop:
        return []
    parts = range(bisect_right(cuts, start) - 1, min(bisect_left(cuts, stop), len(cuts) - 1))
    shared = ((part, min(stop, cuts[part + 1]) - max(start, cuts[part])) for part in parts)
    return [(part, cells) for part, cells in shared if cells > 0]
