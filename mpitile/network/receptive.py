"""The receptive fields of each kind of layer."""

from __future__ import annotations

from fractions import Fraction

from mpitile.geometry.receptive import Enlarged, LayerGeometry, Receptive, Whole, Window
from mpitile.network.spec import (
    AvgPool,
    Connected,
    Convolutional,
    Layer,
    MaxPool,
    Network,
    Reorg,
    Shortcut,
    Upsample,
)

_CELL = Window()


def layer_geometry(layer: Layer) -> LayerGeometry:
    """What geometry has to know of a layer: inputs, receptive fields, stride."""
    operation, shape = layer.operation, layer.input_shapes[0]
    stride: int | Fraction = 1
    receptive: tuple[Receptive, ...] = (_CELL,) * len(layer.inputs)
    match operation:
        case Convolutional(size=size, padding=padding):
            stride = operation.stride
            receptive = (Window(size, size, stride, padding),)
        case MaxPool(size=size, padding=padding):
            stride = operation.stride
            receptive = (Window(size, size, stride, padding // 2),)
        case AvgPool() | Connected():
            receptive = (Window(shape.height, shape.width),)
        case Reorg():
            stride = operation.stride
            receptive = (Whole(),)
        case Upsample():
            stride = Fraction(1, operation.stride)
            receptive = (Enlarged(operation.stride),)
        case Shortcut():
            receptive = (_CELL, Window(stride=shortcut_stride(layer)))
    return LayerGeometry(layer.inputs, receptive, stride)


def shortcut_stride(layer: Layer) -> int:
    """The step at which a shortcut samples its source, as Darknet's ``w1 / w2``."""
    previous, source = layer.input_shapes
    return source.width // previous.width


def geometry(network: Network) -> tuple[LayerGeometry, ...]:
    """The geometry of every layer."""
    return tuple(layer_geometry(layer) for layer in network.layers)


def sizes(network: Network) -> tuple[tuple[int, int], ...]:
    """Height and width of every tensor."""
    return tuple((shape.height, shape.width) for shape in network.shapes)


def needs_whole_input(layer: Layer) -> bool:
    """Whether a cell of the layer's output depends on its whole input (of several cells)."""
    shape = layer.input_shapes[0]
    kinds = (AvgPool, Connected, Reorg)
    return isinstance(layer.operation, kinds) and shape.height * shape.width > 1


def whole_input_layers(network: Network) -> tuple[int, ...]:
    """Numbers of the layers that do: no fused group of tiles reaches over their start."""
    return tuple(layer.index for layer in network.layers if needs_whole_input(layer))
