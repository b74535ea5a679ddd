"""Dropout with a mask that depends on global coordinates alone."""

from __future__ import annotations

from mpitile.kernels import dropout
from mpitile.layers.base import Plain, Step


class Dropping(Plain):
    """The same cells are dropped in any tiling; the mask is drawn again in backward."""

    def _key(self, step: Step) -> int:
        """A key of its own for every layer of a pass."""
        return (step.key + 0x9E3779B97F4A7C15 * (self.site.layer.index + 1)) % 2**64

    def forward(self, step: Step) -> None:
        site = self.site
        if not step.training:
            site.output.view(site.box)[...] = site.inputs[0].view(site.box)
            return
        probability = site.layer.operation.probability
        dropout.forward(
            site.inputs[0], site.output, site.box, probability, self._key(step), step.first_image
        )

    def backward_input(self, step: Step) -> None:
        site = self.site
        if site.input_deltas[0] is not None:
            probability = site.layer.operation.probability
            dropout.backward(
                site.output_delta,
                site.box,
                site.input_deltas[0],
                probability,
                self._key(step),
                step.first_image,
            )
