"""Which buffers a pass needs, how large they are, and from when to when."""

from __future__ import annotations

from collections.abc import Collection
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
    """The event at which a layer computes backward; one behind all layers does so first."""
    return 2 * len(network.layers) - 1 - layer


def pass_buffers(
    network: Network,
    part: TilePart,
    images: int,
    itemsize: int,
    training: bool = True,
    input_gradient: bool = False,
    merged: Collection[int] = (),
) -> tuple[Buffer, ...]:
    """All buffers of one tile's pass but the image's, which outlives passes.

    Parameters
    ----------
    part : the tile's boxes.
    images : of the pass on this team.
    itemsize : bytes of a number: 4 or 8.
    training : whether a backward pass follows.
    input_gradient : whether the gradient of the image is wanted, too.
    merged : pools whose input is never stored; see `mpitile.network.merging`.
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
        if layer.index + 1 in merged:
            own = backward_event(network, layer.index) if training else layer.index
            size = _size(network, part, layer.output, images, itemsize)
            # The product before batch norm; nothing else of it is stored.
            buffers += (Buffer(name, layer.output, size, layer.index, own) for name in kept(layer))
            continue
        # A merged pool works from its convolution's event on, in both directions.
        start = layer.index - (layer.index in merged)
        tensor, own = layer.output, backward_event(network, start)
        size = _size(network, part, tensor, images, itemsize)
        if training:
            last = own
            # Its gradient is first written to by the last layer that reads it, or by a
            # loss behind all layers.
            first = backward_event(network, max(users[tensor], default=len(network.layers)))
            buffers.append(Buffer(DELTA, tensor, size, first, own))
        else:
            last = max(users[tensor], default=end)
        buffers.append(Buffer(VALUE, tensor, size, start, last))
        for name, real in kept(layer).items():
            cells = size if real else size // itemsize
            until = own if training else layer.index
            buffers.append(Buffer(name, tensor, cells, start, until))
    return tuple(buffers)


def _size(network: Network, part: TilePart, tensor: int, images: int, itemsize: int) -> int:
    return images * part.stored[tensor].cells * network.shape(tensor).channels * itemsize
