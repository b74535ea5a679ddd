"""The shapes by which the algorithms of a network's convolutions are chosen."""

from __future__ import annotations

from mpitile.geometry.tiling import Grid
from mpitile.kernels.algorithms import OPERATIONS
from mpitile.kernels.choice import Shape
from mpitile.network.spec import Convolutional, Layer, Network


def layer_shapes(network: Network, layer: Layer, grid: Grid, images: int) -> dict[str, Shape]:
    """By operation; none for other layers than convolutions, and those in groups.

    They have the size of the largest tile of an even grid, hence are the same on all ranks.
    """
    operation = layer.operation
    if not isinstance(operation, Convolutional) or operation.groups > 1:
        return {}
    output = layer.output_shape
    return {
        name: Shape(
            name,
            operation.size,
            operation.size,
            network.shape(layer.inputs[0]).channels,
            operation.filters,
            operation.stride,
            images,
            -(-output.height // grid.rows),
            -(-output.width // grid.columns),
        )
        for name in OPERATIONS
    }


def network_shapes(network: Network, grid: Grid, images: int) -> list[Shape]:
    """What a step on tiles of this grid computes; what `kernels.tuning.table` is to measure."""
    shapes = [
        shape
        for layer in network.layers
        for shape in layer_shapes(network, layer, grid, images).values()
        if layer.inputs[0] or shape.operation != "backward_input"
    ]
    return list(dict.fromkeys(shapes))
