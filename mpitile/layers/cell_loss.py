"""What the losses of detectors share: each cell's owner finds its loss and gradient at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpitile.layers.base import Loss, Site, Step
from mpitile.network.kept import GRADIENT


class CellLoss(Loss):
    """A loss that is local to cells once the truths are known; the output copies the input.

    Parameters
    ----------
    site : the layer's; its gradient is kept from forward to backward.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._gradient = replace(site.output, array=site.kept[GRADIENT])

    def forward(self, step: Step) -> None:
        site = self.site
        site.output.view(site.box)[...] = site.inputs[0].view(site.box)
        if not step.training:
            return
        self.loss = 0.0
        values, gradient = site.inputs[0].view(site.owned), self._gradient.view(site.owned)
        for image in zip(values, step.truths, gradient, strict=True):
            self.loss += self._image(*image, step.seen)

    def backward_input(self, step: Step) -> None:
        site = self.site
        if site.input_deltas[0] is not None:
            site.input_deltas[0].view(site.owned)[...] += self._gradient.view(site.owned)

    def _image(
        self, values: np.ndarray, truths: np.ndarray, gradient: np.ndarray, seen: int
    ) -> float:
        """The loss of one image's owned cells (H, W, C); their gradient is written."""
        raise NotImplementedError
