"""Filter-parallel layers: which of their channels each tile's rank computes.

A filter-parallel layer is the layer with fewer filters, on the whole of its input: each rank of a
team computes a slice of the output channels, of all cells. It needs no gradient sums inside its
team, and its batch norm is its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

from mpitile.errors import InputError
from mpitile.geometry.tiling import cut_lines
from mpitile.geometry.transfers import Channels
from mpitile.network.spec import (
    Connected,
    Convolutional,
    Dropout,
    Layer,
    MaxPool,
    Network,
    Upsample,
)
from mpitile.plan.plan import Plan

# Layers that compute each channel from the same channel of their input alone.
_CHANNELWISE = (MaxPool, Upsample, Dropout)


def divides_filters(layer: Layer) -> bool:
    """Whether a layer can be divided by its filters, whatever its input is."""
    operation = layer.operation
    if isinstance(operation, Convolutional):
        return operation.groups == 1
    return isinstance(operation, Connected)


def keeps_channels(layer: Layer) -> bool:
    """Whether a layer's slice of channels needs the same slice of its input alone."""
    return isinstance(layer.operation, _CHANNELWISE)


def check_filters(network: Network, filters: Sequence[int]) -> None:
    """Raise `InputError` unless these layers can be filter-parallel.

    Convolutions without groups and connected layers can be; pools, upsampling and dropout where
    they stand straight behind one that is.
    """
    for number in filters:
        if not 0 <= number < len(network.layers):
            raise InputError(
                f"filters: there is no layer {number}: expected numbers from 0 to "
                f"{len(network.layers) - 1}"
            )
        layer = network.layers[number]
        behind = keeps_channels(layer) and layer.inputs == (number,) and number - 1 in filters
        if not (divides_filters(layer) or behind):
            raise InputError(
                f"filters: layer {number} ({layer.kind}) cannot be divided by filters: expected "
                "convolutional without groups, or connected; maxpool, upsample and dropout only "
                "straight behind one of these that is"
            )


def all_filters(network: Network) -> tuple[int, ...]:
    """All layers that can be filter-parallel at once."""
    found: list[int] = []
    for layer in network.layers:
        behind = keeps_channels(layer) and layer.inputs == (layer.index,)
        if divides_filters(layer) or (behind and layer.index - 1 in found):
            found.append(layer.index)
    return tuple(found)


def split_at_switches(
    network: Network, groups: Sequence[int], filters: Collection[int]
) -> tuple[int, ...]:
    """Start a group where layers begin or cease to be filter-parallel.

    Every convolution or connected layer among them starts one: it needs its whole input.
    """
    starts = {start for start in groups if not _continues(network.layers[start], filters)}
    for layer in network.layers:
        if layer.index in filters:
            if divides_filters(layer):
                starts.add(layer.index)
        elif layer.index - 1 in filters:
            starts.add(layer.index)
    return tuple(sorted(starts))


def filter_spans(network: Network, plan: Plan) -> Mapping[int, tuple[Channels, ...]]:
    """For each filter-parallel layer, the channels of each tile's rank, in proportion to tiles.

    A span may be empty where there are fewer filters than ranks.
    """
    weights = tile_shares(plan)
    found: dict[int, tuple[Channels, ...]] = {}
    for number in sorted(plan.filters):
        layer = network.layers[number]
        if not divides_filters(layer):
            found[number] = found[number - 1]
            continue
        found[number] = cut_channels(layer.output_shape.channels, weights)
    return found


def tile_shares(plan: Plan) -> tuple[float, ...]:
    """Relative sizes of all tiles, and so of their ranks' slices."""
    rows = plan.row_weights or (1.0,) * plan.grid.rows
    columns = plan.column_weights or (1.0,) * plan.grid.columns
    places = map(plan.grid.position, range(plan.grid.tiles))
    return tuple(rows[row] * columns[column] for row, column in places)


@lru_cache(256)
def cut_channels(channels: int, shares: tuple[float, ...]) -> tuple[Channels, ...]:
    """So many channels cut in proportion to shares."""
    return tuple(pairwise(cut_lines(channels, shares)))


def tile_spans(network: Network, plan: Plan, tile: int) -> dict[int, Channels]:
    """Of each filter-parallel layer, the channels of one tile's rank."""
    return {number: spans[tile] for number, spans in filter_spans(network, plan).items()}


def local_layer(layer: Layer, channels: Channels) -> Layer:
    """The layer as a rank with this slice computes it: with fewer filters."""
    count = channels[1] - channels[0]
    operation = layer.operation
    inputs = layer.input_shapes
    if isinstance(operation, Convolutional):
        operation = replace(operation, filters=count)
    elif isinstance(operation, Connected):
        operation = replace(operation, outputs=count)
    else:
        inputs = tuple(replace(shape, channels=count) for shape in inputs)
    shape = replace(layer.output_shape, channels=count)
    return replace(layer, operation=operation, input_shapes=inputs, output_shape=shape)


def _continues(layer: Layer, filters: Collection[int]) -> bool:
    """Whether a layer goes on with the slice of the one before, and cannot start a group."""
    return layer.index in filters and keeps_channels(layer)
