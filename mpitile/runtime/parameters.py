"""All weights of a network in flat arrays, with a view for every layer and name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from mpitile.geometry.transfers import Channels
from mpitile.kernels.aligned import aligned_zeros
from mpitile.network.parameters import ParameterSpec, divided_specs, local_specs
from mpitile.network.spec import Connected, Network

# Numbers that are drawn at a time, in double precision.
_BLOCK = 1 << 16


class FlatParameters:
    """Some of a network's parameters, one behind the other.

    Attributes
    ----------
    specs : what they are.
    trained, untrained : those in the flat arrays' order.
    values, gradients : flat arrays of all trained ones; those that decay come first.
    decaying : how many of them decay.
    running : flat array of running statistics, which are not trained.
    views, gradient_views : by layer and name, parts of these arrays.

    Parameters
    ----------
    values, gradients : the flat arrays, of zeros; made here where they are not given.
    """

    def __init__(
        self,
        specs: Sequence[ParameterSpec],
        dtype: np.dtype | type,
        values: np.ndarray | None = None,
        gradients: np.ndarray | None = None,
    ) -> None:
        self.specs = tuple(specs)
        trained = [spec for spec in specs if spec.trained]
        trained.sort(key=lambda spec: not spec.decays)
        untrained = [spec for spec in specs if not spec.trained]
        self.trained, self.untrained = tuple(trained), tuple(untrained)
        size, self.decaying = trained_elements(specs)
        self.values = aligned_zeros((size,), dtype) if values is None else values
        self.gradients = aligned_zeros((size,), dtype) if gradients is None else gradients
        self.running = np.zeros(_size(untrained), dtype)
        self.views = _views(self.values, trained) | _views(self.running, untrained)
        self.gradient_views = _views(self.gradients, trained)


class Parameters:
    """Trained values, their gradients, and running statistics.

    Of filter-parallel layers there is this rank's slice alone, in arrays of their own.

    Attributes
    ----------
    specs : all parameters in the order of layers, slices in the shape that they have here.
    spans : of filter-parallel layers, the channels that this rank has.
    shared : the parameters of all other layers, the same on all ranks.
    slices : those of filter-parallel layers, the same on ranks with the same slice.
    values, gradients, decaying, running : those of `shared`.

    Parameters
    ----------
    values, gradients : the flat arrays of `shared`, of zeros; made here where they are not given.
    slice_values, slice_gradients : those of `slices`, likewise.
    """

    def __init__(
        self,
        network: Network,
        dtype: np.dtype | type,
        values: np.ndarray | None = None,
        gradients: np.ndarray | None = None,
        spans: Mapping[int, Channels] | None = None,
        slice_values: np.ndarray | None = None,
        slice_gradients: np.ndarray | None = None,
    ) -> None:
        self.network = network
        self.spans = dict(spans or {})
        self.specs = local_specs(network, self.spans)
        shared, slices = divided_specs(network, self.spans)
        self.shared = FlatParameters(shared, dtype, values, gradients)
        self.slices = FlatParameters(slices, dtype, slice_values, slice_gradients)
        self.values, self.gradients = self.shared.values, self.shared.gradients
        self.decaying, self.running = self.shared.decaying, self.shared.running
        self._values = self.shared.views | self.slices.views
        self._gradients = self.shared.gradient_views | self.slices.gradient_views

    def of_layer(self, layer: int) -> dict[str, np.ndarray]:
        """Views of a layer's trained values and running statistics, by name."""
        return {name: view for (owner, name), view in self._values.items() if owner == layer}

    def gradients_of(self, layer: int) -> dict[str, np.ndarray]:
        """Views of the gradients of a layer's trained values, by name."""
        return {name: view for (owner, name), view in self._gradients.items() if owner == layer}

    def view(self, spec: ParameterSpec) -> np.ndarray:
        """The values that a description stands for."""
        return self._values[spec.layer, spec.name]

    def draw(self, seed: int) -> None:
        """Initial values as Darknet draws them, from the seed alone.

        Convolutions: normal with deviation ``sqrt(2 / fan_in)``; connected layers:
        uniform within ``sqrt(2 / fan_in)``; scales and running variances one, all
        else zero. A slice has the numbers that the whole has there.
        """
        for spec in self.specs:
            view = self.view(spec)
            if spec.name == "weights":
                generator = np.random.default_rng([seed, spec.layer])
                operation = self.network.layers[spec.layer].operation
                filters = self.network.layers[spec.layer].output_shape.channels
                first, stop = self.spans.get(spec.layer, (0, filters))
                rows = view.reshape(prod(spec.shape[:-1]), stop - first)
                step = max(1, _BLOCK // filters)
                for start in range(0, len(rows), step):
                    block = rows[start : start + step]
                    size = len(block) * filters
                    if isinstance(operation, Connected):
                        drawn = generator.uniform(-1, 1, size)
                    else:
                        drawn = generator.standard_normal(size)
                    drawn = drawn.reshape(len(block), filters)[:, first:stop]
                    block[:] = np.sqrt(2 / spec.fan_in) * drawn
            else:
                view[...] = spec.name in ("scales", "rolling_variance")


def trained_elements(specs: Sequence[ParameterSpec]) -> tuple[int, int]:
    """How many numbers of some parameters are trained, and how many of these decay."""
    trained = [spec for spec in specs if spec.trained]
    return _size(trained), _size([spec for spec in trained if spec.decays])


def _size(specs: Sequence[ParameterSpec]) -> int:
    return sum(prod(spec.shape) for spec in specs)


def _views(flat: np.ndarray, specs: list[ParameterSpec]) -> dict[tuple[int, str], np.ndarray]:
    views, offset = {}, 0
    for spec in specs:
        size = prod(spec.shape)
        views[spec.layer, spec.name] = flat[offset : offset + size].reshape(spec.shape)
        offset += size
    return views
