"""Cross-correlation of tiles and its two gradients, by bounded im2row panels and BLAS.

Weights are (kernel height, kernel width, C, K). An output cell's window starts at
``cell * stride - padding``; cells outside the tensor count as zero. The workspace is a
1-D array of the tiles' dtype, at least one patch (kernel height * kernel width * C) long;
its length changes the grouping of sums and the speed, nothing else. The same call gives the
same bits.
"""

from __future__ import annotations

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _conv
from mpitile.kernels.checks import (
    check_array,
    check_channels,
    check_inside,
    check_tile,
    first_window,
    local,
    window,
)
from mpitile.kernels.tile import Tile

PANEL_LIMIT = 2**18


def workspace_size(
    kernel_height: int,
    kernel_width: int,
    channels: int,
    filters: int,
    limit: int = PANEL_LIMIT,
) -> int:
    """Elements of the workspace that a layer wants: `limit`, or one patch where that is more."""
    return max(limit, kernel_height * kernel_width * channels)


def _check(
    x: Tile,
    weights: np.ndarray,
    y: Tile,
    box: Box,
    stride: int,
    padding: int,
    workspace: np.ndarray,
) -> None:
    check_tile("conv input", x)
    check_tile("conv output", y, like=x)
    if weights.ndim != 4:
        raise ValueError(f"conv weights: expected 4 dimensions, got shape {weights.shape}")
    kernel_height, kernel_width, channels, filters = weights.shape
    check_array("conv weights", weights, weights.shape, x.array.dtype)
    check_channels("conv input", x, channels)
    check_channels("conv output", y, filters)
    if stride < 1 or padding < 0:
        raise ValueError(f"conv: expected stride >= 1 and padding >= 0, got {stride}, {padding}")
    check_inside("conv output", y, box)
    check_inside("conv input", x, window(x, box, (kernel_height, kernel_width), stride, padding))
    patch = kernel_height * kernel_width * channels
    check_array("conv workspace", workspace, (max(workspace.size, patch),), x.array.dtype)


def forward(
    x: Tile,
    weights: np.ndarray,
    y: Tile,
    box: Box,
    stride: int,
    padding: int,
    workspace: np.ndarray,
) -> None:
    """Overwrite the cells `box` of `y` with the cross-correlation of `x`, without bias."""
    _check(x, weights, y, box, stride, padding, workspace)
    if box.empty or not len(y.array):
        return
    _conv.forward(
        x.array, weights, y.array, workspace, *local(y, box), box.height, box.width,
        *first_window(x, box, stride, padding), stride, padding,
    )


def backward_input(
    dy: Tile,
    box: Box,
    weights: np.ndarray,
    dx: Tile,
    stride: int,
    padding: int,
    workspace: np.ndarray,
) -> None:
    """Add to `dx` what the cells `box` of `dy` give back; none of it falls outside the tensor."""
    _check(dx, weights, dy, box, stride, padding, workspace)
    if box.empty or not len(dy.array):
        return
    _conv.backward_input(
        dy.array, weights, dx.array, workspace, *local(dy, box), box.height, box.width,
        *first_window(dx, box, stride, padding), stride, padding,
    )


def backward_weights(
    x: Tile,
    dy: Tile,
    box: Box,
    dweights: np.ndarray,
    stride: int,
    padding: int,
    workspace: np.ndarray,
) -> None:
    """Add to `dweights` the gradient that the cells `box` of `dy` cause."""
    _check(x, dweights, dy, box, stride, padding, workspace)
    if box.empty or not len(dy.array):
        return
    _conv.backward_weights(
        x.array, dy.array, dweights, workspace, *local(dy, box), box.height, box.width,
        *first_window(x, box, stride, padding), stride, padding,
    )
