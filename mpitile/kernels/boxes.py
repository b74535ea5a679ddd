"""Cells of boxes to and from flat buffers, in the order image, row, column, channel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _boxes
from mpitile.kernels.checks import DTYPES, check_inside, check_tile
from mpitile.kernels.prepared import Run
from mpitile.kernels.tile import Tile

Channels = tuple[int, int]
Operation = Literal["copy", "take", "add"]


@dataclass(frozen=True, slots=True)
class Move:
    """What happens between the cells of two arrays.

    Attributes
    ----------
    operation : "copy" overwrites the target, "add" adds the source to it, "take" is a copy that
        leaves zeros in the source.
    target, source : (images, rows, columns, channels) of one dtype, float32 or float64, with the
        channels of a cell next to each other; writeable and without memory in common.
    """

    operation: Operation
    target: np.ndarray
    source: np.ndarray


def moving(moves: Iterable[Move]) -> Run:
    """All of them in turn, in one call, which costs little more than the memory's time.

    It keeps the arrays' memory alive. Raises `ValueError` here for what cannot be moved.
    """
    moves = list(moves)
    for move in moves:
        _check(move)
    return _boxes.Moves(
        [
            (
                move.operation,
                move.target.dtype.name,
                move.target.view(np.uint8),
                move.source.view(np.uint8),
            )
            for move in moves
            if move.target.size
        ]
    )


class BufferedCells:
    """The cells `box` of all images of a tile, and their place in a buffer.

    Parameters
    ----------
    buffer : one dimension, of the tile's dtype.
    offset : where the cells begin in it.
    channels : a span of them in numbers of the whole tensor, or None for all that the tile has.

    Attributes
    ----------
    end : the offset behind them, so that several boxes can share a buffer.
    pack : copies the cells to the buffer.
    take : does so, and sets them to zero.
    unpack : overwrites them from the buffer.
    add : adds the buffer to them.
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
        cells = tile.view(box, channels)
        room = buffer[offset : self.end].reshape(cells.shape)
        self.pack, self.take = Move("copy", room, cells), Move("take", room, cells)
        self.unpack, self.add = Move("copy", cells, room), Move("add", cells, room)


def _check(move: Move) -> None:
    """Raise `ValueError` unless the compiled loops may do it."""
    if move.operation not in get_args(Operation):
        raise ValueError(
            f"operation: expected one of {get_args(Operation)}, got {move.operation!r}"
        )
    target, source = move.target, move.source
    if target.ndim != 4 or target.shape != source.shape:
        raise ValueError(
            f"source: expected 4 dimensions of target's shape {target.shape}, got {source.shape}"
        )
    if target.dtype not in DTYPES or target.dtype != source.dtype:
        raise ValueError(
            f"source: expected float32 or float64 as target's {target.dtype}, got {source.dtype}"
        )
    if np.may_share_memory(target, source):
        raise ValueError("source: expected no memory of the target")


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
