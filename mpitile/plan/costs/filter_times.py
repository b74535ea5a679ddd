"""Seconds of filter-parallel groups on one grid, whose ranks compute channels of whole maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpitile.network.merging import merged_pools
from mpitile.network.spec import Network
from mpitile.plan.clusters.cluster import OPERATIONS
from mpitile.plan.clusters.wires import EAGER_BYTES
from mpitile.plan.costs.alike import alike_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.gather_times import GatherTimes, Parts
from mpitile.plan.costs.group_times import GroupSeconds
from mpitile.plan.costs.sum_times import SumTimes
from mpitile.plan.filters import cut_channels, divides_filters, keeps_channels, tile_shares
from mpitile.plan.partition import plan_tiling
from mpitile.plan.plan import Plan

# How many channels each tile's rank computes.
Slices = tuple[int, ...]


def filter_groups(network: Network) -> Iterator[tuple[int, int]]:
    """First layer and stop of every group that can be filter-parallel."""
    layers = network.layers
    for layer in layers:
        if not divides_filters(layer):
            continue
        yield layer.index, layer.index + 1
        for behind in layers[layer.index + 1 :]:
            if not (keeps_channels(behind) and behind.inputs == (behind.index,)):
                break
            yield layer.index, behind.index + 1


class FilterTimes:
    """The filter-parallel groups of a network under one grid and number of replicas.

    Parameters
    ----------
    plan : grid, replicas and weights; its groups and filters do not matter.
    images : of a pass on one team.
    sums : what sums over ranks take.

    Attributes
    ----------
    slices : of each tensor that such a group can write, the channels of each tile's rank.
    groups : by first layer and stop, without their exchanges.
    """

    def __init__(
        self, network: Network, cost: Cost, plan: Plan, images: int, sums: SumTimes
    ) -> None:
        self._network, self._cost, self._plan, self._images = network, cost, plan, images
        self._sums = sums
        self._tiling = plan_tiling(network, plan)
        self._gathers = GatherTimes(cost, plan)
        self._pools = merged_pools(network, ())
        self._bytes = images * cost.itemsize
        self._known: dict[tuple[int, bool], tuple[float, float, float, bool]] = {}
        self._weights: dict[tuple[int, int], float] = {}
        # A device of each speed for each tile's slice.
        self._tiles = {
            (tile, alike.device) for alike in alike_devices(cost, plan) for tile in alike.tiles()
        }
        shares = tile_shares(plan)
        self.slices: dict[int, Slices] = {}
        self.groups: dict[tuple[int, int], GroupSeconds] = {}
        for first, stop in filter_groups(network):
            spans = cut_channels(network.layers[first].output_shape.channels, shares)
            self.slices[stop] = tuple(b - a for a, b in spans)
            self.groups[first, stop] = self._group(first, stop)

    def reading(self, first: int, stop: int, sliced: bool) -> GroupSeconds:
        """A group with its exchange, where its input is divided by channels or into tiles."""
        tensor = self._network.layers[first].inputs[0]
        forward, adjoint, link, eager = self._gather(tensor, sliced)
        hidden = min(link, self._weights[first, stop]) if eager else 0.0
        return self.groups[first, stop]._replace(exchange=forward, adjoint=adjoint, hidden=hidden)

    def parts(self, tensor: int, sliced: bool) -> Parts:
        """Bytes of a tensor that each tile's rank owns."""
        return tuple(self._bytes * part for part in self.elements(tensor, sliced))

    def elements(self, tensor: int, sliced: bool) -> Sequence[int]:
        """Numbers of one image of it that each tile's rank owns."""
        shape = self._network.shape(tensor)
        if sliced:
            cells = shape.height * shape.width
            return tuple(cells * channels for channels in self.slices[tensor])
        owned = (self._tiling.owned(tensor, tile) for tile in range(self._plan.grid.tiles))
        return tuple(box.cells * shape.channels for box in owned)

    def devices_of(self, rank: int) -> int:
        """How many devices a rank's team is on."""
        return self._gathers.devices_of(rank)

    def _gather(self, tensor: int, sliced: bool) -> tuple[float, float, float, bool]:
        if not tensor:
            # Every rank reads the image itself.
            return 0.0, 0.0, 0.0, False
        key = (tensor, sliced)
        if key not in self._known:
            parts = self.parts(tensor, sliced)
            forward, backward = self._gathers.both_ways(parts)
            eager = max(parts) <= EAGER_BYTES
            self._known[key] = forward.seconds, backward.seconds, backward.link, eager
        return self._known[key]

    def _group(self, first: int, stop: int) -> GroupSeconds:
        forward, backward, weights, again = 0.0, 0.0, 0.0, []
        for channels, device in {(self.slices[stop][tile], device) for tile, device in self._tiles}:
            times = list(self._layers(first, stop, device, channels))
            forward = max(forward, sum(own[0] for own in times))
            backward = max(backward, sum(own[1] + own[2] for own in times))
            # Only the first layer has weights.
            weights = max(weights, sum(own[2] for own in times))
            again.append([own[0] for own in times])
        self._weights[first, stop] = weights
        return GroupSeconds(
            forward,
            backward,
            0.0,
            0.0,
            0.0,
            tuple(map(max, zip(*again, strict=True))),
            self._sums.sliced(first, self.slices[stop]),
            self._sums.statistics(first, max(self.slices[stop]), self._plan.replicas),
        )

    def _layers(
        self, first: int, stop: int, device: int, channels: int
    ) -> Iterator[Sequence[float]]:
        """Seconds of each layer's operations; nothing of one that is computed with the next."""
        for layer in range(first, stop):
            if layer + 1 in self._pools and layer + 1 < stop:
                yield 0.0, 0.0, 0.0
                continue
            shape = self._network.layers[layer].output_shape
            box = (self._images, shape.height, shape.width)
            merged = layer in self._pools and layer > first
            yield [
                self._cost.compute(device, layer, name, *box, merged, channels)
                for name in OPERATIONS
            ]
