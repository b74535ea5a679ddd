"""A convolution and the max-pool behind it, band by band: the tensor between is never stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpitile.kernels import activation, conv, pool
from mpitile.kernels.tile import Tile
from mpitile.layers.bands import images_of
from mpitile.layers.base import Site, Step
from mpitile.layers.normalized import NormalizedProduct
from mpitile.network.kept import ARGMAX
from mpitile.plan.bands import Band, pooled_bands


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
            output = images_of(self._pool.output, band)
            pool.max_forward(tile, output, band.box, *self._window, self._argmax(band))

    def _convolve(self, inner: Band, tile: Tile) -> None:
        site, operation = self.site, self._convolution
        conv.forward(
            images_of(site.inputs[0], inner),
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
        if site.fresh and not self._bands:
            site.input_deltas[0].array[...] = 0
        written = 0 if site.fresh else len(site.inputs[0].array)
        for inner, delta in self._deltas():
            conv.backward_input(
                delta,
                delta.box,
                site.parameters["weights"],
                images_of(site.input_deltas[0], inner),
                self._convolution.stride,
                self._convolution.padding,
                site.workspace,
                accumulate=inner.first < written,
                algorithm=site.algorithms.get("backward_input"),
                groups=self._convolution.groups,
            )
            # What it does not overwrite, the first of an image's bands sets to zero.
            written = max(written, inner.stop)

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
                images_of(site.inputs[0], inner),
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
        images = inner.images
        cells = self.site.scratch[: images * box.cells * shape.channels]
        array = cells.reshape(images, box.height, box.width, shape.channels)
        return Tile(array, box, shape.height, shape.width)

    def _scattered(self, band: Band, inner: Band) -> Tile:
        """The gradient of the activated output in a band."""
        tile = self._inner(inner)
        delta = images_of(self._pool.output_delta, band)
        argmax = self._argmax(band)
        pool.max_backward(delta, band.box, tile, *self._window, argmax, accumulate=False)
        return tile

    def _argmax(self, band: Band) -> np.ndarray:
        return self._pool.kept[ARGMAX][band.first : band.stop]
