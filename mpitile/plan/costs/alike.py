"""Devices whose ranks have the same to do under a plan: what one of them takes, all do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from mpitile.plan.costs.cost import Cost
from mpitile.plan.plan import Plan


class Crew(NamedTuple):
    """The ranks of one team on a device.

    Attributes
    ----------
    tiles : theirs.
    devices : how many the team is on.
    """

    tiles: tuple[int, ...]
    devices: int


class Alike(NamedTuple):
    """Devices of one speed with the same crews.

    Attributes
    ----------
    device : the first one of this speed.
    count : how many there are.
    """

    device: int
    count: int
    crews: tuple[Crew, ...]

    def tiles(self) -> Iterator[int]:
        """Those of all its ranks."""
        for crew in self.crews:
            yield from crew.tiles


def alike_devices(cost: Cost, plan: Plan) -> list[Alike]:
    """The devices that a plan's ranks are on, those that are alike together."""
    tiles, place = plan.grid.tiles, cost.cluster.device_of
    crews: dict[int, list[Crew]] = {}
    for first in range(0, plan.ranks, tiles):
        team: dict[int, list[int]] = {}
        for tile in range(tiles):
            team.setdefault(place(first + tile), []).append(tile)
        for device, members in team.items():
            crews.setdefault(device, []).append(Crew(tuple(members), len(team)))
    found = Counter((cost.same_speed(device), tuple(own)) for device, own in crews.items())
    return [Alike(device, count, own) for (device, own), count in found.items()]
