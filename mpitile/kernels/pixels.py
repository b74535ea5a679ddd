"""The cells of a canvas from an image's bytes, and a change of their colours.

A cell has the same bits whatever else is computed with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpitile.kernels import _pixels
from mpitile.kernels.checks import DTYPES, check_array


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Along one axis, the two source cells that each target cell mixes.

    Attributes
    ----------
    cells : intp (2, n): of the source.
    weights : (2, n), of the target's dtype.
    """

    cells: np.ndarray
    weights: np.ndarray

    @property
    def count(self) -> int:
        return self.cells.shape[1]

    def mirrored(self) -> Taps:
        """The same for the target cells from last to first."""
        return Taps(
            np.ascontiguousarray(self.cells[:, ::-1]), np.ascontiguousarray(self.weights[:, ::-1])
        )


def resample(image: np.ndarray, rows: Taps, columns: Taps, out: np.ndarray) -> None:
    """Write the mixtures of four pixels each: first between rows, then between columns, over 255.

    Parameters
    ----------
    image : uint8 (height, width, 3), C-contiguous.
    out : (rows.count, columns.count, 3), float32 or float64, its rows contiguous.

    Raises
    ------
    ValueError
        where shapes, dtypes or cells do not fit.
    """
    check_array("image", image, (*image.shape[:2], 3), np.uint8)
    if out.dtype not in DTYPES or out.shape != (rows.count, columns.count, 3):
        raise ValueError(
            f"out: expected {(rows.count, columns.count, 3)} float32 or float64, "
            f"got {out.shape} {out.dtype}"
        )
    _check("rows", rows, image.shape[0], out.dtype)
    _check("columns", columns, image.shape[1], out.dtype)
    if not out.size:
        return
    if out.strides[1:] != (3 * out.itemsize, out.itemsize):
        raise ValueError(f"out: expected contiguous rows, got strides {out.strides}")
    first, last = int(columns.cells.min()), int(columns.cells.max())
    band = np.empty(3 * (last + 1 - first) + 1, out.dtype)
    _pixels.resample(
        image, first, rows.cells, rows.weights, columns.cells - first, columns.weights, band, out
    )


def _check(name: str, taps: Taps, size: int, dtype: np.dtype) -> None:
    """Raise `ValueError` unless all cells lie in a source of this size."""
    check_array(f"cells of {name}", taps.cells, (2, taps.count), np.intp)
    check_array(f"weights of {name}", taps.weights, (2, taps.count), dtype)
    if taps.count and not 0 <= taps.cells.min() <= taps.cells.max() < size:
        raise ValueError(
            f"cells of {name}: expected them in [0, {size}), "
            f"got {taps.cells.min()} to {taps.cells.max()}"
        )


def change_colours(pixels: np.ndarray, hue: float, saturation: float, exposure: float) -> None:
    """Shift hue and scale saturation and exposure in place, clipped to [0, 1].

    Parameters
    ----------
    pixels : (..., 3) RGB in [0, 1], float32 or float64, C-contiguous.
    hue : the shift, in turns of the colour circle.
    saturation, exposure : factors, of HSV's saturation and value.

    Raises
    ------
    ValueError
        where shape, dtype or memory of `pixels` is another.

    Notes
    -----
    Darknet's ``distort_image``. Back in RGB a channel is ``value - value * saturation *
    part`` with `part` in [0, 1] given by the hue's distance from the channel's own;
    ``value * saturation`` is the spread of the channels times both factors, so that no
    saturation is ever divided out.
    """
    if pixels.dtype not in DTYPES:
        raise ValueError(f"pixels: expected float32 or float64, got {pixels.dtype}")
    check_array("pixels", pixels, (*pixels.shape[:-1], 3), pixels.dtype)
    _pixels.change_colours(pixels.reshape(-1, 3), 6 * hue % 6, exposure, exposure * saturation)
