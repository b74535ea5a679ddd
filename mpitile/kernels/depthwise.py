"""Convolution of as many groups as there are channels and filters: a kernel for each channel.

Boxes and weights are as in `mpitile.kernels.conv`, which checks them. The float32 loops take
each output's sum in the order of its taps, wherever a tile begins.
"""

from __future__ import annotations

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _depthwise, _fast
from mpitile.kernels.checks import first_window, part
from mpitile.kernels.tile import Tile

LARGEST_KERNEL = 11


def possible(kernel: tuple[int, ...], groups: int) -> bool:
    """Whether weights of shape (kh, kw, C / groups, K) are one kernel for each channel."""
    height, width, channels, filters = kernel
    return channels == 1 and filters == groups > 1 and max(height, width) <= LARGEST_KERNEL


def forward(
    x: Tile,
    weights: np.ndarray,
    y: Tile,
    box: Box,
    stride: int,
    padding: int,
    biases: np.ndarray | None,
    slope: float,
) -> None:
    """Write the cells `box` of `y`; in float64 without biases and slope."""
    boxes = (x.array, part(x, x.box), weights, y.array, part(y, box))
    window = first_window(x, box, stride, padding)
    if y.array.dtype == np.float32:
        _fast.depthwise_forward_box(*boxes, window, stride, biases, slope)
    else:
        y.view(box)[...] = 0
        _depthwise.depthwise_forward_box(*boxes, window, stride)


def backward_input(
    dy: Tile,
    box: Box,
    weights: np.ndarray,
    dx: Tile,
    stride: int,
    padding: int,
    accumulate: bool,
) -> None:
    """Add to `dx` or overwrite it."""
    boxes = (dy.array, part(dy, box), weights, dx.array, part(dx, dx.box))
    window = first_window(dx, box, stride, padding)
    if dy.array.dtype == np.float32:
        _fast.depthwise_backward_input_box(*boxes, window, stride, accumulate)
    else:
        if not accumulate:
            dx.array[...] = 0
        _depthwise.depthwise_backward_input_box(*boxes, window, stride)


def backward_weights(
    x: Tile,
    dy: Tile,
    box: Box,
    dweights: np.ndarray,
    stride: int,
    padding: int,
    accumulate: bool,
) -> None:
    """Add to `dweights` or overwrite it."""
    if not accumulate:
        dweights[...] = 0
    loops = _fast if dy.array.dtype == np.float32 else _depthwise
    loops.depthwise_backward_weights_box(
        x.array,
        part(x, x.box),
        dy.array,
        part(dy, box),
        dweights,
        first_window(x, box, stride, padding),
        stride,
    )
