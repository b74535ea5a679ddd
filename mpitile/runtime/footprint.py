"""What a rank's program will allocate, known from the plan alone."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import numpy as np

from mpitile.geometry.transfers import Message
from mpitile.layers.pooled import band_elements
from mpitile.layers.registry import workspace_elements
from mpitile.network.merging import merged_pools
from mpitile.network.parameters import parameter_specs
from mpitile.network.spec import Network
from mpitile.plan.lifetimes import Buffer, pass_buffers
from mpitile.plan.memory import in_use, lay_out
from mpitile.plan.partition import Partition, TilePart
from mpitile.plan.recomputation import stages
from mpitile.plan.timeline import make_timeline


def program_bytes(
    partition: Partition,
    tile: int,
    images: int,
    dtype: np.dtype | type,
    training: bool = True,
    input_gradient: bool = False,
    merge_pools: bool = True,
) -> dict[str, int]:
    """Bytes by kind, as `mpitile.runtime.program.Program.bytes` has them; nothing is allocated.

    Parameters are those of a program; `tile` is the rank's number in its team.
    """
    network, plan = partition.network, partition.plan
    itemsize = np.dtype(dtype).itemsize
    part = partition.part(tile)
    merged = merged_pools(network, plan.groups) if merge_pools else frozenset()
    buffers = pass_buffers(
        network, part, images, itemsize, training, input_gradient, merged, plan.recompute
    )
    loss = make_timeline(stages(network, plan.groups, plan.recompute, merged)).loss
    specs = parameter_specs(network)
    trained = sum(prod(spec.shape) for spec in specs if spec.trained)
    scratch = workspace_elements(specs) + scratch_elements(network, part, images, merged)
    return {
        "weights": sum(prod(spec.shape) for spec in specs) * itemsize,
        "gradients": trained * itemsize,
        **arena_bytes(buffers, lay_out(buffers).size, loss),
        "workspace": scratch * itemsize,
        "halos": images * message_elements(network, part) * itemsize,
        "images": images * part.stored[0].cells * network.shape(0).channels * itemsize,
    }


def arena_bytes(buffers: Collection[Buffer], size: int, loss: int) -> dict[str, int]:
    """The arena's bytes by kind: "deltas" is what they need beyond freed activations.

    Parameters
    ----------
    size : of the arena.
    loss : the event between forward and backward.
    """
    activations = in_use(buffers, loss - 1)
    return {"activations": activations, "deltas": size - activations}


def scratch_elements(network: Network, part: TilePart, images: int, merged: Collection[int]) -> int:
    """Elements of the memory in which convolutions with merged pools work."""
    layers = network.layers
    bands = (
        band_elements(
            layers[pool - 1], layers[pool], images, part.computed(pool), part.computed(pool - 1)
        )
        for pool in merged
    )
    return max(bands, default=0)


def message_elements(network: Network, part: TilePart) -> int:
    """Elements of all messages of one image that a tile sends and receives in forward."""

    def elements(message: Message) -> int:
        return sum(
            piece.box.cells * network.shape(piece.tensor).channels for piece in message.pieces
        )

    return sum(
        elements(message)
        for transfers in part.transfers
        for message in (*transfers.sends, *transfers.receives)
    )
