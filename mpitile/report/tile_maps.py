"""What a tiling picture shows, as plain data: whose cells are whose, and who reaches how far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpitile.errors import InputError
from mpitile.geometry.box import Box, whole
from mpitile.network.spec import AvgPool, Convolutional, Layer, MaxPool
from mpitile.plan.filters import Channels, filter_spans
from mpitile.plan.partition import Partition

# Layers of which a picture shows the tiling unless others are asked for.
_CHOSEN = 3


@dataclass(frozen=True)
class TileMap:
    """One tensor.

    Attributes
    ----------
    tensor, layer : its number, and what writes it.
    height, width, channels : its size.
    owned : by tile.
    reach : by tile, the cells that it computes or fetches; empty for none.
    action : what the tiles do with them: "computes", or "fetches" halos of other tiles' cells, or
        "reads" the image.
    spans : by tile, its channels, where a tile has all cells of some channels.
    """

    tensor: int
    layer: str
    height: int
    width: int
    channels: int
    owned: tuple[Box, ...]
    reach: tuple[Box, ...]
    action: str
    spans: tuple[Channels, ...] = ()

    def beyond(self, tile: int) -> int:
        """How many cells a tile reaches that it does not own."""
        reach = self.reach[tile]
        return reach.cells - reach.intersect(self.owned[tile]).cells


@dataclass(frozen=True)
class LayerTiling:
    """A layer and the tensors from which its group starts.

    Attributes
    ----------
    layer : its number.
    title : what it is, and where.
    maps : the group's inputs, then the layer's output.
    focus : the tile whose reach is shown.
    """

    layer: int
    title: str
    maps: tuple[TileMap, ...]
    focus: int


def layer_tilings(partition: Partition, wanted: Sequence[int] = ()) -> tuple[LayerTiling, ...]:
    """The tilings of some layers, or of a few that show most.

    Raises
    ------
    InputError : there is no such layer.
    """
    count = len(partition.network.layers)
    for layer in wanted:
        if not 0 <= layer < count:
            raise InputError(f"--layer {layer}: expected a number from 0 to {count - 1}")
    spans = filter_spans(partition.network, partition.plan)
    return tuple(_tiling(partition, spans, layer) for layer in wanted or telling_layers(partition))


def telling_layers(partition: Partition) -> tuple[int, ...]:
    """A few layers: the first of the groups whose tiles reach furthest, and a filter-parallel one.

    The first layer of a group computes the most beyond its own cells. In a plan of fewer groups
    the last layer with a map is among them.
    """
    plan, network = partition.plan, partition.network
    tiled = [n for n, (first, _) in enumerate(partition.ranges) if first not in plan.filters]
    order = sorted(tiled, key=lambda group: -_reach(partition, group))[:_CHOSEN]
    chosen = {partition.ranges[group][0] for group in order}
    if len(tiled) < _CHOSEN:
        layers = (n for group in tiled for n in range(*partition.ranges[group]))
        chosen.update([n for n in layers if network.shape(n + 1).height > 1][-1:])
    chosen.update(plan.filters[:1])
    return tuple(sorted(chosen))


def layer_name(layer: Layer) -> str:
    """Such as ``conv 3x3``, or ``maxpool 2x2/2``."""
    match layer.operation:
        case Convolutional(size=size, stride=stride, groups=groups):
            step = f"/{stride}" if stride > 1 else ""
            kind = "conv" if groups == 1 else "grouped conv"
            return f"{kind} {size}x{size}{step}"
        case MaxPool(size=size, stride=stride):
            return f"maxpool {size}x{size}/{stride}"
        case AvgPool():
            return "avgpool"
    return layer.kind


def _reach(partition: Partition, group: int) -> float:
    """How much the tiles compute in a group's first layer, and fetch for it, beyond all cells."""
    first, _ = partition.ranges[group]
    computed = sum(needs[group].computed[0].cells for needs in partition.needs)
    found = computed / _cells(partition, first + 1) - 1
    for tensor in partition.needs[0][group].fetched:
        fetched = sum(needs[group].fetched[tensor].cells for needs in partition.needs)
        found += fetched / _cells(partition, tensor) - 1
    return found


def _cells(partition: Partition, tensor: int) -> int:
    shape = partition.network.shape(tensor)
    return shape.height * shape.width


def _tiling(
    partition: Partition, spans: dict[int, tuple[Channels, ...]], number: int
) -> LayerTiling:
    network, plan = partition.network, partition.plan
    group = next(n for n, (first, stop) in enumerate(partition.ranges) if first <= number < stop)
    first, stop = partition.ranges[group]
    layer = network.layers[number]
    whole_input = first in plan.filters
    maps = []
    fetched = sorted({tensor for needs in partition.needs for tensor in needs[group].fetched})
    for tensor in fetched:
        shape = network.shape(tensor)
        reach = tuple(
            whole(shape.height, shape.width) if whole_input else needs[group].fetched[tensor]
            for needs in partition.needs
        )
        maps.append(_map(partition, spans, tensor, reach, "fetches" if tensor else "reads"))
    computed = tuple(needs[group].computed[number - first] for needs in partition.needs)
    maps.append(_map(partition, spans, number + 1, computed, "computes"))
    which = f"group {group}, layers {first}-{stop - 1}" if stop - first > 1 else f"group {group}"
    kind = "divided by filters, " if number in plan.filters else ""
    return LayerTiling(
        number, f"layer {number}: {layer_name(layer)} ({kind}{which})", tuple(maps), _focus(maps)
    )


def _map(
    partition: Partition,
    spans: dict[int, tuple[Channels, ...]],
    tensor: int,
    reach: tuple[Box, ...],
    action: str,
) -> TileMap:
    network, shape = partition.network, partition.network.shape(tensor)
    return TileMap(
        tensor,
        layer_name(network.layers[tensor - 1]) if tensor else "the image",
        shape.height,
        shape.width,
        shape.channels,
        tuple(partition.tiling.owned(tensor, t) for t in range(partition.plan.grid.tiles)),
        reach,
        action,
        spans.get(tensor - 1, ()),
    )


def _focus(maps: Sequence[TileMap]) -> int:
    """The tile that reaches furthest; of equals the one in the middle."""
    tiles = range(len(maps[-1].owned))
    middle = len(tiles) / 2
    return max(tiles, key=lambda t: (sum(m.beyond(t) for m in maps), -abs(t - middle)))
