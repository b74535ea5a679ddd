"""The shapes by which the algorithms of a network's convolutions are chosen."""

from __future__ import annotations

from collections.abc import Collection

from mpitile.geometry.tiling import Grid
from mpitile.kernels.algorithms import OPERATIONS
from mpitile.kernels.choice import Shape
from mpitile.network.spec import Convolutional, Layer, Network


def layer_shapes(
    network: Network, layer: Layer, grid: Grid, images: int, sliced: bool = False
) -> dict[str, Shape]:
    """By operation; none for other layers than convolutions, and those in groups.

    They have the size of the largest tile of an even grid, or its largest slice of filters,
    hence are the same on all ranks. What a tile gives back reaches beyond it, into the halo.
    """
    operation = layer.operation
    if not isinstance(operation, Convolutional) or operation.groups > 1:
        return {}
    output, filters = layer.output_shape, operation.filters
    if sliced:
        filters, grid = -(-filters // grid.tiles), Grid(1, 1)
    return {
        name: Shape(
            name,
            operation.size,
            operation.size,
            network.shape(layer.inputs[0]).channels,
            filters,
            operation.stride,
            images,
            min(-(-output.height // grid.rows) + reach, output.height),
            min(-(-output.width // grid.columns) + reach, output.width),
        )
        for name in OPERATIONS
        for reach in [(operation.size - 1) // operation.stride * (name == "backward_input")]
    }


def network_shapes(
    network: Network, grid: Grid, images: int, filters: Collection[int] = ()
) -> list[Shape]:
    """What a step on tiles of this grid computes; what `kernels.tuning.table` is to measure.

    Layers in `filters` are filter-parallel.
    """
    shapes = [
        shape
        for layer in network.layers
        for shape in layer_shapes(network, layer, grid, images, layer.index in filters).values()
        if layer.inputs[0] or shape.operation != "backward_input"
    ]
    return list(dict.fromkeys(shapes))
