"""Losses of classifiers, and of networks without any."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpitile.errors import InputError
from mpitile.geometry.box import Box
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Loss, Site, Step


class SoftmaxCrossEntropy(Loss):
    """Softmax over the channels of a single cell; its gradient is ``p - onehot(label)``."""

    def forward(self, step: Step) -> None:
        site = self.site
        logits = site.inputs[0].view(site.box)
        shifted = logits - logits.max(axis=3, keepdims=True, initial=-np.inf)
        exponentials = np.exp(shifted)
        sums = exponentials.sum(axis=3, keepdims=True)
        output = site.output.view(site.box)
        output[...] = exponentials / sums
        if step.training and not site.owned.empty:
            labels = np.asarray(step.truths, np.intp)
            images = np.arange(len(labels))
            log_p = (shifted - np.log(sums))[images, 0, 0, labels]
            self.loss = -float(log_p.sum(dtype=np.float64))

    def backward_input(self, step: Step) -> None:
        site = self.site
        if site.owned.empty or site.input_deltas[0] is None:
            return
        labels = np.asarray(step.truths, np.intp)
        delta = site.input_deltas[0].view(site.owned)
        delta += site.output.view(site.owned)
        delta[np.arange(len(labels)), 0, 0, labels] -= 1


class SquaredError(Loss):
    """Darknet's ``[cost] type=sse``: loss ``sum (p - truth)^2``, gradient ``p - truth``.

    The truth is one-hot. Behind a softmax, which is a loss already, it adds
    nothing: Darknet's pair of both has the gradient of the cross-entropy.
    """

    def __init__(self, site: Site, behind_loss: bool) -> None:
        super().__init__(site)
        self._behind_loss = behind_loss
        shape = site.layer.output_shape
        if not behind_loss and (shape.height, shape.width) != (1, 1):
            raise InputError(
                f"layer {site.layer.index} (line {site.layer.line}): [cost] expects a 1x1 tensor "
                f"of class scores, but its input is {shape}"
            )

    def forward(self, step: Step) -> None:
        site = self.site
        site.output.view(site.box)[...] = site.inputs[0].view(site.box)
        if step.training and not self._behind_loss and not site.owned.empty:
            difference = self._difference(step)
            self.loss = float(np.square(difference, dtype=np.float64).sum())

    def backward_input(self, step: Step) -> None:
        site = self.site
        if not self._behind_loss and not site.owned.empty and site.input_deltas[0] is not None:
            site.input_deltas[0].view(site.owned)[...] += self._difference(step)

    def _difference(self, step: Step) -> np.ndarray:
        difference = self.site.inputs[0].view(self.site.owned).copy()
        labels = np.asarray(step.truths, np.intp)
        difference[np.arange(len(labels)), 0, 0, labels] -= 1
        return difference


class SumOfSquares(Loss):
    """``sum t^2`` of the last tensor: the loss of a network that names none."""

    def forward(self, step: Step) -> None:
        rows = _rows(self.site.output, self.site.owned)
        self.loss = float(sum(np.square(row, dtype=np.float64).sum() for row in rows))

    def backward_input(self, step: Step) -> None:
        owned = self.site.owned
        values, deltas = _rows(self.site.output, owned), _rows(self.site.output_delta, owned)
        for row, delta in zip(values, deltas, strict=True):
            delta += 2 * row


def _rows(tile: Tile, box: Box) -> Iterator[np.ndarray]:
    """The rows of all images, one at a time: temporaries stay small."""
    for image in tile.view(box):
        yield from image
