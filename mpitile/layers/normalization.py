"""Batch normalisation over the owned cells of all ranks."""

from __future__ import annotations

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import batchnorm
from mpitile.kernels.prepared import Run, in_turn
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Site, Step

EPSILON = 1e-5
MOMENTUM = 0.01


class Normalization:
    """The part of a layer between its product and its activation.

    Biased variance with `EPSILON` inside the root, the true gradient; running mean
    and unbiased variance with `MOMENTUM`, as PyTorch's ``BatchNorm2d(momentum=0.01)``.
    Work comes in bands, so that each can be in cache for all that is done to it: in
    forward `begin`, measure each band in training, `agree`, apply to each band; in backward
    `begin_backward`, sum each band, `agree_backward`, differentiate each band. What is done to
    a band is prepared once.

    Parameters
    ----------
    site : the layer's; names ``scales biases rolling_mean rolling_variance``.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        shape = site.layer.output_shape
        self._cells = shape.height * shape.width
        self._mean = np.zeros(shape.channels)
        self._inverse = np.ones(shape.channels)
        self._sums = np.zeros((2, shape.channels))
        self._band_sums = np.zeros((2, shape.channels))
        self._count = 0

    def begin(self) -> None:
        """Forget the last pass's statistics."""
        self._count = 0
        self._mean[:] = 0
        self._sums[...] = 0

    def prepare_measure(self, x: Tile, box: Box) -> Run:
        """What takes the owned cells of a band into the mean and the squares about it.

        Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm
        for computing sample variances", equation 2.1. Squares about zero would lose the
        digits that exactness needs where the mean is large against the deviation.
        """
        owned = box.intersect(self._site.owned)
        count = len(x.array) * owned.cells
        if not count:
            return in_turn()
        total, squares = self._band_sums
        mean = np.empty_like(total)
        add = batchnorm.prepare_sums(x, owned, total)
        add_squares = batchnorm.prepare_squares(x, owned, mean, squares)

        def run() -> None:
            self._band_sums[...] = 0
            add()
            mean[...] = total / count
            add_squares()
            both = self._count + count
            difference = mean - self._mean
            self._sums[1] += squares + difference**2 * (self._count * count / both)
            self._mean += difference * (count / both)
            self._count = both

        return run

    def agree(self, step: Step) -> None:
        """Settle the statistics; in training over all ranks. Reduces twice."""
        parameters = self._site.parameters
        if not step.training:
            self._mean[:] = parameters["rolling_mean"]
            self._inverse[:] = 1 / np.sqrt(parameters["rolling_variance"] + EPSILON)
            return
        count = step.images * self._cells
        total, squares = self._sums
        np.multiply(self._mean, self._count, out=total)
        step.reduce(total)
        total /= count
        squares += self._count * (self._mean - total) ** 2
        step.reduce(squares)
        self._mean[:] = total
        variance = squares / count
        self._inverse[:] = 1 / np.sqrt(variance + EPSILON)
        unbiased = variance * (count / max(count - 1, 1))
        for name, value in (("rolling_mean", self._mean), ("rolling_variance", unbiased)):
            running = parameters[name]
            running[:] = (1 - MOMENTUM) * running + MOMENTUM * value

    def prepare_apply(self, x: Tile, y: Tile, box: Box) -> Run:
        """What normalises a band of `x` into `y`, and activates it."""
        return batchnorm.prepare_normalize(
            x,
            y,
            box,
            self._mean,
            self._inverse,
            self._site.parameters["scales"],
            self._site.parameters["biases"],
            self._site.layer.operation.activation,
        )

    def begin_backward(self) -> None:
        """Forget the last pass's sums."""
        self._sums[...] = 0

    def prepare_activation_backward(self, dy: Tile, x: Tile, box: Box) -> Run:
        """What turns a band of the output delta into that before one of `OUTPUT_HIDES`."""
        return batchnorm.prepare_activation_backward(
            dy,
            x,
            box,
            self._mean,
            self._inverse,
            self._site.parameters["scales"],
            self._site.parameters["biases"],
            self._site.layer.operation.activation,
        )

    def prepare_sum(self, dy: Tile, x: Tile, box: Box) -> Run:
        """What takes a band of the output delta into the sums.

        They run over all local cells, because partial deltas add up to the true ones.
        """
        return batchnorm.prepare_backward_sums(dy, x, box, self._mean, self._inverse, self._sums)

    def agree_backward(self, step: Step) -> None:
        """Add to the gradients and settle the correction over all ranks. Reduces once."""
        gradients = self._site.gradients
        gradients["biases"][:] += self._sums[0].astype(gradients["biases"].dtype)
        gradients["scales"][:] += self._sums[1].astype(gradients["scales"].dtype)
        step.reduce(self._sums)
        self._sums /= step.images * self._cells

    def prepare_differentiate(self, dy: Tile, x: Tile, box: Box) -> Run:
        """What turns a band of the output delta into that of `x`, in place.

        The correction is applied where a cell is owned, hence once.
        """
        return batchnorm.prepare_backward(
            dy,
            x,
            box,
            self._site.owned,
            self._mean,
            self._inverse,
            self._site.parameters["scales"],
            *self._sums,
        )
