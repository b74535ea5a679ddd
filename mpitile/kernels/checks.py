"""Checks of what kernels are handed, so that the loops need none."""

from __future__ import annotations

import numpy as np

from mpitile.geometry.box import EMPTY, Box, whole
from mpitile.kernels.tile import Tile

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def check_array(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise `ValueError` unless `array` is C-contiguous and of this shape and dtype."""
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name}: expected {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}"
        )
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array, got strides {array.strides}")


def check_tile(name: str, tile: Tile, like: Tile | None = None) -> None:
    """Raise `ValueError` unless the array fits the tile's box.

    With `like`, images and dtype must be those of the other tile.
    """
    array, box = tile.array, tile.box
    if array.dtype not in DTYPES:
        raise ValueError(f"{name}: expected float32 or float64, got {array.dtype}")
    if array.ndim != 4:
        raise ValueError(f"{name}: expected 4 dimensions, got shape {array.shape}")
    first = array if like is None else like.array
    shape = (first.shape[0], box.height, box.width, array.shape[3])
    check_array(name, array, shape, first.dtype)
    inside = box.y0 >= 0 and box.x0 >= 0 and box.y1 <= tile.height and box.x1 <= tile.width
    if not (inside or box.empty):
        raise ValueError(
            f"{name}: expected a tile within {tile.height}x{tile.width} cells, got {tile.box}"
        )


def check_channels(name: str, tile: Tile, channels: int) -> None:
    """Raise `ValueError` unless the tile has this many channels."""
    if tile.array.shape[3] != channels:
        raise ValueError(f"{name}: expected {channels} channels, got {tile.array.shape[3]}")


def check_inside(name: str, tile: Tile, box: Box) -> None:
    """Raise `ValueError` unless the tile holds every cell of `box`."""
    if not tile.box.contains(box):
        raise ValueError(f"{name}: expected a tile that holds {box}, got {tile.box}")


def check_whole(name: str, tile: Tile) -> None:
    """Raise `ValueError` unless the tile is the whole tensor."""
    check_inside(name, tile, whole(tile.height, tile.width))


def local(tile: Tile, box: Box) -> tuple[int, int]:
    """Row and column of the box's first cell in the tile's array."""
    return box.y0 - tile.box.y0, box.x0 - tile.box.x0


def part(tile: Tile, box: Box) -> tuple[int, int, int, int]:
    """A box as compiled kernels take it: first row and column in the array, rows, columns."""
    return (*local(tile, box), box.height, box.width)


def window(tile: Tile, box: Box, size: tuple[int, int], stride: int, before: int) -> Box:
    """The cells of the tile's tensor that the windows of an output box cover.

    `size` is the window's height and width, `before` the padding in front.
    """
    if box.empty:
        return EMPTY
    reach = Box(
        box.y0 * stride - before,
        (box.y1 - 1) * stride - before + size[0],
        box.x0 * stride - before,
        (box.x1 - 1) * stride - before + size[1],
    )
    return reach.intersect(whole(tile.height, tile.width))


def first_window(tile: Tile, box: Box, stride: int, before: int) -> tuple[int, int]:
    """Row and column in the tile's array where the box's first window starts.

    Negative in the padding.
    """
    return (
        box.y0 * stride - before - tile.box.y0,
        box.x0 * stride - before - tile.box.x0,
    )
