"""What every tile owns, computes, holds and exchanges under a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from mpitile.errors import InputError
from mpitile.geometry.box import EMPTY, Box, whole
from mpitile.geometry.needs import GroupNeeds, group_needs, group_ranges
from mpitile.geometry.tiling import Tiling, tile_tensors
from mpitile.geometry.transfers import Channels, Transfers, transfers
from mpitile.network import receptive
from mpitile.network.spec import Layer, Network
from mpitile.plan.filters import check_filters, filter_spans, local_layer, split_at_switches
from mpitile.plan.plan import Plan


def plan_tiling(network: Network, plan: Plan) -> Tiling:
    """Who owns what under a plan, whatever its groups."""
    return tile_tensors(
        receptive.sizes(network),
        receptive.geometry(network),
        plan.grid,
        plan.row_weights,
        plan.column_weights,
    )


@dataclass(frozen=True, slots=True)
class TilePart:
    """The part of one tile.

    Attributes
    ----------
    tile : its number in the grid.
    owned : for each tensor, the cells it owns; of a sliced one all, in its channels, or none
        where it has no channel.
    stored : for each tensor, the cells it holds: owned, computed or fetched.
    groups : for each fused group, what it computes and needs.
    transfers : for each fused group, the messages at its start.
    slices : of tensors that filter-parallel layers write, the channels that it owns.
    copies : by group, the cells of each tensor that the group reads from a copy of its own,
        all channels, as the tensor lies in another form: tiled or sliced.
    """

    tile: int
    owned: tuple[Box, ...]
    stored: tuple[Box, ...]
    groups: tuple[GroupNeeds, ...]
    transfers: tuple[Transfers, ...]
    slices: Mapping[int, Channels] = field(default_factory=dict)
    copies: Mapping[int, Mapping[int, Box]] = field(default_factory=dict)

    def computed(self, layer: int) -> Box:
        """The cells that the tile computes of a layer's output."""
        needs = next(group for group in self.groups if group.first <= layer < group.stop)
        return needs.computed[layer - needs.first]

    def group_of(self, layer: int) -> int:
        """The number of the fused group that a layer is in."""
        return next(n for n, group in enumerate(self.groups) if group.first <= layer < group.stop)

    def copied_for(self, tensor: int, layer: int) -> int | None:
        """The group whose copy of a tensor a layer reads; None where it reads the tensor itself."""
        if not self.copies:
            return None
        group = self.group_of(layer)
        return group if tensor in self.copies.get(group, ()) else None

    def local(self, layer: Layer) -> Layer:
        """The layer as the tile computes it: with fewer filters where it is filter-parallel."""
        channels = self.slices.get(layer.output)
        return layer if channels is None else local_layer(layer, channels)

    def channels(self, network: Network, tensor: int) -> int:
        """How many channels of a tensor the tile holds."""
        first, stop = self.slices.get(tensor, (0, network.shape(tensor).channels))
        return stop - first

    def elements(self, network: Network, tensor: int, group: int | None = None) -> int:
        """Numbers of one image that the tile holds of a tensor, or of a group's copy of it."""
        if group is None:
            return self.stored[tensor].cells * self.channels(network, tensor)
        return self.copies[group][tensor].cells * network.shape(tensor).channels


class Partition:
    """Ownership, needs and transfers of any tile of a network under a plan.

    Every rank can ask for every tile's part: nothing here depends on who asks.

    Parameters
    ----------
    like : another partition of the network; where its tiles are the same, so is what groups
        need, which is then found once for both.

    Raises
    ------
    InputError : the plan's groups, grid or filters do not fit the network.

    Attributes
    ----------
    spans : of filter-parallel layers, the channels of each tile.
    copied : for each group, the tensors that it reads from a copy.
    """

    def __init__(self, network: Network, plan: Plan, like: Partition | None = None) -> None:
        self.network = network
        self.plan = plan
        self._layers = receptive.geometry(network)
        self._sizes = receptive.sizes(network)
        self.ranges = group_ranges(plan.groups, len(network.layers))
        self.tiling: Tiling = plan_tiling(network, plan)
        # Needs by range, and whether the group is filter-parallel.
        self._known: dict[tuple[int, int, bool], tuple[GroupNeeds, ...]] = {}
        if like is not None and like._tiles == self._tiles:
            self._known = like._known
        check_filters(network, plan.filters)
        starts = split_at_switches(network, plan.groups, plan.filters)
        if starts != tuple(plan.groups):
            raise InputError(
                f"groups {list(plan.groups)} do not fit filters {list(plan.filters)}: expected "
                f"first layers {list(starts)}"
            )
        self.spans = filter_spans(network, plan)
        self.copied = tuple(self._copied(first, stop) for first, stop in self.ranges)

    @property
    def _tiles(self) -> tuple[Tiling, object, object]:
        """What tiles and slices follow from."""
        return self.tiling, self.plan.row_weights, self.plan.column_weights

    def owned(self, tensor: int, tile: int) -> Box:
        """The cells of a tensor that a tile owns, in the channels that it owns."""
        channels = self.channels(tensor, tile)
        if channels is None:
            return self.tiling.owned(tensor, tile)
        return EMPTY if channels[0] == channels[1] else whole(*self._sizes[tensor])

    def gathers(self, group: int) -> bool:
        """Whether a group starts with a gather of whole tensors, instead of transfers."""
        return self.ranges[group][0] in self.spans and bool(self.copied[group])

    def channels(self, tensor: int, tile: int) -> Channels | None:
        """The channels of a sliced tensor that a tile owns; None where tensors are tiled."""
        spans = self.spans.get(tensor - 1)
        return None if spans is None else spans[tile]

    @cached_property
    def needs(self) -> tuple[tuple[GroupNeeds, ...], ...]:
        """For each tile, its boxes in each group."""
        groups = (self._needs(first, stop) for first, stop in self.ranges)
        return tuple(zip(*groups, strict=True))

    def _needs(self, first: int, stop: int) -> tuple[GroupNeeds, ...]:
        """Of a group, for each tile."""
        key = (first, stop, first in self.spans)
        if key not in self._known:
            found = self._walked(first, stop)
            self._known[key] = tuple(map(self._whole, found) if first in self.spans else found)
        return self._known[key]

    def _walked(self, first: int, stop: int) -> Iterator[GroupNeeds]:
        for tile in range(self.plan.grid.tiles):
            owned = partial(self.owned, tile=tile)
            yield group_needs(self._layers, self._sizes, owned, first, stop)

    def _whole(self, needs: GroupNeeds) -> GroupNeeds:
        """Those of a filter-parallel group.

        All of what it reads, though a strided layer may not need the last cells, and a rank
        without channels none: copies are alike on all ranks.
        """
        fetched = {tensor: whole(*self._sizes[tensor]) for tensor in needs.fetched}
        return replace(needs, fetched=fetched)

    def _copied(self, first: int, stop: int) -> frozenset[int]:
        """Tensors from outside a group that lie in another form than the group's own.

        Every tile reads its part of the image, halo included, from the image itself.
        """
        inputs = {tensor for layer in range(first, stop) for tensor in self._layers[layer].inputs}
        return frozenset(
            tensor
            for tensor in inputs
            if 0 < tensor <= first and (first in self.spans or tensor - 1 in self.spans)
        )

    def part(self, tile: int) -> TilePart:
        """All boxes and messages of a tile."""
        messages = tuple(self._transfers(tile, group) for group in range(len(self.ranges)))
        return replace(self.boxes(tile), transfers=messages)

    def boxes(self, tile: int) -> TilePart:
        """The part of a tile without its messages, which take longest to find."""
        tensors = range(len(self.network.shapes))
        owned = tuple(self.owned(tensor, tile) for tensor in tensors)
        return TilePart(
            tile,
            owned,
            self._stored(tile, owned),
            self.needs[tile],
            (),
            {layer + 1: spans[tile] for layer, spans in self.spans.items()},
            {
                group: {
                    tensor: self.needs[tile][group].fetched[tensor] for tensor in sorted(copied)
                }
                for group, copied in enumerate(self.copied)
                if copied
            },
        )

    def _stored(self, tile: int, owned: tuple[Box, ...]) -> tuple[Box, ...]:
        stored = list(owned)
        for group, copied in zip(self.needs[tile], self.copied, strict=True):
            for layer, box in enumerate(group.computed, group.first):
                stored[layer + 1] = stored[layer + 1].hull(box)
            for tensor, box in group.fetched.items():
                if tensor not in copied:
                    stored[tensor] = stored[tensor].hull(box)
        return tuple(stored)

    def _transfers(self, tile: int, group: int) -> Transfers:
        if self.gathers(group):
            return Transfers((), ())
        # Every tile reads its part of the image, halo included, from the image
        # itself: tensor 0 never travels.
        tensors = [tensor for tensor in self.needs[tile][group].fetched if tensor != 0]
        return transfers(
            tile,
            self.plan.grid.tiles,
            tensors,
            self.owned,
            lambda tensor, peer: self.needs[peer][group].fetched[tensor],
            self.channels,
            self.copied[group],
        )
