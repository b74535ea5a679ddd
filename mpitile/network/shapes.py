"""Shapes of all tensors of a network by Darknet's formulas, and its connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from mpitile.errors import InputError
from mpitile.network.spec import (
    AvgPool,
    Connected,
    Convolutional,
    Cost,
    Dropout,
    Layer,
    MaxPool,
    NetOptions,
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


def infer(options: NetOptions, operations: Sequence[tuple[int, Operation]], name: str) -> Network:
    """The network of these operations at the input size of `options`.

    Parameters
    ----------
    options : the ``[net]`` section.
    operations : for each layer its line in the cfg (0 without a file) and what
        it computes; layer numbers in routes and shortcuts are absolute.
    name : the cfg's path, or any name, for messages.

    Raises
    ------
    InputError
        With file and line, where a layer does not fit its input.
    """
    if not operations:
        raise InputError(f"{name}: expected at least one layer after [net], found none")
    if min(options.height, options.width, options.channels) < 1:
        size = f"{options.height}x{options.width}x{options.channels}"
        raise InputError(f"{name}: expected an input of at least 1x1x1, found {size}")
    _check_losses(operations, name)
    shapes = [Shape(options.height, options.width, options.channels)]
    layers: list[Layer] = []
    for index, (line, operation) in enumerate(operations):
        place = _Place(name, line, index, operation)
        inputs = _inputs(place)
        _check_readable(place, inputs, operations)
        input_shapes = tuple(shapes[tensor] for tensor in inputs)
        shape = _output(place, input_shapes)
        layers.append(Layer(index, line, operation, inputs, input_shapes, shape))
        shapes.append(shape)
    return Network(name, options, tuple(layers), tuple(shapes))


def resize(network: Network, height: int, width: int) -> Network:
    """The same network for images of another size."""
    options = replace(network.options, height=height, width=width)
    operations = [(layer.line, layer.operation) for layer in network.layers]
    return infer(options, operations, network.name)


class _Place:
    """A layer under inspection, and how its errors are told."""

    def __init__(self, name: str, line: int, index: int, operation: Operation) -> None:
        self.index = index
        self.operation = operation
        self.kind = type(operation).__name__.lower()
        self._where = f"{name}:{line}" if line else f"{name}: layer {index}"

    def fail(self, message: str) -> NoReturn:
        raise InputError(f"{self._where}: [{self.kind}] {message}")


def _check_losses(operations: Sequence[tuple[int, Operation]], name: str) -> None:
    last = len(operations) - 1
    for index, (line, operation) in enumerate(operations):
        place = _Place(name, line, index, operation)
        if isinstance(operation, Region | Cost) and index < last:
            place.fail("must be the last layer")
        if isinstance(operation, Yolo):
            _check_head(place, operations[last][1])
        if isinstance(operation, Softmax) and index < last:
            follower = operations[index + 1][1]
            if not isinstance(follower, Cost):
                place.fail("must be the last layer, or stand before [cost]")


def _check_head(place: _Place, end: Operation) -> None:
    """Several [yolo] detect the same classes, and the last of them ends the network."""
    if not isinstance(end, Yolo):
        place.fail(f"expected [yolo] as the last layer too, found [{type(end).__name__.lower()}]")
    classes = place.operation.classes
    if classes != end.classes:
        place.fail(
            f"expected as many classes as in the last [yolo], {end.classes}, found {classes}"
        )


def _check_readable(
    place: _Place, inputs: Sequence[int], operations: Sequence[tuple[int, Operation]]
) -> None:
    for tensor in inputs:
        if tensor and isinstance(operations[tensor - 1][1], Yolo):
            place.fail(
                f"reads layer {tensor - 1}, which is a loss: expected [route] to an earlier one"
            )


def _inputs(place: _Place) -> tuple[int, ...]:
    """Numbers of the tensors that the layer reads."""
    if isinstance(place.operation, Route):
        if not place.operation.layers:
            place.fail("expected at least one layer, found none")
        return tuple(_earlier(place, layer) + 1 for layer in place.operation.layers)
    if isinstance(place.operation, Shortcut):
        return (place.index, _earlier(place, place.operation.source) + 1)
    return (place.index,)


def _earlier(place: _Place, layer: int) -> int:
    if not 0 <= layer < place.index:
        place.fail(f"expected an earlier layer than itself (number {place.index}), found {layer}")
    return layer


def _output(place: _Place, inputs: tuple[Shape, ...]) -> Shape:
    first = inputs[0]
    match place.operation:
        case Convolutional() as conv:
            _check_groups(place, conv, first)
            span = conv.size - 2 * conv.padding
            return Shape(
                _steps(place, first.height - span, conv.stride, first),
                _steps(place, first.width - span, conv.stride, first),
                conv.filters,
            )
        case MaxPool():
            return _maxpool(place, place.operation, first)
        case AvgPool():
            return Shape(1, 1, first.channels)
        case Connected(outputs=outputs):
            return Shape(1, 1, outputs)
        case Route():
            return _route(place, inputs)
        case Shortcut():
            return _shortcut(place, first, inputs[1])
        case Reorg(stride=stride):
            return _reorg(place, stride, first)
        case Upsample(stride=stride):
            return Shape(first.height * stride, first.width * stride, first.channels)
        case Softmax() if (first.height, first.width) != (1, 1):
            place.fail(f"expected an input of 1x1 cells, found {first}")
        case Region() as region:
            return _boxes(place, len(region.anchors), region.classes, first)
        case Yolo() as yolo:
            return _boxes(place, len(yolo.mask), yolo.classes, first)
        case Softmax() | Dropout() | Cost():
            return first
    raise TypeError(f"expected an operation, found {place.operation!r}")


def _steps(place: _Place, room: int, stride: int, shape: Shape) -> int:
    """How often a window fits that has `room` cells to move in steps of `stride`."""
    count = room // stride + 1
    if count < 1:
        place.fail(f"expected an input that its window fits in, found {shape}")
    return count


def _maxpool(place: _Place, pool: MaxPool, shape: Shape) -> Shape:
    room = pool.padding - pool.size
    height = _steps(place, shape.height + room, pool.stride, shape)
    width = _steps(place, shape.width + room, pool.stride, shape)
    before = pool.padding // 2
    # A maximum over padding alone has no value.
    if (
        before >= pool.size
        or (height - 1) * pool.stride - before >= shape.height
        or (width - 1) * pool.stride - before >= shape.width
    ):
        place.fail(
            f"expected windows that touch the input {shape}, found some wholly in padding "
            f"(size={pool.size}, stride={pool.stride}, padding={pool.padding})"
        )
    return Shape(height, width, shape.channels)


def _route(place: _Place, inputs: tuple[Shape, ...]) -> Shape:
    first = inputs[0]
    for other in inputs[1:]:
        if (other.height, other.width) != (first.height, first.width):
            place.fail(
                f"expected layers of equal height and width, found "
                f"{' and '.join(str(shape) for shape in inputs)}"
            )
    return Shape(first.height, first.width, sum(shape.channels for shape in inputs))


def _shortcut(place: _Place, previous: Shape, source: Shape) -> Shape:
    if source.height < previous.height or source.width < previous.width:
        place.fail(f"expected a source of at least {previous}, found {source}")
    rows, columns = source.height // previous.height, source.width // previous.width
    if rows != columns:
        place.fail(
            f"expected a source that is larger than {previous} by one factor in height "
            f"and width, found {source} (factors {rows} and {columns})"
        )
    return previous


def _reorg(place: _Place, stride: int, shape: Shape) -> Shape:
    area = stride * stride
    if shape.height % stride or shape.width % stride or shape.channels % area:
        place.fail(
            f"with stride {stride}: expected height and width divisible by {stride} and "
            f"channels by {area}, found {shape}"
        )
    return Shape(shape.height // stride, shape.width // stride, shape.channels * area)


def _check_groups(place: _Place, conv: Convolutional, shape: Shape) -> None:
    for name, count in (("channels", shape.channels), ("filters", conv.filters)):
        if count % conv.groups:
            place.fail(
                f"expected a number of {name} that groups={conv.groups} divides, found {count}"
            )


def _boxes(place: _Place, anchors: int, classes: int, shape: Shape) -> Shape:
    filters = anchors * (classes + 5)
    if shape.channels != filters:
        place.fail(
            f"expected {filters} filters before it ({anchors} anchors * "
            f"({classes} classes + 5)), found {shape.channels}"
        )
    return shape
