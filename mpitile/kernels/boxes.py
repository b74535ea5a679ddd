"""Cells of a box to and from flat buffers, in the order image, row, column, channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _boxes
from mpitile.kernels.checks import check_inside, check_tile, part
from mpitile.kernels.tile import Tile

Channels = tuple[int, int]


class BufferedCells:
    """The cells `box` of all images of a tile, and their place in a buffer.

    Everything is checked and found when one is made, so that moving the cells costs little more
    than the memory's time.

    Parameters
    ----------
    buffer : one dimension, of the tile's dtype.
    offset : where the cells begin in it.
    channels : a span of them in numbers of the whole tensor, or None for all that the tile has.

    Attributes
    ----------
    end : the offset behind them, so that several boxes can share a buffer.
    pack : copies the cells to the buffer.
    unpack : overwrites them from the buffer.
    add : adds the buffer to them.
    clear : sets them to zero.
    """

    def __init__(
        self,
        tile: Tile,
        box: Box,
        buffer: np.ndarray,
        offset: int,
        channels: Channels | None = None,
    ) -> None:
        span = tile.first_channel, tile.first_channel + tile.array.shape[3]
        self.end = _end(tile, box, buffer, offset, channels or span)
        moves: _Views | _Loops = _Views(tile, box, buffer[offset : self.end], channels)
        # The compiled loops move all channels of a cell at once.
        if self.end > offset and channels in (None, span):
            moves = _Loops(tile, box, buffer, offset)
        self.pack, self.unpack = moves.pack, moves.unpack
        self.add, self.clear = moves.add, moves.clear


class _Loops:
    """By compiled loops, of which a column of short runs takes half as long as by NumPy's."""

    def __init__(self, tile: Tile, box: Box, buffer: np.ndarray, offset: int) -> None:
        dtype = "float" if buffer.dtype == np.float32 else "double"
        cells = part(tile, box)

        def move(loops: Mapping[str, Callable[..., None]]) -> Callable[[], None]:
            return partial(loops[dtype], tile.array, buffer, offset, *cells)

        self.pack, self.unpack = move(_boxes.pack), move(_boxes.unpack)
        self.add = move(_boxes.unpack_add)
        self.clear = partial(_boxes.clear[dtype], tile.array, *cells)


class _Views:
    """By NumPy."""

    def __init__(self, tile: Tile, box: Box, room: np.ndarray, channels: Channels | None) -> None:
        cells = tile.view(box, channels)
        room = room.reshape(cells.shape)
        self.pack, self.unpack = partial(np.copyto, room, cells), partial(np.copyto, cells, room)
        self.add = partial(np.add, cells, room, cells)
        self.clear = partial(np.copyto, cells, 0)


def _end(tile: Tile, box: Box, buffer: np.ndarray, offset: int, channels: Channels) -> int:
    """The offset behind the box, once everything is known to fit."""
    check_tile("tile", tile)
    check_inside("tile", tile, box)
    if buffer.ndim != 1 or buffer.dtype != tile.array.dtype:
        raise ValueError(
            f"buffer: expected one dimension of {tile.array.dtype}, "
            f"got shape {buffer.shape} of {buffer.dtype}"
        )
    first, stop = tile.first_channel, tile.first_channel + tile.array.shape[3]
    a, b = channels
    if not first <= a <= b <= stop:
        raise ValueError(f"channels: expected a part of [{first}, {stop}), got [{a}, {b})")
    end = offset + len(tile.array) * box.cells * (b - a)
    if offset < 0 or end > buffer.size:
        raise ValueError(f"buffer: expected room for [{offset}, {end}), got {buffer.size} elements")
    return end
