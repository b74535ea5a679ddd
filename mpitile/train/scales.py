"""Multi-scale training: ``random=1`` in the last layer changes the input size every few steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpitile.errors import InputError
from mpitile.geometry.tiling import tensor_strides
from mpitile.network.parameters import parameter_specs
from mpitile.network.receptive import geometry
from mpitile.network.shapes import resize
from mpitile.network.spec import Network, Region, Yolo

# Darknet draws one of ten sizes, 320 to 608 for a stride of 32, for ten steps at a time,
# and ends with the largest.
STRETCH_STEPS = 10
LEAST_CELLS, MOST_CELLS = 10, 19
FINAL_STEPS = 200

# Keeps these numbers apart from the others that are drawn from the same seed.
_STREAM = 4


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive steps, ``first <= step < stop``, with one input size."""

    first: int
    stop: int
    network: Network


@dataclass(frozen=True)
class Scales:
    """The input size of every step: a function of the seed and the step alone.

    Parameters
    ----------
    network : at the size of the run; without ``random=1`` there is no other.
    seed : of the run.
    """

    network: Network
    seed: int

    @cached_property
    def _cell(self) -> int:
        """How many image cells one cell of the coarsest tensor stands for."""
        return int(max(tensor_strides(geometry(self.network))))

    @property
    def _varies(self) -> bool:
        last = self.network.layers[-1].operation
        return isinstance(last, Region | Yolo) and last.random

    def stretches(self, first: int, steps: int) -> Iterator[Stretch]:
        """The stretches of steps ``first .. steps - 1``."""
        while first < steps:
            stop = steps
            if self._varies:
                stop = min(steps, (first // STRETCH_STEPS + 1) * STRETCH_STEPS)
            yield Stretch(first, stop, self.at(first))
            first = stop

    def at(self, step: int) -> Network:
        """The network at the size of a step, counted from 0.

        Raises
        ------
        InputError : the network cannot change its size.
        """
        if not self._varies:
            return self.network
        last = self.network.options.max_batches
        cells = MOST_CELLS
        number = step // STRETCH_STEPS
        if not last or number * STRETCH_STEPS + FINAL_STEPS <= last:
            draw = np.random.default_rng([_STREAM, self.seed, number])
            cells = int(draw.integers(LEAST_CELLS, MOST_CELLS + 1))
        return self._resized(cells)

    @property
    def largest(self) -> Network:
        """The network at the largest size of any step.

        Raises
        ------
        InputError : the network cannot change its size.
        """
        return self._resized(MOST_CELLS) if self._varies else self.network

    def _resized(self, cells: int) -> Network:
        """The network with so many cells of its coarsest tensor on the longer side."""
        shape = self.network.shape(0)
        # The other side keeps the proportion.
        unit = cells / max(shape.height, shape.width)
        height = max(1, round(unit * shape.height)) * self._cell
        width = max(1, round(unit * shape.width)) * self._cell
        network = resize(self.network, height, width)
        if parameter_specs(network) != parameter_specs(self.network):
            raise InputError(
                f"{self.network.name}:{self.network.layers[-1].line}: random=1 changes the input "
                "size, but a [connected] layer fixes it: expected random=0"
            )
        return network
