"""What the sums over ranks add to a step because of one layer, tiled or filter-parallel."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from mpitile.network.parameters import layer_parameters
from mpitile.network.spec import Layer, Network
from mpitile.plan.clusters.devices import first_devices, peer_devices
from mpitile.plan.costs.cost import Cost, Message
from mpitile.plan.plan import Plan
from mpitile.plan.sums.slices import covered, share

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
        self._devices = [cost.cluster.device_of(rank) for rank in range(plan.ranks)]
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
        own = [elements // every * part for part in channels]
        update = max(
            self._cost.update(device, own[rank % len(own)] / replicas, self._optimizer)
            for rank, device in enumerate(self._devices)
        )
        added = elements // every * self._peer_rate(tuple(channels)) if replicas > 1 else 0.0
        return (added + update) / self._passes

    def _peer_rate(self, channels: tuple[int, ...]) -> float:
        """Seconds that each trained number of every channel adds to the sums over replicas."""
        if channels not in self._peer_rates:
            each = _MANY * self._cost.itemsize
            once, twice = (
                peer_sum(self._cost, self._plan, [times * each * part for part in channels])
                for times in (1, 2)
            )
            self._peer_rates[channels] = (twice - once) / _MANY
        return self._peer_rates[channels]

    def statistics(self, layer: int, channels: int, ranks: int | None = None) -> float:
        """Of batch norm's sums over so many ranks, all if left out."""
        if not getattr(self._layers[layer].operation, "batch_normalize", False):
            return 0.0
        ranks, size = ranks or self._plan.ranks, STATISTIC_BYTES * channels
        return 2 * self._cost.reduction(size, ranks) + self._cost.reduction(2 * size, ranks)


def peer_sum(cost: Cost, plan: Plan, sizes: Sequence[float]) -> float:
    """Seconds to add up so many bytes of each tile over all replicas and hand out the values.

    As gradients are summed over all ranks, but by all tiles' peers at the same time.
    """
    messages = peer_messages(cost, plan, sizes)
    if not messages:
        return 0.0
    back = [Message(m.target, m.source, m.size) for m in messages]
    ways = sum(max(cost.exchange(way).values(), default=0.0) for way in (messages, back))
    adding = max(peer_adding(cost, plan, rank, sizes) for rank in range(plan.ranks))
    return ways + adding


def peer_messages(cost: Cost, plan: Plan, sizes: Sequence[float]) -> list[Message]:
    """What ranks of the world send of such a sum; the values come back the same way."""
    tiles, found = plan.grid.tiles, []
    if plan.replicas < 2:
        return found
    everything = first_devices(cost.cluster, plan.ranks)
    for tile, size in enumerate(sizes):
        devices = peer_devices(everything, tiles, tile)
        for replica in range(plan.replicas):
            found += [
                Message(replica * tiles + tile, parcel.rank * tiles + tile, covered([parcel.span]))
                for parcel in share(devices, replica, (0, int(size))).sends
            ]
    return found


def peer_adding(cost: Cost, plan: Plan, rank: int, sizes: Sequence[float]) -> float:
    """Seconds in which a rank adds up its part, inside its device and from others."""
    if plan.replicas < 2:
        return 0.0
    replica, tile = divmod(rank, plan.grid.tiles)
    devices = peer_devices(first_devices(cost.cluster, plan.ranks), plan.grid.tiles, tile)
    part = share(devices, replica, (0, int(sizes[tile])))
    mates = devices.ranks[devices.place(replica)[0]]
    received = sum(covered([parcel.span]) for parcel in part.receives)
    speed = cost.cluster.devices[cost.cluster.device_of(rank)].speed
    return ((len(mates) - 1) * covered(part.added) + received) / (speed.sum * speed.share)
