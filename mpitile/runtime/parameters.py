"""All weights of a network in flat arrays, with a view for every layer and name."""

from __future__ import annotations

from math import prod

import numpy as np

from mpitile.network.parameters import ParameterSpec, parameter_specs
from mpitile.network.spec import Connected, Network

# Numbers that are drawn at a time, in double precision.
_BLOCK = 1 << 16


class Parameters:
    """Trained values, their gradients, and running statistics.

    Attributes
    ----------
    values, gradients : flat arrays of all trained parameters; those that decay
        come first.
    decaying : how many of them decay.
    running : flat array of running statistics, which are not trained.

    Parameters
    ----------
    values, gradients : the flat arrays, of `trained_elements` zeros each; made here where they
        are not given.
    """

    def __init__(
        self,
        network: Network,
        dtype: np.dtype | type,
        values: np.ndarray | None = None,
        gradients: np.ndarray | None = None,
    ) -> None:
        self.network = network
        self.specs = parameter_specs(network)
        trained = [spec for spec in self.specs if spec.trained]
        trained.sort(key=lambda spec: not spec.decays)
        untrained = [spec for spec in self.specs if not spec.trained]
        self.decaying = decaying_elements(network)
        self.values = np.zeros(_size(trained), dtype) if values is None else values
        self.gradients = np.zeros_like(self.values) if gradients is None else gradients
        self.running = np.zeros(_size(untrained), dtype)
        self._values = _views(self.values, trained) | _views(self.running, untrained)
        self._gradients = _views(self.gradients, trained)

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
        else zero.
        """
        for spec in self.specs:
            view = self.view(spec)
            if spec.name == "weights":
                generator = np.random.default_rng([seed, spec.layer])
                operation = self.network.layers[spec.layer].operation
                flat = view.reshape(-1)
                for start in range(0, flat.size, _BLOCK):
                    block = flat[start : start + _BLOCK]
                    if isinstance(operation, Connected):
                        drawn = generator.uniform(-1, 1, block.size)
                    else:
                        drawn = generator.standard_normal(block.size)
                    block[:] = np.sqrt(2 / spec.fan_in) * drawn
            else:
                view[...] = spec.name in ("scales", "rolling_variance")


def trained_elements(network: Network) -> int:
    """How many parameters of a network are trained."""
    return _size([spec for spec in parameter_specs(network) if spec.trained])


def decaying_elements(network: Network) -> int:
    """How many parameters of a network decay; they stand in front of the other trained ones."""
    return _size([spec for spec in parameter_specs(network) if spec.trained and spec.decays])


def running_elements(network: Network) -> int:
    """How many running statistics a network has."""
    return _size([spec for spec in parameter_specs(network) if not spec.trained])


def _size(specs: list[ParameterSpec]) -> int:
    return sum(prod(spec.shape) for spec in specs)


def _views(flat: np.ndarray, specs: list[ParameterSpec]) -> dict[tuple[int, str], np.ndarray]:
    views, offset = {}, 0
    for spec in specs:
        size = prod(spec.shape)
        views[spec.layer, spec.name] = flat[offset : offset + size].reshape(spec.shape)
        offset += size
    return views
