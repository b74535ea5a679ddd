"""Optimisers on slices of flat arrays, in place and block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpitile.network.spec import NetOptions
from mpitile.runtime.parameters import Parameters

Span = tuple[int, int]

# Blocks of this many elements stay in cache over the few passes of an update.
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Trained:
    """What an optimiser changes, and by what.

    Attributes
    ----------
    values, gradients : flat arrays of all trained parameters.
    decaying : how many of them decay; they come first.
    spans : from where up to where they are this optimiser's business.
    """

    values: np.ndarray
    gradients: np.ndarray
    decaying: int
    spans: Sequence[Span]

    @property
    def elements(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    def zeros(self) -> np.ndarray:
        """A number for each element of the spans, one span after the other."""
        return np.zeros(self.elements, self.values.dtype)


class Optimizer(Protocol):
    """Changes spans of the values by the gradients.

    Attributes
    ----------
    state : flat arrays, as long as all spans together, that a checkpoint has to keep.
    scratch : arrays of a block, in which `update` works.
    """

    state: dict[str, np.ndarray]
    scratch: tuple[np.ndarray, ...]

    def update(self, rate: float, images: int, step: int, part: Span | None = None) -> None:
        """One step with gradients summed over `images`; `step` counts from 1.

        `part` restricts it to what lies there. The result is the same in any parts.
        """
        ...


class Sgd:
    """Darknet's SGD: ``v = momentum v + g / images + decay w``, ``w -= rate v``.

    Decay applies to weights, not to biases and scales.
    """

    def __init__(self, trained: Trained, options: NetOptions) -> None:
        self._trained = trained
        self._momentum = options.momentum
        self._decay = options.decay
        self.state = {"velocity": trained.zeros()}
        self.scratch = (np.empty(_BLOCK, trained.values.dtype),)

    def update(self, rate: float, images: int, step: int, part: Span | None = None) -> None:
        velocity = self.state["velocity"]
        for block, kept, scratch in _blocks(self._trained.spans, self.scratch[0], part):
            v = velocity[kept]
            v *= self._momentum
            v += _mean_gradient(self._trained, block, images, self._decay, scratch)
            np.multiply(v, rate, out=scratch)
            self._trained.values[block] -= scratch


class Adam:
    """Adam with bias correction; decay is added to the gradient, as Darknet does."""

    def __init__(self, trained: Trained, options: NetOptions) -> None:
        self._trained = trained
        self._options = options
        self.state = {"first_moment": trained.zeros(), "second_moment": trained.zeros()}
        dtype = trained.values.dtype
        self.scratch = (np.empty(_BLOCK, dtype), np.empty(_BLOCK, dtype))

    def update(self, rate: float, images: int, step: int, part: Span | None = None) -> None:
        options = self._options
        correction = np.sqrt(1 - options.beta2**step) / (1 - options.beta1**step)
        first, second = self.state["first_moment"], self.state["second_moment"]
        for block, kept, scratch in _blocks(self._trained.spans, self.scratch[0], part):
            m, v = first[kept], second[kept]
            gradient = _mean_gradient(self._trained, block, images, options.decay, scratch)
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
            self._trained.values[block] -= other


# How many flat arrays an optimiser keeps, and how many blocks it works in.
_ARRAYS = {"sgd": (1, 1), "adam": (2, 2)}


def optimizer_memory(kind: str, itemsize: int) -> tuple[int, int]:
    """How many arrays as long as the values an optimiser keeps, and bytes of its scratch."""
    arrays, blocks = _ARRAYS[kind]
    return arrays, blocks * _BLOCK * itemsize


def make_optimizer(
    kind: str,
    parameters: Parameters,
    options: NetOptions,
    gradients: np.ndarray | None = None,
    spans: Sequence[Span] | None = None,
) -> Optimizer:
    """The optimiser named "sgd" or "adam", with the cfg's constants.

    Parameters
    ----------
    gradients : where their sums over ranks stand; the parameters' own if left out.
    spans : which part to update; everything if left out.
    """
    trained = Trained(
        parameters.values,
        parameters.gradients if gradients is None else gradients,
        parameters.decaying,
        [(0, parameters.values.size)] if spans is None else spans,
    )
    return optimizer_of(kind, trained, options)


def optimizer_of(kind: str, trained: Trained, options: NetOptions) -> Optimizer:
    """The optimiser named "sgd" or "adam" of these arrays, with the cfg's constants."""
    return {"sgd": Sgd, "adam": Adam}[kind](trained, options)


def _blocks(
    spans: Sequence[Span], scratch: np.ndarray, part: Span | None
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Where each block stands in the values, where in the state, and scratch for it."""
    low, high = part or (0, spans[-1][1] if spans else 0)
    # How far behind its place in the values a span's first element stands in the state.
    ahead = end = 0
    for first, last in spans:
        ahead += first - end
        end = last
        for start in range(max(first, low), min(last, high), _BLOCK):
            stop = min(last, high, start + _BLOCK)
            yield slice(start, stop), slice(start - ahead, stop - ahead), scratch[: stop - start]


def _mean_gradient(
    trained: Trained, block: slice, images: int, decay: float, out: np.ndarray
) -> np.ndarray:
    """The gradient per image plus decay, of one block; decaying parameters come first."""
    np.divide(trained.gradients[block], images, out=out)
    decaying = min(block.stop, trained.decaying) - block.start
    if decay and decaying > 0:
        out[:decaying] += decay * trained.values[block.start : block.start + decaying]
    return out
