"""What every tile owns, computes, holds and exchanges under a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from mpitile.geometry.box import Box
from mpitile.geometry.needs import GroupNeeds, group_needs, group_ranges
from mpitile.geometry.tiling import Tiling, tile_tensors
from mpitile.geometry.transfers import Transfers, transfers
from mpitile.network import receptive
from mpitile.network.spec import Network
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
    owned : for each tensor, the cells it owns.
    stored : for each tensor, the cells it holds: owned, computed or fetched.
    groups : for each fused group, what it computes and needs.
    transfers : for each fused group, the messages at its start.
    """

    tile: int
    owned: tuple[Box, ...]
    stored: tuple[Box, ...]
    groups: tuple[GroupNeeds, ...]
    transfers: tuple[Transfers, ...]

    def computed(self, layer: int) -> Box:
        """The cells that the tile computes of a layer's output."""
        needs = next(group for group in self.groups if group.first <= layer < group.stop)
        return needs.computed[layer - needs.first]


class Partition:
    """Ownership, needs and transfers of any tile of a network under a plan.

    Every rank can ask for every tile's part: nothing here depends on who asks.

    Raises
    ------
    InputError : the plan's groups or grid do not fit the network.
    """

    def __init__(self, network: Network, plan: Plan) -> None:
        self.network = network
        self.plan = plan
        self._layers = receptive.geometry(network)
        self._sizes = receptive.sizes(network)
        self.ranges = group_ranges(plan.groups, len(network.layers))
        self.tiling: Tiling = plan_tiling(network, plan)

    @cached_property
    def needs(self) -> tuple[tuple[GroupNeeds, ...], ...]:
        """For each tile, its boxes in each group."""
        return tuple(
            tuple(
                group_needs(
                    self._layers,
                    self._sizes,
                    lambda tensor, tile=tile: self.tiling.owned(tensor, tile),
                    first,
                    stop,
                )
                for first, stop in self.ranges
            )
            for tile in range(self.plan.grid.tiles)
        )

    def part(self, tile: int) -> TilePart:
        """All boxes and messages of a tile."""
        messages = tuple(self._transfers(tile, group) for group in range(len(self.ranges)))
        return replace(self.boxes(tile), transfers=messages)

    def boxes(self, tile: int) -> TilePart:
        """The part of a tile without its messages, which take longest to find."""
        tensors = range(len(self.network.shapes))
        owned = tuple(self.tiling.owned(tensor, tile) for tensor in tensors)
        return TilePart(tile, owned, self._stored(tile, owned), self.needs[tile], ())

    def _stored(self, tile: int, owned: tuple[Box, ...]) -> tuple[Box, ...]:
        stored = list(owned)
        for group in self.needs[tile]:
            for layer, box in enumerate(group.computed, group.first):
                stored[layer + 1] = stored[layer + 1].hull(box)
            for tensor, box in group.fetched.items():
                stored[tensor] = stored[tensor].hull(box)
        return tuple(stored)

    def _transfers(self, tile: int, group: int) -> Transfers:
        # Every tile reads its part of the image, halo included, from the image
        # itself: tensor 0 never travels.
        tensors = [tensor for tensor in self.needs[tile][group].fetched if tensor != 0]
        return transfers(
            tile,
            self.plan.grid.tiles,
            tensors,
            self.tiling.owned,
            lambda tensor, peer: self.needs[peer][group].fetched[tensor],
        )
