"""Upsampling: each cell of the input fills a square of the output."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Plain, Step


class Upsampling(Plain):
    """Nearest neighbours times a factor, as Darknet's ``upsample_cpu``."""

    def forward(self, step: Step) -> None:
        site, scale = self.site, self.site.layer.operation.scale
        for source, target in self._phases(site.inputs[0], site.output):
            np.multiply(source, source.dtype.type(scale), out=target)

    def backward_input(self, step: Step) -> None:
        site, scale = self.site, self.site.layer.operation.scale
        if site.input_deltas[0] is None:
            return
        if scale != 1:
            site.output_delta.view(site.box)[...] *= scale
        for target, source in self._phases(site.input_deltas[0], site.output_delta):
            target += source

    def _phases(self, x: Tile, y: Tile) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each place in the squares: the input's cells, and the output's box of such places."""
        box, stride = self.site.box, self.site.layer.operation.stride
        for down in range(stride):
            rows = _cells(box.y0, box.y1, down, stride)
            for across in range(stride):
                columns = _cells(box.x0, box.x1, across, stride)
                source = Box(rows.start, rows.stop, columns.start, columns.stop)
                if not source.empty:
                    first_row = source.y0 * stride + down - y.box.y0
                    first_column = source.x0 * stride + across - y.box.x0
                    stop_row, stop_column = box.y1 - y.box.y0, box.x1 - y.box.x0
                    places = np.s_[:, first_row:stop_row:stride, first_column:stop_column:stride]
                    yield x.view(source), y.array[places]


def _cells(start: int, stop: int, phase: int, stride: int) -> range:
    """The input cells that fill the cells ``stride * n + phase`` of ``start .. stop - 1``."""
    return range(-((phase - start) // stride), -((phase - stop) // stride))
