"""How a convolution and the max-pool behind it are cut into bands that stay in cache."""

from __future__ import annotations

from dataclasses import dataclass

from mpitile.geometry.box import Box
from mpitile.geometry.receptive import Window
from mpitile.network.spec import Layer

# Elements of the convolution's output that a band holds: about what stays in cache.
BAND_ELEMENTS = 1 << 19


@dataclass(frozen=True, slots=True)
class Band:
    """Some rows of the pooled box, and the convolution's output that they are taken from."""

    pooled: Box
    inner: Box


def cut_bands(convolution: Layer, pooling: Layer, box: Box) -> tuple[Band, ...]:
    """Bands of whole rows of `box`, as high as `BAND_ELEMENTS` allows, at least one row."""
    operation, shape = pooling.operation, convolution.output_shape
    window = Window(operation.size, operation.size, operation.stride, operation.padding // 2)
    width = window.needs(box, shape.height, shape.width).width
    rows = max(1, BAND_ELEMENTS // max(1, width * shape.channels * operation.stride))
    bands = []
    for top in range(box.y0, box.y0 + box.height, rows):
        pooled = Box(top, min(top + rows, box.y1), box.x0, box.x1)
        if not pooled.empty:
            bands.append(Band(pooled, window.needs(pooled, shape.height, shape.width)))
    return tuple(bands)


def band_elements(convolution: Layer, pooling: Layer, box: Box) -> int:
    """Elements of scratch memory that the largest band wants."""
    bands = cut_bands(convolution, pooling, box)
    return max((band.inner.cells for band in bands), default=0) * convolution.output_shape.channels
