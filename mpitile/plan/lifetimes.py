"""Which buffers a pass needs, how large they are, and from when to when."""

from __future__ import annotations

from dataclasses import dataclass

from mpitile.network.kept import kept
from mpitile.network.spec import Network
from mpitile.plan.partition import TilePart

VALUE = "value"
DELTA = "delta"


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory for one array of a pass.

    Events are numbered along a pass: layer ``i`` of ``n`` computes forward at event
    ``i`` and backward at ``2 n - 1 - i``.

    Attributes
    ----------
    name : `VALUE`, `DELTA`, or what a layer keeps by `mpitile.network.kept`.
    tensor : the number of the tensor that it belongs to.
    size : bytes.
    first, last : the events between which it is in use, both included.
    """

    name: str
    tensor: int
    size: int
    first: int
    last: int


def backward_event(network: Network, layer: int) -> int:
    """The event at which a layer computes backward."""
    return 2 * len(network.layers) - 1 - layer


def pass_buffers(
    network: Network,
    part: TilePart,
    images: int,
    itemsize: int,
    training: bool = True,
    input_gradient: bool = False,
) -> tuple[Buffer, ...]:
    """All buffers of one tile's pass but the image's, which outlives passes.

    Parameters
    ----------
    part : the tile's boxes.
    images : of the pass on this team.
    itemsize : bytes of a number: 4 or 8.
    training : whether a backward pass follows.
    input_gradient : whether the gradient of the image is wanted, too.
    """
    end = 2 * len(network.layers)
    users: dict[int, list[int]] = {tensor: [] for tensor in range(len(network.shapes))}
    for layer in network.layers:
        for tensor in layer.inputs:
            users[tensor].append(layer.index)
    buffers = []
    if training and input_gradient:
        first = backward_event(network, max(users[0]))
        buffers.append(Buffer(DELTA, 0, _size(network, part, 0, images, itemsize), first, end))
    for layer in network.layers:
        tensor, own = layer.output, backward_event(network, layer.index)
        size = _size(network, part, tensor, images, itemsize)
        if training:
            last = own
            # Its gradient is first written to by the last layer that reads it.
            first = backward_event(network, max(users[tensor], default=layer.index))
            buffers.append(Buffer(DELTA, tensor, size, first, own))
        else:
            last = max(users[tensor], default=end)
        buffers.append(Buffer(VALUE, tensor, size, layer.index, last))
        for name, real in kept(layer).items():
            cells = size if real else size // itemsize
            until = own if training else layer.index
            buffers.append(Buffer(name, tensor, cells, layer.index, until))
    return tuple(buffers)


def _size(network: Network, part: TilePart, tensor: int, images: int, itemsize: int) -> int:
    return images * part.stored[tensor].cells * network.shape(tensor).channels * itemsize
