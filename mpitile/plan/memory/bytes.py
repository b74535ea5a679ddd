"""Bytes of every array of tensor size that a rank allocates, from the plan alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from mpitile.network.merging import merged_pools
from mpitile.network.parameters import ParameterSpec, divided_specs, parameter_specs
from mpitile.network.spec import Network
from mpitile.plan.bands import band_elements
from mpitile.plan.clusters.devices import Devices, expected_devices, peer_devices, team_devices
from mpitile.plan.filters import tile_spans
from mpitile.plan.gathers import part_sizes, staging_bytes
from mpitile.plan.memory.arena import in_use, lay_out_common, lay_out_own
from mpitile.plan.memory.lifetimes import Buffer, pass_buffers
from mpitile.plan.partition import Partition, TilePart
from mpitile.plan.pass_order import pass_order
from mpitile.plan.plan import Plan
from mpitile.plan.recomputation import stages
from mpitile.plan.sums.buckets import layer_buckets
from mpitile.plan.sums.slices import bytes_in_flight, covered, own_spans
from mpitile.plan.traffic import group_traffic, whole_parts

KINDS = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "deltas",
    "workspace",
    "halos",
    "images",
    "sums",
)
# Images are read into one of two buffers while the other is in use.
STAGES = 2


# By layer, elements that the kernels of a rank with these boxes work in, for so many images a
# pass and these merged pools.
Kernels = Callable[[Partition, TilePart, int, Collection[int]], Mapping[int, int]]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run asks of its ranks' memory, whatever the plan.

    Attributes
    ----------
    images : of one pass over all replicas.
    itemsize : bytes of a number: 4 or 8.
    optimizer_arrays : how many arrays as long as the trained values the optimiser keeps.
    optimizer_scratch : bytes that an update works in.
    kernels : tells how many numbers each layer's kernels work in; None for none.
    readers : who reads images into memory: "all" ranks their own boxes, the "root" whole
        images for all ranks, or "none".
    feeders : how many sets of images are open at a time; two while validating.
    devices : which ranks share a device, and one copy of the weights; all of them if None.
    """

    images: int
    itemsize: int = 4
    optimizer_arrays: int = 1
    optimizer_scratch: int = 0
    kernels: Kernels | None = None
    readers: str = "all"
    feeders: int = 1
    devices: Devices | None = None


def plan_bytes(partition: Partition, demand: Demand) -> tuple[dict[str, int], ...]:
    """Bytes by kind of every rank, those of its feeders included."""
    plan, network = partition.plan, partition.network
    images = demand.images // plan.replicas
    halos: Counter[int] = Counter()
    for group in range(len(partition.ranges)):
        for (source, target), elements in group_traffic(partition, group).items():
            halos[source] += elements
            halos[target] += elements
    parts = [partition.boxes(tile) for tile in range(plan.grid.tiles)]
    # Tiles of the same sizes share a layout.
    arenas: dict[tuple[Buffer, ...], dict[str, int]] = {}
    tiles = [
        {
            **_arena(partition, part, images, demand, arenas),
            "halos": images * halos[part.tile] * demand.itemsize,
        }
        for part in parts
    ]
    cells = [part.stored[0].cells for part in parts]
    pixel = network.shape(0).channels * demand.itemsize
    devices = demand.devices or expected_devices(plan.ranks)
    gathering = _gathering(partition, devices, images, demand.itemsize)
    found = []
    for rank, (staging, common) in enumerate(gathering):
        tile = rank % plan.grid.tiles
        kinds = {
            **state_bytes(network, plan, devices, rank, demand.itemsize, demand.optimizer_arrays),
            **tiles[tile],
            "activations": tiles[tile]["activations"] + common,
            "halos": tiles[tile]["halos"] + staging,
            "images": pixel * (images * cells[tile] + _staged(demand, plan, rank, cells, network)),
        }
        found.append({kind: kinds[kind] for kind in KINDS})
    return tuple(found)


def _gathering(
    partition: Partition, devices: Devices, images: int, itemsize: int
) -> list[tuple[int, int]]:
    """For each rank, what it adds to memory that its device shares: on the way, and for copies.

    The copies are in the account of a team's first rank on a device.
    """
    sizes, tiles = _gathered(partition, images), partition.plan.grid.tiles
    common = _common_bytes(partition, images, itemsize)
    found: list[tuple[int, int]] = []
    for first in range(0, partition.plan.ranks, tiles):
        team = team_devices(devices, range(first, first + tiles))
        for tile in range(tiles):
            _, position = team.place(tile)
            staging = staging_bytes(team, sizes, tile, itemsize, True)
            found.append((staging, 0 if position else common))
    return found


class Shared(NamedTuple):
    """Bytes of shared memory that gathers of whole tensors want at most, whatever ranks share it.

    Attributes
    ----------
    each : of each rank, on the way.
    once : of a host, for copies.
    """

    each: int
    once: int


NOTHING_SHARED = Shared(0, 0)


def most_shared(partition: Partition, images: int, itemsize: int) -> Shared:
    """What a program's gathers want.

    Parameters
    ----------
    images : of one pass of one replica.
    """
    sizes, plan = _gathered(partition, images), partition.plan
    tiles = range(plan.grid.tiles)
    # Nowhere more than where no rank shares with any other.
    apart = Devices(tuple((tile,) for tile in tiles))
    each = max(staging_bytes(apart, sizes, tile, itemsize, True) for tile in tiles)
    return Shared(each, plan.replicas * _common_bytes(partition, images, itemsize))


def _common_bytes(partition: Partition, images: int, itemsize: int) -> int:
    """Of the copies that a team's ranks on a device have in common: the same on all devices."""
    if not any(partition.gathers(group) for group in range(len(partition.ranges))):
        return 0
    buffers = _buffers(partition, partition.boxes(0), images, itemsize)
    return lay_out_common(buffers).size


def _buffers(
    partition: Partition, part: TilePart, images: int, itemsize: int
) -> tuple[Buffer, ...]:
    network, plan = partition.network, partition.plan
    merged = merged_pools(network, plan.groups)
    return pass_buffers(network, part, images, itemsize, merged=merged, recompute=plan.recompute)


def _gathered(partition: Partition, images: int) -> list[tuple[int, ...]]:
    """The sizes of each gather's parts."""
    groups = range(len(partition.ranges))
    parts = [whole_parts(partition, group) for group in groups if partition.gathers(group)]
    return [part_sizes(found, images) for found in parts]


def state_bytes(
    network: Network,
    plan: Plan,
    devices: Devices,
    rank: int,
    itemsize: int,
    optimizer_arrays: int,
) -> dict[str, int]:
    """Bytes of what is trained; the weights are in the account of a device's first rank.

    So is a slice of filter-parallel layers that the device's ranks have in common.
    "sums" are the buffers for what other devices send while gradients are added up.
    """
    replica, tile = divmod(rank, plan.grid.tiles)
    whole, sliced = divided_specs(network, tile_spans(network, plan, tile))
    shared = _divided_bytes(devices, rank, whole, itemsize, optimizer_arrays)
    peers = peer_devices(devices, plan.grid.tiles, tile)
    slices = _divided_bytes(peers, replica, sliced, itemsize, optimizer_arrays)
    return {kind: size + slices[kind] for kind, size in shared.items()}


def _divided_bytes(
    devices: Devices,
    rank: int,
    specs: Sequence[ParameterSpec],
    itemsize: int,
    optimizer_arrays: int,
) -> dict[str, int]:
    """The same of parameters that all ranks of some devices have alike."""
    trained, running = _elements(specs)
    _, position = devices.place(rank)
    buckets = [bucket.span for bucket in layer_buckets(specs, itemsize)]
    own = covered(own_spans(devices, rank, buckets))
    return {
        "weights": (running + (0 if position else trained)) * itemsize,
        "gradients": trained * itemsize,
        "optimizer": own * optimizer_arrays * itemsize,
        "sums": bytes_in_flight(devices, rank, buckets, itemsize),
    }


def _staged(demand: Demand, plan: Plan, rank: int, cells: Sequence[int], network: Network) -> int:
    """Cells of images that a rank's feeders hold; `cells` are those of the tiles."""
    images = demand.images // plan.replicas
    if demand.readers == "all":
        return demand.feeders * STAGES * images * cells[rank % plan.grid.tiles]
    if demand.readers == "root" and rank == 0:
        shape = network.shape(0)
        read = STAGES * demand.images * shape.height * shape.width
        return demand.feeders * (read + plan.replicas * images * sum(cells))
    return 0


def _arena(
    partition: Partition,
    part: TilePart,
    images: int,
    demand: Demand,
    arenas: dict[tuple[Buffer, ...], dict[str, int]],
) -> dict[str, int]:
    """Bytes of a tile's values and gradients, and of what kernels and layers work in."""
    network, itemsize = partition.network, demand.itemsize
    plan = partition.plan
    merged = merged_pools(network, plan.groups)
    buffers = _buffers(partition, part, images, itemsize)
    if buffers not in arenas:
        loss = pass_order(stages(network, plan.groups, plan.recompute, merged)).loss
        arenas[buffers] = arena_bytes(buffers, lay_out_own(buffers).size, loss)
    kernels = demand.kernels(partition, part, images, merged) if demand.kernels else {}
    scratch = scratch_elements(band_sizes(network, part, images, merged), kernels)
    # The optimiser of slices works in memory of its own.
    updates = demand.optimizer_scratch * (2 if plan.filters else 1)
    return {**arenas[buffers], "workspace": updates + scratch * itemsize}


def arena_bytes(buffers: Collection[Buffer], size: int, loss: int) -> dict[str, int]:
    """The bytes by kind of a rank's own arena: "deltas" is what they need beyond freed activations.

    Parameters
    ----------
    size : of the arena.
    loss : the event behind the last one of forward.
    """
    activations = in_use((buffer for buffer in buffers if not buffer.common), loss - 1)
    return {"activations": activations, "deltas": size - activations}


def parameter_elements(network: Network) -> tuple[int, int]:
    """Numbers of trained values and of running statistics."""
    return _elements(parameter_specs(network))


def tile_elements(
    network: Network, plan: Plan, tile: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The same of what all ranks have alike, and of a tile's slices of filter-parallel layers."""
    whole, sliced = divided_specs(network, tile_spans(network, plan, tile))
    return _elements(whole), _elements(sliced)


def _elements(specs: Sequence[ParameterSpec]) -> tuple[int, int]:
    trained = sum(prod(spec.shape) for spec in specs if spec.trained)
    return trained, sum(prod(spec.shape) for spec in specs) - trained


def band_sizes(
    network: Network, part: TilePart, images: int, merged: Collection[int]
) -> dict[int, int]:
    """By layer in front of a merged pool, numbers of the largest band that it works in."""
    layers = [part.local(layer) for layer in network.layers]
    return {
        pool - 1: band_elements(
            layers[pool - 1], layers[pool], images, part.computed(pool), part.computed(pool - 1)
        )
        for pool in merged
    }


def scratch_elements(bands: Mapping[int, int], kernels: Mapping[int, int]) -> int:
    """Numbers in the scratch memory that layers use one after the other.

    Parameters
    ----------
    bands, kernels : of each layer's bands, and of what its kernels work in meanwhile.
    """
    return max((bands.get(n, 0) + kernels.get(n, 0) for n in {*bands, *kernels}), default=0)
