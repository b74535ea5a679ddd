"""Max-pooling and the mean over a whole tensor, with their gradients.

A max-pool's `padding` is the sum of both sides, as in Darknet: an output cell's window
starts at ``cell * stride - padding // 2``. Cells outside the tensor do not count.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mpitile.geometry.box import EMPTY, Box
from mpitile.kernels import _fast, _pool
from mpitile.kernels.checks import (
    check_array,
    check_channels,
    check_inside,
    check_tile,
    check_whole,
    first_window,
    local,
    window,
)
from mpitile.kernels.prepared import Run, at_once, clear, in_turn
from mpitile.kernels.tile import Tile


def _check_max(
    x: Tile, y: Tile, box: Box, size: int, stride: int, padding: int, argmax: np.ndarray
) -> None:
    check_tile("max-pool input", x)
    check_tile("max-pool output", y, like=x)
    check_channels("max-pool output", y, x.array.shape[3])
    check_array("max-pool argmax", argmax, y.array.shape, np.dtype(np.uint8))
    if not 1 <= size <= _pool.MAX_SIZE:
        raise ValueError(f"max-pool: expected size 1 to {_pool.MAX_SIZE}, got {size}")
    if stride < 1 or padding < 0:
        raise ValueError(
            f"max-pool: expected stride >= 1 and padding >= 0, got {stride}, {padding}"
        )
    check_inside("max-pool output", y, box)
    if box.empty:
        return
    before = padding // 2
    check_inside("max-pool input", x, window(x, box, (size, size), stride, before))
    first = min(box.y0, box.x0) * stride - before
    rows, columns = ((last - 1) * stride - before for last in (box.y1, box.x1))
    if first + size <= 0 or rows >= x.height or columns >= x.width:
        raise ValueError(
            f"max-pool: expected windows that meet the {x.height}x{x.width} tensor, "
            f"got some of {size}x{size} at stride {stride}, padding {padding} for {box}"
        )


def prepare_max_forward(
    x: Tile, y: Tile, box: Box, size: int, stride: int, padding: int, argmax: np.ndarray
) -> Run:
    """What overwrites the cells `box` of `y` with each window's largest value.

    `argmax`, uint8 in the shape of `y`'s array, gets ``ky * size + kx`` of the first such
    cell in row-major order; it always names a cell of the tensor. `size` is at most 15.
    """
    _check_max(x, y, box, size, stride, padding, argmax)
    if box.empty or not len(y.array):
        return in_turn()
    work = _fast.max_forward_box if x.array.dtype == np.float32 else _pool.max_forward
    return partial(
        work,
        x.array,
        y.array,
        argmax,
        *local(y, box),
        box.height,
        box.width,
        *first_window(x, box, stride, padding // 2),
        size,
        stride,
    )


def prepare_max_backward(
    dy: Tile,
    box: Box,
    dx: Tile,
    size: int,
    stride: int,
    padding: int,
    argmax: np.ndarray,
    accumulate: bool = True,
) -> Run:
    """What adds the cells `box` of `dy` to the cells of `dx` that `argmax` names.

    Without `accumulate` they take the place of all that `dx` held.
    """
    _check_max(dx, dy, box, size, stride, padding, argmax)
    fast = dx.array.dtype == np.float32
    side_by_side = fast and stride == size
    cleared: tuple[Run, ...] = ()
    if not accumulate:
        covered = window(dx, box, (size, size), stride, padding // 2)
        cleared = (clear(*dx.around(covered if side_by_side else EMPTY)),)
    if box.empty or not len(dy.array):
        return in_turn(*cleared)
    geometry = (
        *local(dy, box),
        box.height,
        box.width,
        *first_window(dx, box, stride, padding // 2),
        size,
        stride,
    )
    arrays = (dy.array, dx.array, argmax)
    if not fast:
        return in_turn(*cleared, partial(_pool.max_backward, *arrays, *geometry))
    adds = accumulate or not side_by_side
    return in_turn(*cleared, partial(_fast.max_backward_box, *arrays, *geometry, adds))


max_forward = at_once(prepare_max_forward)
max_backward = at_once(prepare_max_backward)


def average_forward(x: Tile, y: Tile, box: Box) -> None:
    """Write each channel's mean over all of `x` to the one cell of `y`, summed in float64."""
    check_tile("average-pool input", x)
    check_tile("average-pool output", y, like=x)
    check_channels("average-pool output", y, x.array.shape[3])
    check_inside("average-pool output", y, box)
    check_whole("average-pool input", x)
    if box.empty or not len(x.array):
        return
    totals = np.zeros((x.array.shape[0], x.array.shape[3]))
    _pool.cell_sums(x.array, totals)
    y.view(box)[:, 0, 0, :] = totals / (x.height * x.width)


def average_backward(dy: Tile, box: Box, dx: Tile) -> None:
    """Add the one cell of `dy`, over the tensor's number of cells, to every cell of `dx`."""
    check_tile("average-pool input gradient", dx)
    check_tile("average-pool gradient", dy, like=dx)
    check_channels("average-pool gradient", dy, dx.array.shape[3])
    check_inside("average-pool gradient", dy, box)
    if box.empty or dx.box.empty or not len(dx.array):
        return
    shares = dy.view(box)[:, 0, 0, :] / dx.array.dtype.type(dx.height * dx.width)
    _pool.spread(dx.array, np.ascontiguousarray(shares))
