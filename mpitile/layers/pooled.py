"""A convolution and the max-pool behind it, band by band: the tensor between is never stored."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mpitile.kernels import activation, conv, pool
from mpitile.kernels.prepared import Run, clear, in_turn
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
        self._forward()

    @cached_property
    def _forward(self) -> Run:
        return in_turn(*(self._pool_band(band, inner) for band, inner in self._bands))

    def _pool_band(self, band: Band, inner: Band) -> Run:
        tile = self._inner(inner)
        if self._normalized:
            before = self._normalized.prepare_apply(inner, tile)
        else:
            before = self._convolve(inner, tile)
        output = images_of(self._pool.output, band)
        argmax = self._argmax(band)
        pooled = pool.prepare_max_forward(tile, output, band.box, *self._window, argmax)
        return in_turn(before, pooled)

    def _convolve(self, inner: Band, tile: Tile) -> Run:
        site, operation = self.site, self._convolution
        return conv.prepare_forward(
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
        self._differentiate()
        if self._normalized:
            self._sum(self._normalized, step)
        if self.site.input_deltas[0] is not None:
            self._backward_input()

    @cached_property
    def _differentiate(self) -> Run:
        """Multiplies the activation's derivative into the pooled gradient; sums of biases' too."""
        pooled, kind = self._pool, self._convolution.activation
        delta, box = pooled.output_delta, pooled.box
        runs = [activation.prepare_backward(delta, pooled.output, box, kind)]
        if not self._normalized:
            biases = self.site.gradients["biases"]
            runs.append(activation.prepare_bias_gradient(delta, box, biases))
        return in_turn(*runs)

    @cached_property
    def _backward_input(self) -> Run:
        site = self.site
        target = site.input_deltas[0]
        runs = [clear(target.array)] if site.fresh and not self._bands else []
        written = 0 if site.fresh else len(target.array)
        for inner, delta, find in self._deltas:
            back = conv.prepare_backward_input(
                delta,
                delta.box,
                site.parameters["weights"],
                images_of(target, inner),
                self._convolution.stride,
                self._convolution.padding,
                site.workspace,
                accumulate=inner.first < written,
                algorithm=site.algorithms.get("backward_input"),
                groups=self._convolution.groups,
            )
            runs += [find, back]
            # What it does not overwrite, the first of an image's bands sets to zero.
            written = max(written, inner.stop)
        return in_turn(*runs)

    def _sum(self, normalized: NormalizedProduct, step: Step) -> None:
        normalized.normalization.begin_backward()
        self._add_up()
        normalized.normalization.agree_backward(step)

    @cached_property
    def _add_up(self) -> Run:
        runs = []
        for (_, inner), scatter in zip(self._bands, self._scatter, strict=True):
            runs += [scatter, self._normalized.prepare_sum(inner, self._inner(inner))]
        return in_turn(*runs)

    def backward_weights(self, step: Step) -> None:
        self._backward_weights[step.overwrite]()

    @cached_property
    def _backward_weights(self) -> tuple[Run, Run]:
        """What adds to the gradient, and what overwrites it."""
        adds, overwrites = (self._prepare_weights(accumulate) for accumulate in (True, False))
        return adds, overwrites

    def _prepare_weights(self, accumulate: bool) -> Run:
        site = self.site
        runs = [] if accumulate or self._bands else [clear(site.gradients["weights"])]
        for inner, delta, find in self._deltas:
            back = conv.prepare_backward_weights(
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
            runs += [find, back]
            accumulate = True
        return in_turn(*runs)

    @cached_property
    def _deltas(self) -> tuple[tuple[Band, Tile, Run], ...]:
        """For each band the gradient of the convolution's product, and what puts it there."""
        found = []
        for (_, inner), scatter in zip(self._bands, self._scatter, strict=True):
            delta, find = self._inner(inner), scatter
            if self._normalized:
                find = in_turn(scatter, self._normalized.prepare_differentiate(inner, delta))
            found.append((inner, delta, find))
        return tuple(found)

    def _inner(self, inner: Band) -> Tile:
        """The scratch memory as a band's tile of the convolution's output."""
        shape, box = self.site.layer.output_shape, inner.box
        images = inner.images
        cells = self.site.scratch[: images * box.cells * shape.channels]
        array = cells.reshape(images, box.height, box.width, shape.channels)
        return Tile(array, box, shape.height, shape.width)

    @cached_property
    def _scatter(self) -> tuple[Run, ...]:
        """For each band what puts the gradient of the activated output there."""
        return tuple(
            pool.prepare_max_backward(
                images_of(self._pool.output_delta, band),
                band.box,
                self._inner(inner),
                *self._window,
                self._argmax(band),
                accumulate=False,
            )
            for band, inner in self._bands
        )

    def _argmax(self, band: Band) -> np.ndarray:
        return self._pool.kept[ARGMAX][band.first : band.stop]
