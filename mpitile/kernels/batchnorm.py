"""Batch normalisation, cut where sums cross ranks (Ioffe and Szegedy 2015).

Sums, means and inverse deviations are float64; scales and biases have the tiles' dtype.
With ``xhat = (x - mean) * inverse_deviation`` the output is ``scale * xhat + bias``. What is
named `prepare_` returns the work, to be run with what the arrays hold then.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _batchnorm, _fast
from mpitile.kernels import activation as activations
from mpitile.kernels.activation import SLOPES
from mpitile.kernels.checks import (
    check_array,
    check_channels,
    check_inside,
    check_tile,
    part,
)
from mpitile.kernels.prepared import Run, at_once, in_turn
from mpitile.kernels.tile import Tile

FLOAT64 = np.dtype(np.float64)
# The same functions for either dtype.
_LOOPS = {np.dtype(np.float32): _fast, FLOAT64: _batchnorm}


def _check_pair(x: Tile, other: Tile, box: Box) -> None:
    check_tile("batch norm input", x)
    check_tile("batch norm output", other, like=x)
    check_channels("batch norm output", other, x.array.shape[3])
    check_inside("batch norm input", x, box)
    check_inside("batch norm output", other, box)


def _check_statistics(x: Tile, **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        check_array(f"batch norm {name}", array, (x.array.shape[3],), FLOAT64)


def prepare_sums(x: Tile, box: Box, out: np.ndarray) -> Run:
    """What adds to `out` (C,), float64, the sums of x over the cells `box`."""
    check_tile("batch norm input", x)
    check_inside("batch norm input", x, box)
    _check_statistics(x, sums=out)
    if box.empty:
        return in_turn()
    return partial(_LOOPS[x.array.dtype].sums_box, x.array, part(x, box), out)


def prepare_squares(x: Tile, box: Box, mean: np.ndarray, out: np.ndarray) -> Run:
    """What adds to `out` (C,), float64, the sums of ``(x - mean)**2`` over the cells `box`."""
    check_tile("batch norm input", x)
    check_inside("batch norm input", x, box)
    _check_statistics(x, mean=mean, squares=out)
    if box.empty:
        return in_turn()
    return partial(_LOOPS[x.array.dtype].squares_box, x.array, part(x, box), mean, out)


def prepare_normalize(
    x: Tile,
    y: Tile,
    box: Box,
    mean: np.ndarray,
    inverse_deviation: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    activation: str = "linear",
) -> Run:
    """What overwrites the cells `box` of `y`, which may be `x` itself, with the normalised `x`.

    The `activation`, as in `mpitile.kernels.activation`, comes behind.
    """
    _check_pair(x, y, box)
    dtype = x.array.dtype
    _check_statistics(x, mean=mean, inverse_deviation=inverse_deviation)
    check_array("batch norm scales", scales, mean.shape, dtype)
    check_array("batch norm biases", biases, mean.shape, dtype)
    activations.check_kind(activation)
    if box.empty:
        return in_turn()
    middle, factor = np.empty_like(biases), np.empty_like(biases)
    call = partial(
        _LOOPS[dtype].normalize_box,
        x.array,
        part(x, box),
        y.array,
        part(y, box),
        middle,
        factor,
        biases,
        SLOPES.get(activation, 1.0),
    )

    def run() -> None:
        middle[...] = mean
        factor[...] = scales * inverse_deviation
        call()

    if activation in SLOPES:
        return run
    return in_turn(run, partial(activations.forward, y, box, None, activation))


def prepare_activation_backward(
    dy: Tile,
    x: Tile,
    box: Box,
    mean: np.ndarray,
    inverse_deviation: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    activation: str,
) -> Run:
    """What multiplies the cells `box` of `dy` by the derivative of what `normalize` did to `x`.

    The `activation` is one of `mpitile.kernels.activation.BEFORE`.
    """
    dtype = x.array.dtype
    _check_statistics(x, mean=mean, inverse_deviation=inverse_deviation)

    def run() -> None:
        factor = (scales * inverse_deviation).astype(dtype)
        activations.backward_before(dy, x, box, activation, mean.astype(dtype), factor, biases)

    return run


def prepare_backward_sums(
    dy: Tile,
    x: Tile,
    box: Box,
    mean: np.ndarray,
    inverse_deviation: np.ndarray,
    out: np.ndarray,
) -> Run:
    """What adds to `out` (2, C), float64, the sums of dy and of dy times xhat over the cells `box`.

    They are the gradients of the biases and of the scales.
    """
    _check_pair(x, dy, box)
    _check_statistics(x, mean=mean, inverse_deviation=inverse_deviation)
    check_array("batch norm sums", out, (2, mean.size), FLOAT64)
    if box.empty:
        return in_turn()
    totals = np.empty_like(out)
    cells = (dy.array, part(dy, box), x.array, part(x, box))
    call = partial(_LOOPS[x.array.dtype].products_box, *cells, mean, totals)

    def run() -> None:
        totals[...] = 0
        call()
        np.multiply(totals[1], inverse_deviation, out=totals[1])
        np.add(out, totals, out=out)

    return run


def prepare_backward(
    dy: Tile,
    x: Tile,
    box: Box,
    owned: Box,
    mean: np.ndarray,
    inverse_deviation: np.ndarray,
    scales: np.ndarray,
    mean_dy: np.ndarray,
    mean_dy_xhat: np.ndarray,
) -> Run:
    """What replaces the cells `box` of `dy` by the gradient of the input `x`.

    In `owned` cells that is ``scale * inverse_deviation * (dy - mean_dy - xhat *
    mean_dy_xhat)`` with the means over the whole batch. Elsewhere the two means are left
    out: there `dy` is a share of what the cell's owner, who subtracts them, adds up.
    """
    _check_pair(x, dy, box)
    dtype = x.array.dtype
    _check_statistics(
        x,
        mean=mean,
        inverse_deviation=inverse_deviation,
        mean_dy=mean_dy,
        mean_dy_xhat=mean_dy_xhat,
    )
    check_array("batch norm scales", scales, mean.shape, dtype)
    if box.empty:
        return in_turn()
    centred = box.intersect(owned)
    middle, factor, shift, tilt = np.empty((4, mean.size), dtype)
    none = np.zeros_like(shift)
    parts = [(centred, shift, tilt)] + [(rest, none, none) for rest in _around(box, centred)]
    calls = in_turn(
        *(
            partial(
                _LOOPS[dtype].centre_box,
                dy.array,
                part(dy, cells),
                x.array,
                part(x, cells),
                middle,
                factor,
                *correction,
            )
            for cells, *correction in parts
            if not cells.empty
        )
    )

    def run() -> None:
        middle[...], shift[...] = mean, mean_dy
        factor[...] = scales * inverse_deviation
        tilt[...] = inverse_deviation * mean_dy_xhat
        calls()

    return run


def _around(box: Box, inner: Box) -> list[Box]:
    """Up to four boxes that together hold the cells of `box` outside `inner`."""
    if inner.empty:
        return [box]
    parts = (
        Box(box.y0, inner.y0, box.x0, box.x1),
        Box(inner.y1, box.y1, box.x0, box.x1),
        Box(inner.y0, inner.y1, box.x0, inner.x0),
        Box(inner.y0, inner.y1, inner.x1, box.x1),
    )
    return [part for part in parts if not part.empty]


sums = at_once(prepare_sums)
squares = at_once(prepare_squares)
normalize = at_once(prepare_normalize)
activation_backward = at_once(prepare_activation_backward)
backward_sums = at_once(prepare_backward_sums)
backward = at_once(prepare_backward)
