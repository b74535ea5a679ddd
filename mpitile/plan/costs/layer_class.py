"""Layers that take the same time for the same box, and what work they do in it."""

from __future__ import annotations

from dataclasses import dataclass

from mpitile.network.receptive import shortcut_stride
from mpitile.network.spec import (
    OUTPUT_HIDES,
    AvgPool,
    Connected,
    Convolutional,
    Cost,
    Dropout,
    Layer,
    MaxPool,
    Network,
    Operation,
    Region,
    Reorg,
    Route,
    Shape,
    Shortcut,
    Softmax,
    Upsample,
    Yolo,
)

# How the names of classes begin that Winograd's algorithm may compute.
WINOGRAD = "conv 3x3/1 "
# How the names of classes end whose boxes are as wide as their tensors.
WHOLE_ROWS = ", whole rows"
LOSSES = (Softmax, Region, Yolo, Cost)
# Passes of NumPy and of special functions over a cell of a loss, as seen on x86-64.
_BOXES_PASSES, _SQUARES_PASSES = 40, 4
# Batch norm writes the product, reads it for both sums, reads and writes normalised values,
# and the activation reads and writes them again; in backward the activation's derivative,
# the sums and the correction read and write.
_NORMALIZED_FORWARD, _NORMALIZED_BACKWARD = 6, 8
# The band between a convolution and its pool stays in cache: less than a pass through memory.
_CACHED = 0.5
# The derivative reads the output and reads and writes its delta.
_DERIVATIVE = 3
# Exponentials, as many passes as they were seen to take on x86-64.
_SPECIAL_FORWARD, _SPECIAL_BACKWARD = 12, 16


@dataclass(frozen=True, slots=True)
class Work:
    """What an operation of a layer does for one output cell of one image, and once a call.

    Attributes
    ----------
    kind : of `mpitile.plan.clusters.cluster.KINDS`.
    flops : operations of products; a multiplication and an addition are two.
    elements : numbers read and written.
    fixed_elements : those of a call, whatever the box.
    """

    kind: str = "other"
    flops: float = 0.0
    elements: float = 0.0
    fixed_elements: float = 0.0


def layer_class(layer: Layer, convolution: Layer | None = None) -> str:
    """The name of a layer's class.

    Parameters
    ----------
    convolution : where the layer is a pool that is computed together with the convolution
        before it, see `mpitile.network.merging`, the latter.
    """
    if convolution is not None:
        return f"{layer_class(convolution)} + {_pool(layer.operation)}"
    operation, channels = layer.operation, layer.input_shapes[0].channels
    match operation:
        case Convolutional(filters=filters, size=size):
            window, ending = f"{size}x{size}/{operation.stride}", _ending(operation)
            if depthwise(layer):
                return f"depthwise {window} {channels}{ending}"
            groups = f" in {operation.groups} groups" if operation.groups > 1 else ""
            return f"conv{groups} {window} {channels}-{filters}{ending}"
        case Connected(outputs=outputs):
            return f"connected {layer.input_shapes[0]}-{outputs}{_ending(operation)}"
        case MaxPool():
            return f"{_pool(operation)} {channels}"
        case AvgPool():
            return f"avgpool {layer.input_shapes[0]}"
        case Route():
            return f"route {'+'.join(str(shape.channels) for shape in layer.input_shapes)}"
        case Shortcut(activation=activation):
            source = layer.input_shapes[1].channels
            return f"shortcut {channels}+{source}/{shortcut_stride(layer)} {activation}"
        case Reorg(stride=stride):
            return f"reorg /{stride} {layer.input_shapes[0]}"
        case Upsample(stride=stride, scale=scale):
            return f"upsample *{stride} {channels}{' scaled' if scale != 1 else ''}"
        case Dropout():
            return f"dropout {channels}"
        case _:
            return f"{layer.kind} {channels}"


def box_class(layer: Layer, columns: int, convolution: Layer | None = None) -> str:
    """The class of a layer on a box so many columns wide.

    Strided convolutions multiply row by row in backward unless whole rows follow each other
    in memory.
    """
    name = layer_class(layer, convolution)
    operation = (convolution or layer).operation
    strided = isinstance(operation, Convolutional) and operation.stride > 1
    strided = strided and not depthwise(convolution or layer)
    return name + WHOLE_ROWS if strided and columns == layer.output_shape.width else name


def loss_class(shape: Shape) -> str:
    """The class of the sum of squares behind a network that names no loss."""
    return f"squares {shape.channels}"


def has_loss(network: Network) -> bool:
    """Whether the network names its loss."""
    return isinstance(network.layers[-1].operation, LOSSES)


def depthwise(layer: Layer) -> bool:
    """Whether a layer is a convolution in as many groups as channels and filters."""
    operation, channels = layer.operation, layer.input_shapes[0].channels
    return (
        isinstance(operation, Convolutional)
        and 1 < channels == operation.groups == operation.filters
    )


def overwrites(operation: Operation) -> bool:
    """Whether a layer of this kind overwrites its input's gradient where it is the first to write.

    What others are the first to add to is zeroed before. As `mpitile.layers.registry` has it.
    """
    return isinstance(operation, Convolutional | Connected | MaxPool)


def _ending(operation: Convolutional | Connected) -> str:
    return f" {operation.activation}{' bn' if operation.batch_normalize else ''}"


def _pool(operation: MaxPool) -> str:
    return f"maxpool {operation.size}/{operation.stride}"


def layer_work(layer: Layer, operation: str, convolution: Layer | None = None) -> Work:
    """The work for each output cell; of a merged pool with its convolution's."""
    if convolution is not None:
        inner, stride = layer_work(convolution, operation), layer.operation.stride**2
        return Work(
            inner.kind,
            stride * inner.flops,
            stride * (inner.elements + _CACHED * convolution.output_shape.channels),
            inner.fixed_elements,
        )
    if isinstance(layer.operation, Convolutional | Connected):
        return _product(layer, operation)
    if operation == "backward_weights":
        return Work()
    return Work(elements=_elements(layer, operation) + _special(layer, operation))


def loss_work(shape: Shape) -> Work:
    """Of the sum of squares, in each direction."""
    return Work(elements=_SQUARES_PASSES * shape.channels)


def _product(layer: Layer, operation: str) -> Work:
    source, filters = layer.input_shapes[0], layer.output_shape.channels
    if isinstance(layer.operation, Connected):
        kernel, groups, kind = source.height * source.width, 1, "other"
        inputs = kernel * source.channels
    else:
        kernel, stride = layer.operation.size**2, layer.operation.stride
        kind = {9: "3x3", 1: "1x1"}.get(kernel, "other") if stride == 1 else "other"
        inputs = stride**2 * source.channels
        groups = layer.operation.groups
        if groups > 1:
            kind = "depthwise" if depthwise(layer) else "other"
    weights = kernel * source.channels // groups * filters
    elements = inputs + filters
    normalized = layer.operation.batch_normalize
    if operation == "forward" and normalized:
        elements += _NORMALIZED_FORWARD * filters
    flops = 2.0 * weights
    if operation == "backward_input" and 0 in layer.inputs:
        # Nobody wants the image's gradient.
        flops = elements = weights = 0
    if operation == "backward_input":
        elements += (_NORMALIZED_BACKWARD if normalized else _DERIVATIVE) * filters
    elements += _special(layer, operation)
    return Work(kind, flops, elements, weights)


def _special(layer: Layer, operation: str) -> float:
    """What an activation of special functions takes beyond others."""
    if getattr(layer.operation, "activation", None) not in OUTPUT_HIDES:
        return 0
    passes = {"forward": _SPECIAL_FORWARD, "backward_input": _SPECIAL_BACKWARD}
    return passes.get(operation, 0) * layer.output_shape.channels


def _elements(layer: Layer, operation: str) -> float:
    """Numbers read and written for one output cell of a layer without products."""
    channels, forward = layer.output_shape.channels, operation == "forward"
    match layer.operation:
        case MaxPool(stride=stride):
            return channels * (stride**2 + 1)
        case AvgPool():
            return channels + layer.input_shapes[0].size
        case Shortcut():
            return channels * (5 if forward else 8)
        case Route():
            return channels * (2 if forward else 3)
        case Region() | Yolo():
            return channels * (_BOXES_PASSES if forward else 3)
        case _:
            return channels * (2 if forward else 3)
