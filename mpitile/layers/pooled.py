"""A convolution and the max-pool behind it, band by band: the tensor between is never stored."""

from __future__ import annotations

import numpy as np

from mpitile.kernels import activation, conv, pool
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Site, Step
from mpitile.network.kept import ARGMAX
from mpitile.plan.bands import Band, cut_bands


class PooledConvolution:
    """Convolution with bias and activation, then max-pool, image by image and band by band.

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
        self._bands = cut_bands(site.layer, pool_site.layer, pool_site.box)

    def forward(self, step: Step) -> None:
        site, operation = self.site, self._convolution
        for image in range(len(site.inputs[0].array)):
            source, output = _image(site.inputs[0], image), _image(self._pool.output, image)
            for band in self._bands:
                inner = self._inner(band)
                conv.forward(
                    source,
                    site.parameters["weights"],
                    inner,
                    inner.box,
                    operation.stride,
                    operation.padding,
                    site.workspace,
                    biases=site.parameters["biases"],
                    activation=operation.activation,
                    algorithm=site.algorithms.get("forward"),
                )
                pool.max_forward(inner, output, band.pooled, *self._window, self._argmax(image))

    def backward_input(self, step: Step) -> None:
        site, pooled = self.site, self._pool
        activation.backward(
            pooled.output_delta, pooled.output, pooled.box, self._convolution.activation
        )
        activation.bias_gradient(pooled.output_delta, pooled.box, site.gradients["biases"])
        if site.input_deltas[0] is None:
            return
        for image in range(len(site.inputs[0].array)):
            target = _image(site.input_deltas[0], image)
            for band in self._bands:
                inner = self._scattered(band, image)
                conv.backward_input(
                    inner,
                    inner.box,
                    site.parameters["weights"],
                    target,
                    self._convolution.stride,
                    self._convolution.padding,
                    site.workspace,
                    algorithm=site.algorithms.get("backward_input"),
                )

    def backward_weights(self, step: Step) -> None:
        site = self.site
        for image in range(len(site.inputs[0].array)):
            source = _image(site.inputs[0], image)
            for band in self._bands:
                inner = self._scattered(band, image)
                conv.backward_weights(
                    source,
                    inner,
                    inner.box,
                    site.gradients["weights"],
                    self._convolution.stride,
                    self._convolution.padding,
                    site.workspace,
                    algorithm=site.algorithms.get("backward_weights"),
                )

    def _inner(self, band: Band) -> Tile:
        """The scratch memory as one image's tile of the convolution's output."""
        shape, box = self.site.layer.output_shape, band.inner
        cells = self.site.scratch[: box.cells * shape.channels]
        array = cells.reshape(1, box.height, box.width, shape.channels)
        return Tile(array, box, shape.height, shape.width)

    def _scattered(self, band: Band, image: int) -> Tile:
        """The gradient of the convolution's output in a band of an image."""
        inner = self._inner(band)
        inner.array[...] = 0
        delta = _image(self._pool.output_delta, image)
        pool.max_backward(delta, band.pooled, inner, *self._window, self._argmax(image))
        return inner

    def _argmax(self, image: int) -> np.ndarray:
        return self._pool.kept[ARGMAX][image : image + 1]


def _image(tile: Tile, image: int) -> Tile:
    """One image of a tile."""
    return Tile(tile.array[image : image + 1], tile.box, tile.height, tile.width)
