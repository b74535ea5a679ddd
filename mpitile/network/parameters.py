"""The learnt and running arrays of a network: names and shapes, no values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mpitile.network.spec import Connected, Convolutional, Layer, Network


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One array of one layer.

    Attributes
    ----------
    layer : the layer's number.
    name : ``weights``, ``biases``, ``scales``, ``rolling_mean`` or ``rolling_variance``.
    shape : ``(rows, columns, input channels, outputs)`` of weights, ``(outputs,)`` else;
        of a convolution in groups, the input channels of one group.
    trained : whether the optimiser changes it; running statistics follow the batches.
    decays : whether weight decay applies; in Darknet only to weights.
    fan_in : how many inputs each of the layer's outputs sums over.
    groups : of the layer's channels and outputs, each seeing its own alone.
    """

    layer: int
    name: str
    shape: tuple[int, ...]
    trained: bool
    decays: bool
    fan_in: int
    groups: int = 1


def parameter_specs(network: Network) -> tuple[ParameterSpec, ...]:
    """All arrays of the network, layer by layer."""
    return tuple(spec for layer in network.layers for spec in layer_parameters(layer))


def local_specs(
    network: Network, spans: Mapping[int, tuple[int, int]]
) -> tuple[ParameterSpec, ...]:
    """All arrays of the network, those of some layers for a span of their outputs alone.

    Parameters
    ----------
    spans : by layer, from where up to where.
    """
    return tuple(
        replace(spec, shape=(*spec.shape[:-1], spans[spec.layer][1] - spans[spec.layer][0]))
        if spec.layer in spans
        else spec
        for spec in parameter_specs(network)
    )


def divided_specs(
    network: Network, spans: Mapping[int, tuple[int, int]]
) -> tuple[tuple[ParameterSpec, ...], tuple[ParameterSpec, ...]]:
    """A rank's parameters: those that all ranks have, and its slices of filter-parallel layers."""
    specs = local_specs(network, spans)
    shared = tuple(spec for spec in specs if spec.layer not in spans)
    return shared, tuple(spec for spec in specs if spec.layer in spans)


def layer_parameters(layer: Layer) -> tuple[ParameterSpec, ...]:
    """The arrays of one layer; a connected layer is a kernel as large as its input."""
    match layer.operation:
        case Convolutional(filters=outputs, size=size):
            rows, columns = size, size
        case Connected(outputs=outputs):
            rows, columns = layer.input_shapes[0].height, layer.input_shapes[0].width
        case _:
            return ()
    groups = getattr(layer.operation, "groups", 1)
    channels = layer.input_shapes[0].channels // groups
    fan_in = rows * columns * channels

    def vector(name: str, trained: bool) -> ParameterSpec:
        return ParameterSpec(layer.index, name, (outputs,), trained, False, fan_in, groups)

    weights = ParameterSpec(
        layer.index, "weights", (rows, columns, channels, outputs), True, True, fan_in, groups
    )
    if not layer.operation.batch_normalize:
        return (weights, vector("biases", True))
    return (
        weights,
        vector("biases", True),
        vector("scales", True),
        vector("rolling_mean", False),
        vector("rolling_variance", False),
    )
