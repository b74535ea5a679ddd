"""Cells of a box to and from flat buffers, in the order image, row, column, channel.

Buffers are 1-D and of the tile's dtype. Each function that moves cells returns the offset
behind them, so that several boxes can share a buffer. `channels` are a span of them in numbers
of the whole tensor, or None for all that the tile has.
"""

from __future__ import annotations

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _boxes
from mpitile.kernels.checks import check_inside, check_tile, local
from mpitile.kernels.tile import Tile

Channels = tuple[int, int]


def _end(tile: Tile, box: Box, buffer: np.ndarray, offset: int, channels: Channels | None) -> int:
    """The offset behind the box, once everything is known to fit."""
    check_tile("tile", tile)
    check_inside("tile", tile, box)
    if buffer.ndim != 1 or buffer.dtype != tile.array.dtype:
        raise ValueError(
            f"buffer: expected one dimension of {tile.array.dtype}, "
            f"got shape {buffer.shape} of {buffer.dtype}"
        )
    first, stop = _span(tile)
    a, b = channels or (first, stop)
    if not first <= a <= b <= stop:
        raise ValueError(f"channels: expected a part of [{first}, {stop}), got [{a}, {b})")
    end = offset + len(tile.array) * box.cells * (b - a)
    if offset < 0 or end > buffer.size:
        raise ValueError(f"buffer: expected room for [{offset}, {end}), got {buffer.size} elements")
    return end


def _span(tile: Tile) -> Channels:
    return tile.first_channel, tile.first_channel + tile.array.shape[3]


def _both(
    tile: Tile, box: Box, room: np.ndarray, channels: Channels | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Some of a tile's channels and their place in a buffer, alike; None where it is all of them.

    The compiled loops move all channels of a cell at once.
    """
    if channels is None or channels == _span(tile):
        return None
    cells = tile.view(box, channels)
    return cells, room.reshape(cells.shape)


def pack(
    tile: Tile, box: Box, buffer: np.ndarray, offset: int, channels: Channels | None = None
) -> int:
    """Copy the cells `box` of all images to the buffer."""
    end = _end(tile, box, buffer, offset, channels)
    if both := _both(tile, box, buffer[offset:end], channels):
        cells, room = both
        room[...] = cells
    elif end > offset:
        _boxes.pack(tile.array, buffer, offset, *local(tile, box), box.height, box.width)
    return end


def unpack(
    tile: Tile, box: Box, buffer: np.ndarray, offset: int, channels: Channels | None = None
) -> int:
    """Overwrite the cells `box` of all images from the buffer."""
    end = _end(tile, box, buffer, offset, channels)
    if both := _both(tile, box, buffer[offset:end], channels):
        cells, room = both
        cells[...] = room
    elif end > offset:
        _boxes.unpack(tile.array, buffer, offset, *local(tile, box), box.height, box.width)
    return end


def unpack_add(
    tile: Tile, box: Box, buffer: np.ndarray, offset: int, channels: Channels | None = None
) -> int:
    """Add the buffer to the cells `box` of all images."""
    end = _end(tile, box, buffer, offset, channels)
    if both := _both(tile, box, buffer[offset:end], channels):
        cells, room = both
        cells += room
    elif end > offset:
        _boxes.unpack_add(tile.array, buffer, offset, *local(tile, box), box.height, box.width)
    return end


def clear(tile: Tile, box: Box) -> None:
    """Set the cells `box` of all images to zero."""
    check_tile("tile", tile)
    check_inside("tile", tile, box)
    if not box.empty:
        _boxes.clear(tile.array, *local(tile, box), box.height, box.width)
