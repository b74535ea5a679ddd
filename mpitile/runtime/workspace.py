"""The scratch memory of a rank's kernels, from the calls that its layers will make."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mpitile.geometry.box import EMPTY, Box
from mpitile.kernels import conv
from mpitile.kernels.algorithms import OPERATIONS
from mpitile.kernels.choice import Choices, choose
from mpitile.kernels.conv import Call
from mpitile.network.parameters import layer_parameters
from mpitile.network.spec import Connected, Convolutional, Layer
from mpitile.plan.bands import Band, pooled_bands, product_calls
from mpitile.plan.partition import Partition, TilePart
from mpitile.runtime.shapes import layer_shapes

# Images and boxes of calls.
Sizes = Collection[tuple[int, Box]]


@dataclass(frozen=True)
class KernelMemory:
    """Tells how many elements the kernels of each of a rank's layers work in.

    Attributes
    ----------
    choices : of the convolutions' algorithms.
    dtype : of all arrays.
    """

    choices: Choices
    dtype: np.dtype

    def __call__(
        self,
        partition: Partition,
        parts: Sequence[TilePart],
        images: int,
        merged: Collection[int],
    ) -> list[dict[int, int]]:
        """For each part, by layer, what the call with the largest demand wants.

        Parameters
        ----------
        parts : some ranks' boxes.
        images : of each pass.
        merged : pools whose input is never stored.
        """
        names = {
            layer.index: self._names(partition, layer, images)
            for layer in partition.network.layers
            if isinstance(layer.operation, Convolutional | Connected)
        }
        return [
            {
                layer: _elements(self._work(partition, part, images, merged, layer, own))
                for layer, own in names.items()
            }
            for part in parts
        ]

    def _names(
        self, partition: Partition, layer: Layer, images: int
    ) -> tuple[tuple[str, ...], ...]:
        plan = partition.plan
        sliced = layer.index in plan.filters
        shapes = layer_shapes(partition.network, layer, plan.grid, images, sliced)
        return tuple(self.choices.candidates(shape, self.dtype) for shape in shapes.values())

    def _work(
        self,
        partition: Partition,
        part: TilePart,
        images: int,
        merged: Collection[int],
        number: int,
        names: tuple[tuple[str, ...], ...],
    ) -> _Work:
        layer = partition.network.layers[number]
        (tensor,) = layer.inputs
        group = part.copied_for(tensor, number)
        tile = part.stored[tensor] if group is None else part.copies[group][tensor]
        pool, pooled = None, EMPTY
        if layer.output in merged:
            behind = partition.network.layers[layer.output]
            pool, pooled = part.local(behind), part.computed(layer.output)
        box = part.computed(number)
        return _Work(part.local(layer), pool, images, box, pooled, tile, self.dtype, names)


class _Work(NamedTuple):
    """A layer's, as far as it decides what memory its kernels want.

    Attributes
    ----------
    layer, pool : as the rank computes them; the pool where it is merged.
    box, pooled : what it computes of the layer's output, and of the pool's.
    tile : what it holds of the layer's input.
    names : for each operation the algorithms that may be chosen; none where each call chooses.
    """

    layer: Layer
    pool: Layer | None
    images: int
    box: Box
    pooled: Box
    tile: Box
    dtype: np.dtype
    names: tuple[tuple[str, ...], ...]


@lru_cache(1 << 16)
def _elements(work: _Work) -> int:
    names = dict(zip(OPERATIONS, work.names, strict=False))
    return max(
        conv.workspace_size(call, names.get(call.operation) or (choose(call.shape, work.dtype),))
        for call in _calls(work)
    )


def _calls(work: _Work) -> Iterator[Call]:
    layer, operation = work.layer, work.layer.operation
    weights, *_ = layer_parameters(layer)
    stride, padding = 1, 0
    if isinstance(operation, Convolutional):
        stride, padding = operation.stride, operation.padding
    rest = (weights.shape, stride, padding, weights.groups)
    forward, backward = _bands(work)
    for name in OPERATIONS:
        if name != "backward_input" or layer.inputs != (0,):
            for images, box in forward if name == "forward" else backward:
                yield Call(name, *rest, images, box, work.tile)


def _bands(work: _Work) -> tuple[Sizes, Sizes]:
    """The images and boxes of a layer's calls, forward and backward; at least one of each."""
    layer, images, box = work.layer, work.images, work.box
    forward = backward = (Band(0, images, box),)
    if work.pool:
        pairs = pooled_bands(layer, work.pool, images, work.pooled, box)
        forward = backward = tuple(inner for _, inner in pairs)
    if layer.operation.batch_normalize:
        forward = product_calls(images, box, box.width * layer.output_shape.channels)
    return _sizes(forward), _sizes(backward)


def _sizes(bands: Iterable[Band]) -> Sizes:
    """Of each band, those that are the same but for the images once."""
    return dict.fromkeys((band.images, band.box) for band in bands) or ((0, EMPTY),)
