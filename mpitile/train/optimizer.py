"""Optimisers on flat arrays, in place and block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mpitile.network.spec import NetOptions
from mpitile.runtime.parameters import Parameters

# Blocks of this many elements stay in cache over the few passes of an update.
_BLOCK = 1 << 15


class Optimizer(Protocol):
    """Changes `Parameters.values` by `Parameters.gradients`.

    Attributes
    ----------
    state : flat arrays, as long as the values, that a checkpoint has to keep.
    scratch : arrays of a block, in which `update` works.
    """

    state: dict[str, np.ndarray]
    scratch: tuple[np.ndarray, ...]

    def update(self, rate: float, images: int, step: int) -> None:
        """One step with gradients summed over `images`; `step` counts from 1."""
        ...


class Sgd:
    """Darknet's SGD: ``v = momentum v + g / images + decay w``, ``w -= rate v``.

    Decay applies to weights, not to biases and scales.
    """

    def __init__(self, parameters: Parameters, options: NetOptions) -> None:
        self._parameters = parameters
        self._momentum = options.momentum
        self._decay = options.decay
        self.state = {"velocity": np.zeros_like(parameters.values)}
        self.scratch = (np.empty(_BLOCK, parameters.values.dtype),)

    def update(self, rate: float, images: int, step: int) -> None:
        velocity = self.state["velocity"]
        for block, scratch in _blocks(velocity.size, self.scratch[0]):
            v = velocity[block]
            v *= self._momentum
            v += _mean_gradient(self._parameters, block, images, self._decay, scratch)
            np.multiply(v, rate, out=scratch)
            self._parameters.values[block] -= scratch


class Adam:
    """Adam with bias correction; decay is added to the gradient, as Darknet does."""

    def __init__(self, parameters: Parameters, options: NetOptions) -> None:
        self._parameters = parameters
        self._options = options
        values = parameters.values
        self.state = {"first_moment": np.zeros_like(values), "second_moment": np.zeros_like(values)}
        self.scratch = (np.empty(_BLOCK, values.dtype), np.empty(_BLOCK, values.dtype))

    def update(self, rate: float, images: int, step: int) -> None:
        options = self._options
        correction = np.sqrt(1 - options.beta2**step) / (1 - options.beta1**step)
        first, second = self.state["first_moment"], self.state["second_moment"]
        for block, scratch in _blocks(first.size, self.scratch[0]):
            m, v = first[block], second[block]
            gradient = _mean_gradient(self._parameters, block, images, options.decay, scratch)
            other = self.scratch[1][: len(scratch)]
            m *= options.beta1
            m += np.multiply(gradient, 1 - options.beta1, out=other)
            np.square(gradient, out=other)
            other *= 1 - options.beta2
            v *= options.beta2
            v += other
            np.sqrt(v, out=other)
            other += options.epsilon
            np.divide(m, other, out=other)
            other *= rate * correction
            self._parameters.values[block] -= other


# How many flat arrays an optimiser keeps, and how many blocks it works in.
_ARRAYS = {"sgd": (1, 1), "adam": (2, 2)}


def optimizer_memory(kind: str, itemsize: int) -> tuple[int, int]:
    """How many arrays as long as the values an optimiser keeps, and bytes of its scratch."""
    arrays, blocks = _ARRAYS[kind]
    return arrays, blocks * _BLOCK * itemsize


def make_optimizer(kind: str, parameters: Parameters, options: NetOptions) -> Optimizer:
    """The optimiser named "sgd" or "adam", with the cfg's constants."""
    return {"sgd": Sgd, "adam": Adam}[kind](parameters, options)


def _blocks(size: int, scratch: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, size, _BLOCK):
        stop = min(size, start + _BLOCK)
        yield slice(start, stop), scratch[: stop - start]


def _mean_gradient(
    parameters: Parameters, block: slice, images: int, decay: float, out: np.ndarray
) -> np.ndarray:
    """The gradient per image plus decay, of one block; decaying parameters come first."""
    np.divide(parameters.gradients[block], images, out=out)
    decaying = min(block.stop, parameters.decaying) - block.start
    if decay and decaying > 0:
        out[:decaying] += decay * parameters.values[block.start : block.start + decaying]
    return out
