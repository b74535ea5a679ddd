"""Work cut into bands: some images, or some rows of one image, that stay in cache."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from mpitile.geometry.box import EMPTY, Box
from mpitile.geometry.receptive import Window
from mpitile.network.spec import Layer

# Elements of a tensor that a band holds: about what stays in cache.
BAND_ELEMENTS = 1 << 18
# Of a convolution in front of a merged pool: every call brings the weights into place anew.
POOLED_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Band:
    """The cells `box` of the images from `first` to before `stop`."""

    first: int
    stop: int
    box: Box

    @property
    def images(self) -> int:
        """How many images it has."""
        return self.stop - self.first


def cut_bands(
    images: int, box: Box, row_elements: int, most: int | None = None
) -> tuple[Band, ...]:
    """Bands of a box whose rows take so many elements; at least one row of one image each.

    Parameters
    ----------
    most : elements of a band; `BAND_ELEMENTS` if left out.
    """
    if box.empty or not images:
        return ()
    most = most or BAND_ELEMENTS
    image = box.height * row_elements
    at_once = max(1, most // max(1, image))
    rows = box.height
    if image > most:
        rows = max(1, most // row_elements)
        # Whole output tiles of Winograd's algorithm.
        rows -= rows % 4 if rows > 4 else 0
    return tuple(
        Band(first, stop, Box(top, min(top + rows, box.y1), box.x0, box.x1))
        for first, stop in _even(images, at_once)
        for top in range(box.y0, box.y1, rows)
    )


def product_calls(images: int, box: Box, row_elements: int) -> tuple[Band, ...]:
    """The calls that a convolution in front of batch norm is computed in, forward.

    Each call reads all weights: one for all images, where these are small.
    """
    if box.height * row_elements <= BAND_ELEMENTS:
        return (Band(0, images, box),)
    return cut_bands(images, box, row_elements)


def _even(images: int, at_once: int) -> list[tuple[int, int]]:
    """Ranges of about equal length, at most `at_once`."""
    count = -(-images // at_once)
    return list(pairwise(images * number // count for number in range(count + 1)))


def pooled_bands(
    convolution: Layer, pooling: Layer, images: int, box: Box, inner: Box
) -> tuple[tuple[Band, Band], ...]:
    """What a merged pool's box is worked through in.

    Each band comes with that of the convolution's output that it is taken from.

    Parameters
    ----------
    box, inner : what is computed of the pool's output, and of the convolution's. With batch
        norm the bands cover all of `inner`: where it has cells that no window of the box
        reads, because cut lines do not meet the pool's windows, their gradient is still
        corrected by the means over the batch.
    """
    operation, shape = pooling.operation, convolution.output_shape
    window = Window(operation.size, operation.size, operation.stride, operation.padding // 2)

    def needs(pooled: Box) -> Box:
        return window.needs(pooled, shape.height, shape.width)

    if not convolution.operation.batch_normalize:
        inner = needs(box)
    elif needs(box).empty:
        parts = cut_bands(images, inner, inner.width * shape.channels)
        return tuple((Band(part.first, part.stop, EMPTY), part) for part in parts)
    bands = cut_bands(images, box, inner.width * shape.channels * operation.stride, POOLED_ELEMENTS)
    return tuple(
        (band, Band(band.first, band.stop, _widened(needs(band.box), inner, box, band.box)))
        for band in bands
    )


def _widened(part: Box, inner: Box, box: Box, band: Box) -> Box:
    """All columns of `inner`, and its first or last rows in the first or last band of `box`."""
    return Box(
        inner.y0 if band.y0 == box.y0 else part.y0,
        inner.y1 if band.y1 == box.y1 else part.y1,
        inner.x0,
        inner.x1,
    )


def band_elements(convolution: Layer, pooling: Layer, images: int, box: Box, inner: Box) -> int:
    """Elements of scratch memory that the largest band wants."""
    bands = pooled_bands(convolution, pooling, images, box, inner)
    cells = (part.box.cells * part.images for _, part in bands)
    return max(cells, default=0) * convolution.output_shape.channels
