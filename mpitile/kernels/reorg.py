"""Darknet's [reorg]: a permutation of the flat channels-first buffer.

Darknet reads the output buffer as if it had the *input's* shape, so a cell's channels come
from all over the input: the whole tensor must be there. Source: pjreddie/darknet,
src/blas.c, `reorg_cpu` called with the input's size and ``forward = 0``.
"""

from __future__ import annotations

from mpitile.geometry.box import Box
from mpitile.kernels import _reorg
from mpitile.kernels.checks import (
    check_channels,
    check_inside,
    check_tile,
    check_whole,
    local,
)
from mpitile.kernels.tile import Tile


def _check(x: Tile, y: Tile, box: Box, stride: int) -> None:
    check_tile("reorg input", x)
    check_tile("reorg output", y, like=x)
    check_whole("reorg input", x)
    channels = x.array.shape[3]
    if stride < 1 or x.height % stride or x.width % stride or channels % (stride * stride):
        raise ValueError(
            f"reorg: expected height and width divisible by the stride and channels by its "
            f"square, got {x.height}x{x.width}x{channels} and stride {stride}"
        )
    size = (x.height // stride, x.width // stride)
    if (y.height, y.width) != size:
        raise ValueError(f"reorg output: expected a tensor of {size}, got {y.height}x{y.width}")
    check_channels("reorg output", y, channels * stride * stride)
    check_inside("reorg output", y, box)


def forward(x: Tile, y: Tile, box: Box, stride: int) -> None:
    """Overwrite the cells `box` of `y`; `x` is the whole tensor."""
    _check(x, y, box, stride)
    if box.empty or not len(x.array):
        return
    _reorg.forward(x.array, y.array, stride, *local(y, box), box.y0, box.x0, box.height, box.width)


def backward(dy: Tile, box: Box, dx: Tile, stride: int) -> None:
    """Add the cells `box` of `dy` to where they came from; `dx` is the whole tensor."""
    _check(dx, dy, box, stride)
    if box.empty or not len(dx.array):
        return
    _reorg.backward(
        dy.array, dx.array, stride, *local(dy, box), box.y0, box.x0, box.height, box.width
    )
