"""Darknet's reorg: a permutation of the flat buffer that needs the whole tensor."""

from __future__ import annotations

from mpitile.kernels import reorg
from mpitile.layers.base import Plain, Step


class Reorganization(Plain):
    """Each tile gathers its own output cells from the whole input."""

    def forward(self, step: Step) -> None:
        site = self.site
        if not site.box.empty:
            stride = site.layer.operation.stride
            reorg.forward(site.inputs[0], site.output, site.box, stride)

    def backward_input(self, step: Step) -> None:
        site = self.site
        if not site.box.empty and site.input_deltas[0] is not None:
            stride = site.layer.operation.stride
            reorg.backward(site.output_delta, site.box, site.input_deltas[0], stride)
