"""Max-pool over windows, and the average over the whole tensor."""

from __future__ import annotations

from functools import cached_property

from mpitile.kernels import pool
from mpitile.kernels.prepared import Run
from mpitile.layers.base import Plain, Site, Step
from mpitile.network.kept import ARGMAX


class MaxPooling(Plain):
    """The first maximum of a window in row-major order wins, in any tiling."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        operation = site.layer.operation
        self._window = operation.size, operation.stride, operation.padding
        self._argmax = site.kept[ARGMAX]

    def forward(self, step: Step) -> None:
        self._forward()

    @cached_property
    def _forward(self) -> Run:
        site = self.site
        return pool.prepare_max_forward(
            site.inputs[0], site.output, site.box, *self._window, self._argmax
        )

    def backward_input(self, step: Step) -> None:
        if self.site.input_deltas[0] is not None:
            self._backward_input()

    @cached_property
    def _backward_input(self) -> Run:
        site = self.site
        return pool.prepare_max_backward(
            site.output_delta,
            site.box,
            site.input_deltas[0],
            *self._window,
            self._argmax,
            accumulate=not site.fresh,
        )


class AveragePooling(Plain):
    """Needs the whole tensor, where it computes at all."""

    def forward(self, step: Step) -> None:
        site = self.site
        if not site.box.empty:
            pool.average_forward(site.inputs[0], site.output, site.box)

    def backward_input(self, step: Step) -> None:
        site = self.site
        if not site.box.empty and site.input_deltas[0] is not None:
            pool.average_backward(site.output_delta, site.box, site.input_deltas[0])
