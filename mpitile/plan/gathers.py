"""Who sends which part of a whole copy to whom, and what ranks share to put it together.

Each rank of a team owns a part of a tensor, and each wants all of them. An owner sends its part
to one rank of every other device, its partner there, and the ranks of a device put their own
parts and what they receive into one copy that they share. So each device receives each part
once: with D devices ``(D - 1) / D`` of the tensor, which is as little as can be. The way back is
the same reversed: partial gradients of an owner's part are added up inside each device, by the
owner or its partner, and the sums travel to the owner.

Sizes are elements of each rank's part, in the order of ranks: of all images, and of all tensors
of an exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpitile.geometry.box import Box
from mpitile.plan.clusters.devices import Devices
from mpitile.plan.filters import Channels

Sizes = Sequence[int]


@dataclass(frozen=True, slots=True)
class Part:
    """What a rank owns of a tensor: cells, of which some channels."""

    box: Box
    channels: Channels

    @property
    def elements(self) -> int:
        """Of one image."""
        start, stop = self.channels
        return self.box.cells * (stop - start)


def part_sizes(parts: Mapping[int, Sequence[Part]], images: int) -> tuple[int, ...]:
    """The sizes of an exchange.

    Parameters
    ----------
    parts : by tensor, then by rank.
    """
    return tuple(
        images * sum(part.elements for part in of_rank)
        for of_rank in zip(*parts.values(), strict=True)
    )


def partners(devices: Devices, sizes: Sizes) -> tuple[dict[int, int], ...]:
    """For each device the rank that receives each part from elsewhere, by its owner.

    Parts are spread evenly over a device's ranks; empty ones have no partner.
    """
    found = []
    for ranks in devices.ranks:
        # Device by device, so that equal devices pair ranks of the same position.
        distant = [
            owner
            for others in devices.ranks
            if others is not ranks
            for owner in others
            if sizes[owner]
        ]
        found.append({owner: ranks[i % len(ranks)] for i, owner in enumerate(distant)})
    return tuple(found)


def messages(devices: Devices, sizes: Sizes) -> dict[tuple[int, int], int]:
    """Elements that travel from an owner (first) to its partners; on the way back reversed."""
    return {
        (owner, partner): sizes[owner]
        for of_device in partners(devices, sizes)
        for owner, partner in of_device.items()
    }


def held(devices: Devices, sizes: Sizes, rank: int) -> tuple[int, ...]:
    """The owners whose parts a rank provides for its device: itself, then whose partner it is.

    On the way back it is these parts that it adds up inside its device.
    """
    device, _ = devices.place(rank)
    received = partners(devices, sizes)[device]
    return (rank, *(owner for owner, partner in received.items() if partner == rank))


def segment_elements(devices: Devices, sizes: Sizes, rank: int, adjoint: bool) -> int:
    """What a rank adds to its device's shared memory for an exchange.

    Forward these are the parts that it provides. On the way back it is a whole copy, and
    what other devices have added up of its own part.
    """
    if adjoint:
        return sum(sizes) + (len(devices) - 1) * sizes[rank]
    return sum(sizes[owner] for owner in held(devices, sizes, rank))


def staging_bytes(
    devices: Devices, exchanges: Iterable[Sizes], rank: int, itemsize: int, adjoint: bool
) -> int:
    """What a rank adds to memory that exchanges use one after the other.

    Parameters
    ----------
    exchanges : the sizes of each.
    adjoint : whether there is a way back.
    """
    elements = (segment_elements(devices, sizes, rank, adjoint) for sizes in exchanges)
    return itemsize * max(elements, default=0)
