"""A convolution and the max-pool behind it, band by band: the tensor between is never stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpitile.geometry.box import EMPTY, Box
from mpitile.geometry.receptive import Window
from mpitile.kernels import activation, conv, pool
from mpitile.kernels.tile import Tile
from mpitile.layers.bands import Band, cut_bands
from mpitile.layers.base import Site, Step
from mpitile.layers.normalized import NormalizedProduct
from mpitile.network.kept import ARGMAX
from mpitile.network.spec import Layer

# A band of the pool's output, and of the convolution's output that it is taken from.
Bands = tuple[tuple[Band, Band], ...]


def pooled_bands(convolution: Layer, pooling: Layer, images: int, box: Box, inner: Box) -> Bands:
    """What a merged pool's box is worked through in.

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
        return tuple((Band(part.images, EMPTY), part) for part in parts)
    bands = cut_bands(images, box, inner.width * shape.channels * operation.stride)
    return tuple(
        (band, Band(band.images, _widened(needs(band.box), inner, box, band.box))) for band in bands
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
    cells = (part.box.cells * _count(part) for _, part in bands)
    return max(cells, default=0) * convolution.output_shape.channels


class PooledConvolution:
    """Convolution, batch norm or bias, activation, then max-pool, band by band.

    In backward the pooled gradient is multiplied by the activation's derivative, which
    the pooled output tells as well as the lost one, and scattered into a band that the
    convolution's gradients read at once.

    Parameters
    ----------
    site : the convolution's; its output and output delta are not used.
    pool_site : the pool's; its inputs are not used.
    """

    def __init__(self, site: Site, pool_site: Site) -> None:
        self.site = site
        self._pool = pool_site
        self._convolution = site.layer.operation
        pooling = pool_site.layer.operation
        self._window = pooling.size, pooling.stride, pooling.padding
        images = len(site.inputs[0].array)
        self._bands = pooled_bands(site.layer, pool_site.layer, images, pool_site.box, site.box)
        self._normalized = None
        if self._convolution.batch_normalize:
            self._normalized = NormalizedProduct(
                site,
                self._convolution.stride,
                self._convolution.padding,
                self._convolution.groups,
            )

    def forward(self, step: Step) -> None:
        if self._normalized:
            self._normalized.forward(step)
        for band, inner in self._bands:
            tile = self._inner(inner)
            if self._normalized:
                self._normalized.apply(inner, tile)
            else:
                self._convolve(inner, tile)
            output = band.of(self._pool.output)
            pool.max_forward(tile, output, band.box, *self._window, self._argmax(band))

    def _convolve(self, inner: Band, tile: Tile) -> None:
        site, operation = self.site, self._convolution
        conv.forward(
            inner.of(site.inputs[0]),
            site.parameters["weights"],
            tile,
            tile.box,
            operation.stride,
            operation.padding,
            site.workspace,
            biases=site.parameters["biases"],
            activation=operation.activation,
            algorithm=site.algorithms.get("forward"),
            groups=operation.groups,
        )

    def backward_input(self, step: Step) -> None:
        site, pooled = self.site, self._pool
        activation.backward(
            pooled.output_delta, pooled.output, pooled.box, self._convolution.activation
        )
        if self._normalized:
            self._sum(self._normalized, step)
        else:
            activation.bias_gradient(pooled.output_delta, pooled.box, site.gradients["biases"])
        if site.input_deltas[0] is None:
            return
        for inner, delta in self._deltas():
            conv.backward_input(
                delta,
                delta.box,
                site.parameters["weights"],
                inner.of(site.input_deltas[0]),
                self._convolution.stride,
                self._convolution.padding,
                site.workspace,
                algorithm=site.algorithms.get("backward_input"),
                groups=self._convolution.groups,
            )

    def _sum(self, normalized: NormalizedProduct, step: Step) -> None:
        normalized.normalization.begin_backward()
        for band, inner in self._bands:
            normalized.sum(inner, self._scattered(band, inner))
        normalized.normalization.agree_backward(step)

    def backward_weights(self, step: Step) -> None:
        site, accumulate = self.site, not step.overwrite
        if step.overwrite and not self._bands:
            site.gradients["weights"][...] = 0
        for inner, delta in self._deltas():
            conv.backward_weights(
                inner.of(site.inputs[0]),
                delta,
                delta.box,
                site.gradients["weights"],
                self._convolution.stride,
                self._convolution.padding,
                site.workspace,
                accumulate=accumulate,
                algorithm=site.algorithms.get("backward_weights"),
                groups=self._convolution.groups,
            )
            accumulate = True

    def _deltas(self) -> Iterator[tuple[Band, Tile]]:
        """Band by band, the gradient of the convolution's product."""
        for band, inner in self._bands:
            delta = self._scattered(band, inner)
            if self._normalized:
                self._normalized.differentiate(inner, delta)
            yield inner, delta

    def _inner(self, inner: Band) -> Tile:
        """The scratch memory as a band's tile of the convolution's output."""
        shape, box = self.site.layer.output_shape, inner.box
        images = _count(inner)
        cells = self.site.scratch[: images * box.cells * shape.channels]
        array = cells.reshape(images, box.height, box.width, shape.channels)
        return Tile(array, box, shape.height, shape.width)

    def _scattered(self, band: Band, inner: Band) -> Tile:
        """The gradient of the activated output in a band."""
        tile = self._inner(inner)
        tile.array[...] = 0
        delta = band.of(self._pool.output_delta)
        pool.max_backward(delta, band.box, tile, *self._window, self._argmax(band))
        return tile

    def _argmax(self, band: Band) -> np.ndarray:
        return self._pool.kept[ARGMAX][band.images]


def _count(band: Band) -> int:
    return band.images.stop - band.images.start
