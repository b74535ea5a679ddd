"""This rank's device among all devices, and memory that the ranks of a device share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpitile.comm.communicator import Communicator, SharedMemory
from mpitile.plan.clusters.devices import Devices, group_ranks, peer_devices, team_devices


@dataclass(frozen=True)
class DeviceGroup:
    """A rank's place among devices.

    Attributes
    ----------
    devices : the ranks of all devices.
    world : all ranks; a communicator that nobody else sends messages in.
    inside : the ranks of this device.
    number : of this device.
    """

    devices: Devices
    world: Communicator
    inside: Communicator
    number: int

    @property
    def first(self) -> bool:
        """Whether this is the device's first rank: what exists once is in its account."""
        return self.inside.rank == 0

    def share(self, size: int) -> SharedMemory:
        """Memory to which each rank of the device adds `size` bytes. Collective on the device."""
        return self.inside.share(size)

    def sent(self) -> tuple[int, int]:
        """Bytes that this rank has sent through channels, to other devices and inside its own."""
        inside = int(self.world.sent[list(self.devices.ranks[self.number])].sum())
        return int(self.world.sent.sum()) - inside, inside


def make_devices(
    world: Communicator,
    ranks_per_device: int | str = "auto",
    each: int = 0,
    once: int = 0,
) -> DeviceGroup:
    """Find out which ranks of `world`, the outermost communicator, share a device. Collective.

    Parameters
    ----------
    ranks_per_device : "auto": those that share memory; a number divides hosts into devices of
        so many ranks, as if each had memory of its own.
    each, once : bytes that each rank, and each device once, will want to share. On a host
        without room for it every rank is a device of its own.
    """
    hosts = world.hosts()
    rooms = world.allgather(world.room())
    found: list[tuple[int, ...]] = []
    for host in hosts:
        groups = group_ranks([host], ranks_per_device).ranks
        wanted = sum(len(group) * each + once for group in groups if len(group) > 1)
        enough = wanted <= min(rooms[rank] for rank in host)
        found += groups if enough else [(rank,) for rank in host]
    devices = Devices(tuple(sorted(found)))
    number, _ = devices.place(world.rank)
    return DeviceGroup(devices, world.split(0), world.split(number), number)


@dataclass(frozen=True)
class TeamGroup:
    """A rank's place among the devices of its team.

    Attributes
    ----------
    devices : the team's ranks of all devices, in the team's numbers.
    team : the ranks that share images.
    inside : those of this device; of this group's own, which gives them back.
    number : of this device among `devices`.
    """

    devices: Devices
    team: Communicator
    inside: Communicator
    number: int

    def close(self) -> None:
        """Give the group back, behind all that was made with it. Collective on the device."""
        self.inside.close()


def make_team_group(group: DeviceGroup, team: Communicator) -> TeamGroup:
    """The devices of a team, as far as they go: those of `group`. Collective in the team.

    Ranks that share nothing in `group`, such as for want of room, share nothing here. So
    whoever makes the group asks for enough room for what a team shares, too.
    """
    devices = team_devices(group.devices, team.allgather(group.world.rank))
    number, _ = devices.place(team.rank)
    return TeamGroup(devices, team, team.split(number), number)


def peer_group(group: DeviceGroup, peers: Communicator, tiles: int, tile: int) -> DeviceGroup:
    """This rank's place among the ranks of its tile in all replicas. Collective for these.

    Parameters
    ----------
    group : its place among all ranks, of which there are `tiles` in a replica.
    peers : those ranks, in the order of replicas.
    """
    devices = peer_devices(group.devices, tiles, tile)
    number, _ = devices.place(peers.rank)
    return DeviceGroup(devices, peers.split(0), peers.split(number), number)


def one_array(group: DeviceGroup, size: int, dtype: np.dtype) -> tuple[SharedMemory, np.ndarray]:
    """A flat array of zeros that exists once on each device. Collective."""
    memory = group.share(size * dtype.itemsize if group.first else 0)
    return memory, memory.segments[0].view(dtype)


def own_arrays(
    group: DeviceGroup, size: int, dtype: np.dtype
) -> tuple[SharedMemory, list[np.ndarray]]:
    """A flat array of zeros of every rank of the device, for all of them to see. Collective."""
    memory = group.share(size * dtype.itemsize)
    return memory, [segment.view(dtype) for segment in memory.segments]


class Counts:
    """How far each rank of a device is, for all of them to see. Making one is collective."""

    def __init__(self, group: DeviceGroup) -> None:
        self._memory, self._counts = own_arrays(group, 1, np.dtype(np.int64))
        self._own = self._counts[group.inside.rank]

    @property
    def own(self) -> int:
        return int(self._own[0])

    def tell(self, count: int) -> None:
        """This rank is so far, with all that it has written until now."""
        self._memory.order()
        self._own[0] = count

    def reached(self, count: int) -> bool:
        """Whether all are; what they had written by then can be read."""
        return self._seen(min(int(other[0]) for other in self._counts), count)

    def first_reached(self, count: int) -> bool:
        """The same of the device's first rank alone."""
        return self._seen(int(self._counts[0][0]), count)

    def _seen(self, told: int, count: int) -> bool:
        if told < count:
            return False
        self._memory.order()
        return True

    def close(self) -> None:
        self._memory.close()
