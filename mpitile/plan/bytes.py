"""Bytes of every array of tensor size that a rank allocates, from the plan alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod

from mpitile.network.merging import merged_pools
from mpitile.network.parameters import parameter_specs
from mpitile.network.spec import Network
from mpitile.plan.bands import band_elements
from mpitile.plan.buckets import network_buckets
from mpitile.plan.devices import Devices, expected_devices
from mpitile.plan.lifetimes import Buffer, pass_buffers
from mpitile.plan.memory import in_use, lay_out
from mpitile.plan.partition import Partition, TilePart
from mpitile.plan.plan import Plan
from mpitile.plan.recomputation import stages
from mpitile.plan.slices import bytes_in_flight, covered, own_spans
from mpitile.plan.timeline import make_timeline
from mpitile.plan.traffic import group_traffic

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


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run asks of its ranks' memory, whatever the plan.

    Attributes
    ----------
    images : of one pass over all replicas.
    itemsize : bytes of a number: 4 or 8.
    optimizer_arrays : how many arrays as long as the trained values the optimiser keeps.
    optimizer_scratch : bytes that an update works in.
    kernel_elements : numbers in the kernels' scratch memory.
    readers : who reads images into memory: "all" ranks their own boxes, the "root" whole
        images for all ranks, or "none".
    feeders : how many sets of images are open at a time; two while validating.
    devices : which ranks share a device, and one copy of the weights; all of them if None.
    """

    images: int
    itemsize: int = 4
    optimizer_arrays: int = 1
    optimizer_scratch: int = 0
    kernel_elements: int = 0
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
    found = []
    for rank in range(plan.ranks):
        tile = rank % plan.grid.tiles
        kinds = {
            **state_bytes(network, devices, rank, demand.itemsize, demand.optimizer_arrays),
            **tiles[tile],
            "images": pixel * (images * cells[tile] + _staged(demand, plan, rank, cells, network)),
        }
        found.append({kind: kinds[kind] for kind in KINDS})
    return tuple(found)


def tile_bytes(partition: Partition, demand: Demand, tile: int) -> dict[str, int]:
    """Bytes by kind of a rank that computes this tile, without its feeders."""
    return plan_bytes(partition, replace(demand, readers="none"))[tile]


def state_bytes(
    network: Network, devices: Devices, rank: int, itemsize: int, optimizer_arrays: int
) -> dict[str, int]:
    """Bytes of what is trained; the weights are in the account of a device's first rank.

    "sums" are the buffers for what other devices send while gradients are added up.
    """
    trained, running = parameter_elements(network)
    _, position = devices.place(rank)
    buckets = [bucket.span for bucket in network_buckets(network, itemsize)]
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
    buffers = pass_buffers(network, part, images, itemsize, merged=merged, recompute=plan.recompute)
    if buffers not in arenas:
        loss = make_timeline(stages(network, plan.groups, plan.recompute, merged)).loss
        arenas[buffers] = arena_bytes(buffers, lay_out(buffers).size, loss)
    scratch = demand.kernel_elements + scratch_elements(network, part, images, merged)
    return {**arenas[buffers], "workspace": demand.optimizer_scratch + scratch * itemsize}


def arena_bytes(buffers: Collection[Buffer], size: int, loss: int) -> dict[str, int]:
    """The arena's bytes by kind: "deltas" is what they need beyond freed activations.

    Parameters
    ----------
    size : of the arena.
    loss : the event behind the last one of forward.
    """
    activations = in_use(buffers, loss - 1)
    return {"activations": activations, "deltas": size - activations}


def parameter_elements(network: Network) -> tuple[int, int]:
    """Numbers of trained values and of running statistics."""
    specs = parameter_specs(network)
    trained = sum(prod(spec.shape) for spec in specs if spec.trained)
    return trained, sum(prod(spec.shape) for spec in specs) - trained


def scratch_elements(network: Network, part: TilePart, images: int, merged: Collection[int]) -> int:
    """Numbers in the scratch memory of layers that work band by band."""
    layers = network.layers
    return max(
        (
            band_elements(
                layers[pool - 1], layers[pool], images, part.computed(pool), part.computed(pool - 1)
            )
            for pool in merged
        ),
        default=0,
    )
