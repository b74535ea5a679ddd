"""Dropout whose mask depends on the place of a cell alone, not on the tiling.

A cell's fate is a splitmix64 hash of the key and of the cell's image, row, column and
channel in the whole batch of the whole tensor. Kept cells are scaled by 1 / (1 - p).
"""

from __future__ import annotations

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
