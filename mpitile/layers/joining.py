"""Layers that join tensors: route concatenates channels, shortcut adds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import activation
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Plain, Site, Step, kept_tile
from mpitile.network.kept import PRODUCT
from mpitile.network.receptive import shortcut_stride
from mpitile.network.spec import OUTPUT_HIDES


class Routing(Plain):
    """Concatenates its inputs along channels."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        ends = np.cumsum([0, *(shape.channels for shape in site.layer.input_shapes)])
        self._channels = [slice(a, b) for a, b in pairwise(ends)]

    def forward(self, step: Step) -> None:
        site = self.site
        output = site.output.view(site.box)
        for tile, channels in zip(site.inputs, self._channels, strict=True):
            output[..., channels] = tile.view(site.box)

    def backward_input(self, step: Step) -> None:
        site = self.site
        delta = site.output_delta.view(site.box)
        for tile, channels in zip(site.input_deltas, self._channels, strict=True):
            if tile is not None:
                tile.view(site.box)[...] += delta[..., channels]


class Addition(Plain):
    """The previous layer's output plus the common channels of the source, then activation."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._stride = shortcut_stride(site.layer)
        self._activation = site.layer.operation.activation
        shapes = site.layer.input_shapes
        self._common = slice(0, min(shape.channels for shape in shapes))
        self._before = None
        if self._activation in OUTPUT_HIDES:
            self._before = kept_tile(site, PRODUCT)

    def _source(self, tile: Tile) -> np.ndarray:
        """The source's cells that are added to the output's box."""
        box, stride = self.site.box, self._stride
        if box.empty:
            return tile.view(box)[..., self._common]
        rows_columns = tile.view(
            Box(
                box.y0 * stride,
                (box.y1 - 1) * stride + 1,
                box.x0 * stride,
                (box.x1 - 1) * stride + 1,
            )
        )
        return rows_columns[:, ::stride, ::stride, self._common]

    def forward(self, step: Step) -> None:
        site = self.site
        previous, source = site.inputs
        output = site.output.view(site.box)
        output[...] = previous.view(site.box)
        output[..., self._common] += self._source(source)
        if self._before:
            self._before.view(site.box)[...] = output
        activation.forward(site.output, site.box, None, self._activation)

    def backward_input(self, step: Step) -> None:
        site = self.site
        if self._before:
            activation.backward_before(site.output_delta, self._before, site.box, self._activation)
        else:
            activation.backward(site.output_delta, site.output, site.box, self._activation)
        delta = site.output_delta.view(site.box)
        previous, source = site.input_deltas
        if previous is not None:
            previous.view(site.box)[...] += delta
        if source is not None:
            self._source(source)[...] += delta[..., self._common]
