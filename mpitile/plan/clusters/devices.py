"""Which ranks share a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm

from mpitile.plan.clusters.cluster import Cluster


@dataclass(frozen=True)
class Devices:
    """The ranks of each device, in ascending order; every rank is in exactly one of them."""

    ranks: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.ranks)

    @property
    def rank_count(self) -> int:
        """How many ranks there are on all devices."""
        return sum(map(len, self.ranks))

    def place(self, rank: int) -> tuple[int, int]:
        """A rank's device, and its position among the ranks of that device."""
        if rank not in self._places:
            raise ValueError(f"rank {rank} is on none of {len(self)} devices")
        return self._places[rank]

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        return {
            rank: (device, position)
            for device, ranks in enumerate(self.ranks)
            for position, rank in enumerate(ranks)
        }

    @cached_property
    def lanes(self) -> int:
        """Into how many equal lanes traffic is divided, so that ranks of all devices share evenly.

        Position p of k ranks has lanes ``p * lanes / k`` up to ``(p + 1) * lanes / k``.
        """
        return lcm(*(len(ranks) for ranks in self.ranks))


def group_ranks(hosts: Sequence[Sequence[int]], ranks_per_device: int | str = "auto") -> Devices:
    """Each host as a device, or as several of `ranks_per_device` ranks and perhaps a smaller one.

    Parameters
    ----------
    hosts : ranks that share memory.
    """
    groups: list[tuple[int, ...]] = []
    for host in hosts:
        ranks = sorted(host)
        size = ranks_per_device if isinstance(ranks_per_device, int) else len(ranks)
        groups += [tuple(ranks[i : i + size]) for i in range(0, len(ranks), size)]
    return Devices(tuple(sorted(groups)))


def first_devices(cluster: Cluster, ranks: int) -> Devices:
    """The devices of a cluster as far as its first `ranks` ranks go."""
    return team_devices(cluster_devices(cluster), range(ranks))


def team_devices(devices: Devices, ranks: Sequence[int]) -> Devices:
    """These ranks on the devices where they are, in numbers of their own: ``ranks[0]`` is 0."""
    parts: dict[int, list[int]] = {}
    for number, rank in enumerate(ranks):
        parts.setdefault(devices.place(rank)[0], []).append(number)
    return Devices(tuple(map(tuple, parts.values())))


def cluster_devices(cluster: Cluster) -> Devices:
    """The devices of a cluster, whose ranks fill one after the other."""
    every = (cluster.ranks_of(device) for device in range(len(cluster.devices)))
    return Devices(tuple(tuple(ranks) for ranks in every if len(ranks)))


def expected_devices(ranks: int, ranks_per_device: int | str = "auto") -> Devices:
    """The devices of a run that has not started: all ranks on one, unless told otherwise."""
    return group_ranks([range(ranks)], ranks_per_device)


def peer_devices(devices: Devices, tiles: int, tile: int) -> Devices:
    """The devices of one tile's ranks in all replicas, each known by its replica's number."""
    return team_devices(devices, range(tile, devices.rank_count, tiles))
