"""Bytes of every array of tensor size that a rank allocates, from the plan alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from mpitile.network.merging import merged_pools
from mpitile.network.parameters import parameter_specs
from mpitile.network.spec import Network
from mpitile.plan.bands import band_elements
from mpitile.plan.lifetimes import Buffer, pass_buffers
from mpitile.plan.memory import in_use, lay_out
from mpitile.plan.partition import Partition, TilePart

KINDS = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "deltas",
    "workspace",
    "halos",
    "images",
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
    """

    images: int
    itemsize: int = 4
    optimizer_arrays: int = 1
    optimizer_scratch: int = 0
    kernel_elements: int = 0
    readers: str = "all"
    feeders: int = 1


def rank_bytes(partition: Partition, demand: Demand, rank: int) -> dict[str, int]:
    """Bytes by kind of one rank, those of its feeders included."""
    plan = partition.plan
    found = tile_bytes(partition, demand, rank % plan.grid.tiles)
    images = demand.images // plan.replicas
    staged = 0
    if demand.readers == "all":
        box = partition.part(rank % plan.grid.tiles).stored[0]
        staged = STAGES * images * box.cells
    elif demand.readers == "root" and rank == 0:
        whole = (
            demand.images * partition.network.shape(0).size // partition.network.shape(0).channels
        )
        boxes = [partition.part(tile).stored[0] for tile in range(plan.grid.tiles)]
        sent = plan.replicas * images * sum(box.cells for box in boxes)
        staged = STAGES * whole + sent
    channels = partition.network.shape(0).channels
    found["images"] += demand.feeders * staged * channels * demand.itemsize
    return found


def tile_bytes(partition: Partition, demand: Demand, tile: int) -> dict[str, int]:
    """Bytes by kind of a rank that computes this tile, without its feeders."""
    network, plan, itemsize = partition.network, partition.plan, demand.itemsize
    part = partition.part(tile)
    images = demand.images // plan.replicas
    merged = merged_pools(network, [first for first, _ in partition.ranges])
    trained, running = parameter_elements(network)
    buffers = training_buffers(partition, part, images, itemsize, merged)
    activations = in_use(buffers, len(network.layers) - 1)
    return {
        "weights": (trained + running) * itemsize,
        "gradients": trained * itemsize,
        "optimizer": trained * demand.optimizer_arrays * itemsize,
        "activations": activations,
        # What they need beyond activations that are free by then.
        "deltas": lay_out(buffers).size - activations,
        "workspace": demand.optimizer_scratch
        + (demand.kernel_elements + scratch_elements(network, part, merged)) * itemsize,
        "halos": exchange_elements(network, part) * images * itemsize,
        "images": images * part.stored[0].cells * network.shape(0).channels * itemsize,
    }


def training_buffers(
    partition: Partition, part: TilePart, images: int, itemsize: int, merged: Collection[int]
) -> tuple[Buffer, ...]:
    """What the arena of a training pass holds."""
    return pass_buffers(partition.network, part, images, itemsize, merged=merged)


def parameter_elements(network: Network) -> tuple[int, int]:
    """Numbers of trained values and of running statistics."""
    specs = parameter_specs(network)
    trained = sum(prod(spec.shape) for spec in specs if spec.trained)
    return trained, sum(prod(spec.shape) for spec in specs) - trained


def scratch_elements(network: Network, part: TilePart, merged: Collection[int]) -> int:
    """Numbers in the scratch memory of layers that work band by band."""
    layers = network.layers
    return max(
        (band_elements(layers[pool - 1], layers[pool], part.computed(pool)) for pool in merged),
        default=0,
    )


def exchange_elements(network: Network, part: TilePart) -> int:
    """Numbers in the message buffers of all groups for one image of a pass."""
    return sum(
        message.elements(lambda tensor: network.shape(tensor).channels)
        for transfers in part.transfers
        for message in (*transfers.sends, *transfers.receives)
    )
