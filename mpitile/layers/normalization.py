"""Batch normalisation over the owned cells of all ranks."""

from __future__ import annotations

import numpy as np

from mpitile.kernels import batchnorm
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Site, Step

EPSILON = 1e-5
MOMENTUM = 0.01


class Normalization:
    """The part of a layer between its product and its activation.

    Biased variance with `EPSILON` inside the root, the true gradient; running mean
    and unbiased variance with `MOMENTUM`, as PyTorch's ``BatchNorm2d(momentum=0.01)``.

    Parameters
    ----------
    site : the layer's; names ``scales biases rolling_mean rolling_variance``.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        channels = site.output.array.shape[3]
        self._mean = np.zeros(channels)
        self._inverse = np.ones(channels)
        self._sums = np.zeros((2, channels))
        self._cells = site.layer.output_shape.height * site.layer.output_shape.width

    def forward(self, x: Tile, step: Step) -> None:
        """Normalise `x` into the output. Reduces twice in training, but for a second time."""
        if step.training and not step.again:
            self._batch_statistics(x, step)
        elif not step.training:
            self._mean[:] = self._site.parameters["rolling_mean"]
            self._inverse[:] = 1 / np.sqrt(self._site.parameters["rolling_variance"] + EPSILON)
        batchnorm.normalize(
            x,
            self._site.output,
            self._site.box,
            self._mean,
            self._inverse,
            self._site.parameters["scales"],
            self._site.parameters["biases"],
        )

    def _batch_statistics(self, x: Tile, step: Step) -> None:
        count = step.images * self._cells
        total, squares = self._sums
        self._sums[...] = 0
        batchnorm.sums(x, self._site.owned, total)
        step.reduce(total)
        self._mean[:] = total / count
        # A second sum instead of the first one's squares: where the mean is large against
        # the deviation, their difference would lose the digits that exactness needs.
        batchnorm.squares(x, self._site.owned, self._mean, squares)
        step.reduce(squares)
        variance = squares / count
        self._inverse[:] = 1 / np.sqrt(variance + EPSILON)
        unbiased = variance * (count / max(count - 1, 1))
        for name, value in (("rolling_mean", self._mean), ("rolling_variance", unbiased)):
            running = self._site.parameters[name]
            running[:] = (1 - MOMENTUM) * running + MOMENTUM * value

    def backward(self, x: Tile, step: Step) -> None:
        """Turn the output delta into that of `x`, in place. Reduces once.

        The sums run over all local cells, because partial deltas add up to the true
        ones; the correction is applied where a cell is owned, hence once.
        """
        site = self._site
        self._sums[...] = 0
        batchnorm.backward_sums(
            site.output_delta, x, site.box, self._mean, self._inverse, self._sums
        )
        site.gradients["biases"][:] += self._sums[0].astype(site.output.array.dtype)
        site.gradients["scales"][:] += self._sums[1].astype(site.output.array.dtype)
        step.reduce(self._sums)
        self._sums /= step.images * self._cells
        batchnorm.backward(
            site.output_delta,
            x,
            site.box,
            site.owned,
            self._mean,
            self._inverse,
            site.parameters["scales"],
            self._sums[0],
            self._sums[1],
        )
