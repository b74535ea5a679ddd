"""Bias and activation in place, their gradient, and that of the bias.

Derivatives are taken from the activation's output, as Darknet does, but for those of
`BEFORE`, whose output does not tell the input.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _activation
from mpitile.kernels.checks import (
    check_array,
    check_channels,
    check_inside,
    check_tile,
    local,
    part,
)
from mpitile.kernels.prepared import Run, at_once, in_turn
from mpitile.kernels.tile import Tile

# Of activations that are linear on both sides of zero: the slope below it.
SLOPES = {"linear": 1.0, "leaky": 0.1, "relu": 0.0}
# Those whose derivative is taken from their input, by `backward_before`.
BEFORE = frozenset({"mish"})


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
    (slope 0.1), "relu", "logistic" or "mish" (Misra, arXiv 1908.08681).
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


def prepare_backward(dy: Tile, y: Tile, box: Box, kind: str) -> Run:
    """What multiplies the cells `box` of `dy` by the derivative where the output was `y`."""
    number = _number(kind)
    if kind in BEFORE:
        raise ValueError(f"activation: the output of {kind} does not tell its derivative")
    check_tile("activation output", y)
    check_tile("activation gradient", dy, like=y)
    check_channels("activation gradient", dy, y.array.shape[3])
    check_inside("activation output", y, box)
    check_inside("activation gradient", dy, box)
    if kind == "linear" or box.empty:
        return in_turn()
    places = (*local(dy, box), *local(y, box), box.height, box.width)
    return partial(_activation.backward, dy.array, y.array, number, *places)


def backward_before(
    dy: Tile,
    x: Tile,
    box: Box,
    kind: str,
    mean: np.ndarray | None = None,
    factor: np.ndarray | None = None,
    biases: np.ndarray | None = None,
) -> None:
    """Multiply the cells `box` of `dy` by the derivative at ``(x - mean) * factor + biases``.

    `kind` is one of `BEFORE`; `mean`, `factor` and `biases` are (C,) of the tiles' dtype,
    and 0, 1 and 0 where left out.
    """
    check_kind(kind)
    if kind not in BEFORE:
        raise ValueError(f"activation: the derivative of {kind} is taken from its output")
    check_tile("activation input", x)
    check_tile("activation gradient", dy, like=x)
    channels, dtype = x.array.shape[3], x.array.dtype
    check_channels("activation gradient", dy, channels)
    check_inside("activation input", x, box)
    check_inside("activation gradient", dy, box)
    arrays = []
    for name, array, value in (("mean", mean, 0), ("factor", factor, 1), ("biases", biases, 0)):
        arrays.append(np.full(channels, value, dtype) if array is None else array)
        check_array(f"activation {name}", arrays[-1], (channels,), dtype)
    if not box.empty:
        _activation.backward_before(
            dy.array, x.array, *arrays, *local(dy, box), *local(x, box), box.height, box.width
        )


def prepare_bias_gradient(dy: Tile, box: Box, out: np.ndarray) -> Run:
    """What adds to `out` (K,) the sums of `dy` over the images and the cells `box`.

    The sums are taken in float64; `out` is of the tile's dtype or float64.
    """
    check_tile("bias gradient", dy)
    check_inside("bias gradient", dy, box)
    check_bias_gradient(dy, out)
    if box.empty:
        return in_turn()
    totals = np.empty(dy.array.shape[3])
    cells = part(dy, box)

    def run() -> None:
        totals[...] = 0
        _activation.channel_sums(dy.array, totals, *cells)
        np.add(out, totals, out=out, casting="same_kind")

    return run


backward = at_once(prepare_backward)
bias_gradient = at_once(prepare_bias_gradient)
