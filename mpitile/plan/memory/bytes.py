"""Bytes of every array of tensor size that a rank allocates, from the plan alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpitile.network.merging import merged_pools
from mpitile.network.spec import Network
from mpitile.plan.bands import band_elements
from mpitile.plan.clusters.devices import Devices, expected_devices, team_devices
from mpitile.plan.gathers import part_sizes, staging_bytes
from mpitile.plan.memory.arena import in_use, lay_out_common, lay_out_own
from mpitile.plan.memory.lifetimes import Buffer, pass_buffers, pass_entries, sized
from mpitile.plan.memory.state_bytes import flat_parts, state_bytes
from mpitile.plan.partition import Partition, TilePart
from mpitile.plan.pass_order import pass_order
from mpitile.plan.plan import Plan
from mpitile.plan.recomputation import stages
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


# For each of these parts, by layer, elements that the kernels of its rank work in, for so many
# images a pass and these merged pools.
Kernels = Callable[
    [Partition, Sequence[TilePart], int, Collection[int]], Sequence[Mapping[int, int]]
]


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
    tiles = [
        {**arena, "halos": images * halos[tile] * demand.itemsize}
        for tile, arena in enumerate(_arenas(partition, parts, images, demand))
    ]
    cells = [part.stored[0].cells for part in parts]
    pixel = network.shape(0).channels * demand.itemsize
    devices = demand.devices or expected_devices(plan.ranks)
    gathering = _gathering(partition, devices, images, demand.itemsize)
    state = flat_parts(network, plan, demand.itemsize)
    found = []
    for rank, (staging, common) in enumerate(gathering):
        tile = rank % plan.grid.tiles
        kinds = {
            **state_bytes(
                plan, devices, rank, state[tile], demand.itemsize, demand.optimizer_arrays
            ),
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
    network, plan = partition.network, partition.plan
    merged = merged_pools(network, plan.groups)
    part = partition.boxes(0)
    buffers = pass_buffers(network, part, images, itemsize, merged=merged, recompute=plan.recompute)
    return lay_out_common(buffers).size


def _gathered(partition: Partition, images: int) -> list[tuple[int, ...]]:
    """The sizes of each gather's parts."""
    groups = range(len(partition.ranges))
    parts = [whole_parts(partition, group) for group in groups if partition.gathers(group)]
    return [part_sizes(found, images) for found in parts]


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


def _arenas(
    partition: Partition, parts: Sequence[TilePart], images: int, demand: Demand
) -> Iterator[dict[str, int]]:
    """Bytes of each tile's values and gradients, and of what kernels and layers work in."""
    network, plan = partition.network, partition.plan
    merged = merged_pools(network, plan.groups)
    cut = stages(network, plan.groups, plan.recompute, merged)
    loss = pass_order(cut).loss
    entries = pass_entries(network, parts[0], cut, demand.itemsize)
    # The optimiser of slices works in memory of its own.
    updates = demand.optimizer_scratch * (2 if plan.filters else 1)
    # Tiles of the same sizes share a layout.
    known: dict[tuple[int, ...], dict[str, int]] = {}
    kernels: Sequence[Mapping[int, int]] = [{}] * len(parts)
    if demand.kernels:
        kernels = demand.kernels(partition, parts, images, merged)
    for part, works in zip(parts, kernels, strict=True):
        buffers = sized(entries, network, part, images)
        sizes = tuple(buffer.size for buffer in buffers)
        if sizes not in known:
            known[sizes] = arena_bytes(buffers, lay_out_own(buffers).size, loss)
        scratch = scratch_elements(band_sizes(network, part, images, merged), works)
        yield {**known[sizes], "workspace": updates + scratch * demand.itemsize}


def arena_bytes(buffers: Collection[Buffer], size: int, loss: int) -> dict[str, int]:
    """The bytes by kind of a rank's own arena: "deltas" is what they need beyond freed activations.

    Parameters
    ----------
    size : of the arena.
    loss : the event behind the last one of forward.
    """
    activations = in_use((buffer for buffer in buffers if not buffer.common), loss - 1)
    return {"activations": activations, "deltas": size - activations}


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
