"""What the sums over ranks add to a step because of one layer, tiled or filter-parallel."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from mpitile.network.parameters import layer_parameters
from mpitile.network.spec import Layer, Network
from mpitile.plan.clusters.devices import Devices, first_devices, peer_devices
from mpitile.plan.costs.alike import alike_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.small_sums import SmallSums
from mpitile.plan.plan import Plan
from mpitile.plan.sums.slices import Load, loads

# Batch norm adds up float64: one vector twice in forward, two at once in backward.
STATISTIC_BYTES = 8
# Numbers of a channel by which the seconds for each further one are told.
_MANY = 1 << 12


def trained_elements(layer: Layer) -> int:
    """Numbers of a layer that the optimiser changes."""
    return sum(prod(spec.shape) for spec in layer_parameters(layer) if spec.trained)


class SumTimes:
    """Seconds of a pass, by layer; a step's sums are shared out among its passes.

    What a sum of any size takes, its latency, is not in it: it tells no plans apart.

    Parameters
    ----------
    plan : grid and number of replicas.
    passes : of a step.
    """

    def __init__(
        self, network: Network, cost: Cost, plan: Plan, passes: int, optimizer: str
    ) -> None:
        self._layers, self._cost, self._plan = network.layers, cost, plan
        self._passes, self._optimizer = passes, optimizer
        self._small_sums = SmallSums(cost, plan.ranks)
        self._alike = alike_devices(cost, plan)
        self._peers = PeerSums(cost, plan)
        self._peer_rates: dict[tuple[int, ...], float] = {}
        self._each = cost.trained(plan.ranks, optimizer)

    def tiled(self, layer: int) -> float:
        """Of a layer whose gradients are summed over all ranks."""
        return trained_elements(self._layers[layer]) * self._each / self._passes

    def sliced(self, layer: int, channels: Sequence[int]) -> float:
        """Of one whose gradients are summed over replicas; `channels` of each tile's rank."""
        described = self._layers[layer]
        elements = trained_elements(described)
        if not elements:
            return 0.0
        every, replicas = described.output_shape.channels, self._plan.replicas
        slices = {(alike.device, channels[tile]) for alike in self._alike for tile in alike.tiles()}
        update = max(
            self._cost.update(device, elements // every * part / replicas, self._optimizer)
            for device, part in slices
        )
        added = elements // every * self._peer_rate(tuple(channels)) if replicas > 1 else 0.0
        return (added + update) / self._passes

    def _peer_rate(self, channels: tuple[int, ...]) -> float:
        """Seconds that each trained number of every channel adds to the sums over replicas."""
        if channels not in self._peer_rates:
            each = _MANY * self._cost.itemsize
            once, twice = (
                self._peers.seconds([times * each * part for part in channels]) for times in (1, 2)
            )
            self._peer_rates[channels] = (twice - once) / _MANY
        return self._peer_rates[channels]

    def statistics(self, layer: int, channels: int, ranks: int | None = None) -> float:
        """Of batch norm's sums over so many ranks, all if left out."""
        if not getattr(self._layers[layer].operation, "batch_normalize", False):
            return 0.0
        size = STATISTIC_BYTES * channels
        if ranks is not None:
            return 2 * self._cost.reduction(size, ranks) + self._cost.reduction(2 * size, ranks)
        return 2 * self._small_sums.seconds(size) + self._small_sums.seconds(2 * size)


class PeerSums:
    """Sums over replicas, of each tile by the ranks that have it, all tiles at the same time.

    Parameters
    ----------
    plan : grid and number of replicas.
    """

    def __init__(self, cost: Cost, plan: Plan) -> None:
        self._cost, self._plan = cost, plan
        self._places = [cost.cluster.device_of(rank) for rank in range(plan.ranks)]
        everything, tiles = first_devices(cost.cluster, plan.ranks), plan.grid.tiles
        self._peers = [peer_devices(everything, tiles, tile) for tile in range(tiles)]

    def seconds(self, sizes: Sequence[float]) -> float:
        """To add up so many bytes of each tile and hand out the values."""
        return self.travel(sizes) + max(self.adding(sizes))

    def travel(self, sizes: Sequence[float]) -> float:
        """Between devices alone; nothing where every tile's ranks share one."""
        out, into = ([0] * len(self._cost.cluster.devices) for _ in range(2))
        for place, load in zip(self._places, self._loads(sizes), strict=True):
            out[place] += load.sent
            into[place] += load.received
        # The values come back the way that the sums went.
        return 2 * self._cost.between_devices(out, into)

    def adding(self, sizes: Sequence[float]) -> list[float]:
        """In which each rank adds up its part, inside its device and from others."""
        tiles, found = self._plan.grid.tiles, []
        for rank, load in enumerate(self._loads(sizes)):
            replica, tile = divmod(rank, tiles)
            peers = self._peers[tile]
            mates = peers.ranks[peers.place(replica)[0]]
            speed = self._cost.cluster.devices[self._places[rank]].speed
            summands = (len(mates) - 1) * load.added + load.received
            found.append(summands / (speed.sum * speed.share))
        return found

    def _loads(self, sizes: Sequence[float]) -> list[Load]:
        """Of each rank of the world, in bytes."""
        # Tiles whose ranks lie alike on devices share what is as large.
        known: dict[tuple[Devices, int], list[Load]] = {}
        of_tiles = []
        for peers, size in zip(self._peers, sizes, strict=True):
            key = (peers, int(size))
            if key not in known:
                known[key] = loads(*key)
            of_tiles.append(known[key])
        return [own for replica in zip(*of_tiles, strict=True) for own in replica]
