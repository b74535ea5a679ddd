"""What a rank fetches at the start of each fused group, and the memory for it."""

from __future__ import annotations

import numpy as np

from mpitile.comm.devices import DeviceGroup, TeamGroup, make_team_group
from mpitile.comm.exchange import Exchange
from mpitile.comm.gathering import WholeExchange
from mpitile.comm.recorder import Unrecorded
from mpitile.comm.topology import Topology
from mpitile.plan.clusters.devices import Devices
from mpitile.plan.gathers import part_sizes, staging_bytes
from mpitile.plan.partition import Partition, TilePart
from mpitile.plan.traffic import whole_parts
from mpitile.runtime.arrays import PassArrays


class Exchanges:
    """The exchanges of all groups. Making them is collective in the team.

    Halos and tiles of sliced tensors travel between any two ranks that need them; whole copies
    by way of memory that the ranks of a device share.

    Parameters
    ----------
    part, arrays : this rank's boxes, and the arrays that are read and filled; whole copies are
        the same memory on all ranks of `place.inside`.
    images : of each pass.
    place : by `gathering_place`.
    recorder : is told what the rank does.

    Attributes
    ----------
    of_group : the exchange at the start of each fused group.
    bytes : of all buffers.
    """

    def __init__(
        self,
        partition: Partition,
        part: TilePart,
        topology: Topology,
        arrays: PassArrays,
        images: int,
        dtype: np.dtype,
        place: TeamGroup | None,
        recorder: Unrecorded | None = None,
    ) -> None:
        parts = {
            number: found
            for number in range(len(part.groups))
            if (found := whole_parts(partition, number))
        }
        training = bool(arrays.deltas)
        self._memory = None
        if place:
            sizes = [part_sizes(found, images) for found in parts.values()]
            own = staging_bytes(place.devices, sizes, topology.tile, dtype.itemsize, training)
            self._memory = place.inside.share(own)

        def exchange(number: int) -> Exchange | WholeExchange:
            copies = arrays.copies.get(number, {})
            copy_deltas = arrays.copy_deltas.get(number, {})
            if place is None or number not in parts:
                return Exchange(
                    topology.team,
                    part.transfers[number],
                    arrays.values,
                    arrays.deltas,
                    copies,
                    copy_deltas,
                )
            deltas = (arrays.deltas, copy_deltas) if training else (None, None)
            memory = (self._memory, arrays.arena.common)
            return WholeExchange(
                place, *memory, parts[number], arrays.values, copies, *deltas, recorder=recorder
            )

        self.of_group = tuple(exchange(number) for number in range(len(part.groups)))
        self.bytes = sum(each.bytes for each in self.of_group) + (own if place else 0)

    def close(self) -> None:
        """Give back requests and shared memory. Collective in the team."""
        for each in self.of_group:
            each.close()
        if self._memory:
            self._memory.close()


def gathering_place(
    partition: Partition, topology: Topology, group: DeviceGroup | None
) -> TeamGroup | None:
    """Where this rank gathers whole copies; None where nothing is. Collective in the team.

    Parameters
    ----------
    group : which ranks share memory; None where none do.
    """
    if not any(partition.gathers(number) for number in range(len(partition.ranges))):
        return None
    team = topology.team
    if group is not None:
        return make_team_group(group, team)
    return TeamGroup(
        Devices(tuple((rank,) for rank in range(team.size))),
        team,
        team.split(team.rank),
        team.rank,
    )
