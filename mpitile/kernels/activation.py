"""Bias and activation in place, their gradient, and that of the bias.

Derivatives are taken from the activation's output, as Darknet does.
"""

from __future__ import annotations

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _activation
from mpitile.kernels.checks import (
    check_array,
    check_channels,
    check_inside,
    check_tile,
    local,
)
from mpitile.kernels.tile import Tile

# Of activations that are linear on both sides of zero: the slope below it.
SLOPES = {"linear": 1.0, "leaky": 0.1, "relu": 0.0}


def check_kind(kind: str) -> None:
    """Raise `ValueError` unless there is such an activation."""
    if kind not in _activation.KINDS:
        names = ", ".join(_activation.KINDS)
        raise ValueError(f"activation: expected one of {names}, got {kind!r}")


def _number(kind: str) -> int:
    check_kind(kind)
    return _activation.KINDS[kind]


def check_bias_gradient(dy: Tile, out: np.ndarray) -> None:
    """Raise `ValueError` unless `out` has an entry for each channel of `dy`."""
    channels = dy.array.shape[3]
    if out.shape != (channels,):
        raise ValueError(f"bias gradient: expected shape {(channels,)}, got {out.shape}")


def forward(y: Tile, box: Box, biases: np.ndarray | None, kind: str) -> None:
    """Replace the cells `box` by ``f(y + bias)``.

    `biases` is (K,) of the tile's dtype, or None for none. `kind` is "linear", "leaky"
    (slope 0.1), "relu" or "logistic".
    """
    number = _number(kind)
    check_tile("activation", y)
    check_inside("activation", y, box)
    channels = y.array.shape[3]
    if biases is None:
        if kind == "linear":
            return
        biases = np.zeros(channels, y.array.dtype)
    check_array("biases", biases, (channels,), y.array.dtype)
    if not box.empty:
        _activation.forward(y.array, biases, number, *local(y, box), box.height, box.width)


def backward(dy: Tile, y: Tile, box: Box, kind: str) -> None:
    """Multiply the cells `box` of `dy` by the derivative where the output was `y`."""
    number = _number(kind)
    check_tile("activation output", y)
    check_tile("activation gradient", dy, like=y)
    check_channels("activation gradient", dy, y.array.shape[3])
    check_inside("activation output", y, box)
    check_inside("activation gradient", dy, box)
    if kind == "linear" or box.empty:
        return
    _activation.backward(
        dy.array, y.array, number, *local(dy, box), *local(y, box), box.height, box.width
    )


def bias_gradient(dy: Tile, box: Box, out: np.ndarray) -> None:
    """Add to `out` (K,) the sums of `dy` over the images and the cells `box`.

    The sums are taken in float64; `out` is of the tile's dtype or float64.
    """
    check_tile("bias gradient", dy)
    check_inside("bias gradient", dy, box)
    check_bias_gradient(dy, out)
    if box.empty:
        return
    totals = np.zeros(dy.array.shape[3])
    _activation.channel_sums(dy.array, totals, *local(dy, box), box.height, box.width)
    out += totals
