"""Dropout whose mask depends on the place of a cell alone, not on the tiling.

A cell's fate is a splitmix64 hash of the key and of the cell's image, row, column and
channel in the whole batch of the whole tensor. Kept cells are scaled by 1 / (1 - p).
The compiled loops count channels from 0; slices of a tensor's later channels are hashed here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _dropout
from mpitile.kernels.checks import check_channels, check_inside, check_tile, local
from mpitile.kernels.tile import Tile


def _check(x: Tile, y: Tile, box: Box, probability: float) -> None:
    check_tile("dropout input", x)
    check_tile("dropout output", y, like=x)
    check_channels("dropout output", y, x.array.shape[3])
    check_inside("dropout input", x, box)
    check_inside("dropout output", y, box)
    if not 0 <= probability < 1:
        raise ValueError(f"dropout: expected a probability in [0, 1), got {probability}")


def forward(x: Tile, y: Tile, box: Box, probability: float, key: int, first_image: int) -> None:
    """Overwrite the cells `box` of `y` with those of `x`, zeroed or scaled up.

    `key` is an unsigned 64-bit integer; `first_image` is the number, in the whole batch,
    of the tiles' first image.
    """
    _check(x, y, box, probability)
    if box.empty:
        return
    if x.first_channel:
        for given, out, kept in _rows(x, y, box, probability, key, first_image):
            out[...] = np.where(kept, given * _factor(x, probability), 0)
        return
    _dropout.forward(
        x.array,
        y.array,
        probability,
        key,
        first_image,
        *local(x, box),
        *local(y, box),
        box.y0,
        box.x0,
        box.height,
        box.width,
    )


def backward(dy: Tile, box: Box, dx: Tile, probability: float, key: int, first_image: int) -> None:
    """Add the kept cells of `dy`, scaled up, to `dx`."""
    _check(dx, dy, box, probability)
    if box.empty:
        return
    if dy.first_channel:
        for given, out, kept in _rows(dy, dx, box, probability, key, first_image):
            out += np.where(kept, given * _factor(dy, probability), 0)
        return
    _dropout.backward(
        dy.array,
        dx.array,
        probability,
        key,
        first_image,
        *local(dy, box),
        *local(dx, box),
        box.y0,
        box.x0,
        box.height,
        box.width,
    )


def _factor(tile: Tile, probability: float) -> np.floating:
    return tile.array.dtype.type(1 / (1 - probability))


def _rows(
    source: Tile, target: Tile, box: Box, probability: float, key: int, first_image: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Row by row (columns, channels): cells of both tiles, and which are kept."""
    first, count = source.first_channel, source.array.shape[3]
    columns = np.arange(box.x0, box.x1, dtype=np.uint64)
    channels = np.arange(first, first + count, dtype=np.uint64)
    threshold = np.uint64(probability * 2.0**53)
    for image in range(len(source.array)):
        of_image = _mixed(np.array([key], np.uint64), np.array([first_image + image], np.uint64))
        given, out = source.view(box)[image], target.view(box)[image]
        for row in range(box.height):
            state = _mixed(_mixed(of_image, np.array([box.y0 + row], np.uint64)), columns)
            hashed = _mixed(state[:, None], channels)
            yield given[row], out[row], hashed >> np.uint64(11) >= threshold


def _mixed(state: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """One step of splitmix64 from `state`, `counter` steps on, as the compiled loops take it."""
    z = state + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
