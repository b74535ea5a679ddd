"""Seconds of the exchanges of `mpitile.plan.gathers`: whole tensors from parts, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mpitile.plan.clusters.devices import first_devices, team_devices
from mpitile.plan.costs.cost import Cost, Message
from mpitile.plan.gathers import messages
from mpitile.plan.plan import Plan
from mpitile.plan.recording import ADJOINT, FORWARD

# Bytes of a tensor that each tile's rank owns, all images of a pass.
Parts = Sequence[int]


class Gather(NamedTuple):
    """One direction of a gather.

    Attributes
    ----------
    link : seconds on the links until the last message has arrived.
    before, after : seconds of the slowest rank before it sends and when it has received.
    """

    link: float
    before: float
    after: float

    @property
    def seconds(self) -> float:
        return self.before + self.link + self.after


class GatherTimes:
    """Gathers among the ranks of each team.

    Parameters
    ----------
    plan : its grid and number of replicas.

    Attributes
    ----------
    devices : the ranks that share a device and a team.
    """

    def __init__(self, cost: Cost, plan: Plan) -> None:
        self._cost, self._plan = cost, plan
        tiles, place = plan.grid.tiles, cost.cluster.device_of
        # For each team, its tiles by device.
        self._teams: list[dict[int, list[int]]] = []
        for base in range(0, plan.ranks, tiles):
            team: dict[int, list[int]] = {}
            for tile in range(tiles):
                team.setdefault(place(base + tile), []).append(tile)
            self._teams.append(team)
        self.devices = [
            [number * tiles + tile for tile in members]
            for number, team in enumerate(self._teams)
            for members in team.values()
        ]

    def forward(self, parts: Parts) -> Gather:
        """Owners to all: the slowest rank's seconds."""
        return self._slowest(FORWARD, parts)

    def backward(self, parts: Parts) -> Gather:
        """Partial gradients of the whole to their owners."""
        return self._slowest(ADJOINT, parts)

    def of(self, direction: str) -> Callable[[int, Parts], tuple[float, float]]:
        """Seconds of a rank before it sends, and when it has received."""
        return self.copies if direction == FORWARD else self.sums

    def copies(self, rank: int, parts: Parts) -> tuple[float, float]:
        """Seconds of a rank: packing its own part, also into the copy; then what it receives."""
        device, tile = self._place(rank)
        mates = self._teams[rank // len(parts)][device]
        own = self._cost.pack(device, 2 * parts[tile], 2)
        received = sum(parts) - sum(parts[mate] for mate in mates)
        distant = len(parts) - len(mates)
        # The device's ranks share in receiving.
        return own, self._cost.pack(device, received / len(mates), -(-distant // len(mates)))

    def sums(self, rank: int, parts: Parts) -> tuple[float, float]:
        """Seconds of a rank: adding up inside its device; then what other devices send."""
        device, tile = self._place(rank)
        team = self._teams[rank // len(parts)]
        mates, others = len(team[device]), len(team) - 1
        speed = self._cost.cluster.devices[device].speed
        rate = speed.sum * speed.share
        inside = (mates - 1) * sum(parts) / mates / rate
        published = self._cost.pack(device, sum(parts), len(parts))
        return published + inside, (others + 1) * parts[tile] / rate

    def messages(self, parts: Parts) -> list[Message]:
        """Forward, between ranks of the world, those of all teams."""
        tiles, devices = self._plan.grid.tiles, first_devices(self._cost.cluster, self._plan.ranks)
        return [
            Message(base + owner, base + partner, size)
            for base in range(0, self._plan.ranks, tiles)
            for (owner, partner), size in messages(
                team_devices(devices, range(base, base + tiles)), parts
            ).items()
        ]

    def devices_of(self, rank: int) -> int:
        """How many devices a rank's team is on."""
        return len(self._teams[rank // self._plan.grid.tiles])

    def _slowest(self, direction: str, parts: Parts) -> Gather:
        times = [self.of(direction)(rank, parts) for rank in range(self._plan.ranks)]
        before, after = map(max, zip(*times, strict=True))
        return Gather(self._link(parts), before, after)

    def _place(self, rank: int) -> tuple[int, int]:
        return self._cost.cluster.device_of(rank), rank % self._plan.grid.tiles

    def _link(self, parts: Parts) -> float:
        """As `mpitile.plan.costs.cost.Cost.exchange` says of the messages, without listing them."""
        cluster = self._cost.cluster
        out, into = [0] * len(cluster.devices), [0] * len(cluster.devices)
        for team in self._teams:
            for device, members in team.items():
                own = sum(parts[tile] for tile in members)
                out[device] += own * (len(team) - 1)
                into[device] += (sum(parts) - own) * (len(team) > 1)
        busiest = sum(out) if cluster.medium == "shared" else max(*out, *into)
        return cluster.between.seconds(busiest) if busiest else 0.0
