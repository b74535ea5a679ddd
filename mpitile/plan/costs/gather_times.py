"""Seconds of the exchanges of `mpitile.plan.gathers`: whole tensors from parts, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpitile.plan.clusters.devices import first_devices, team_devices
from mpitile.plan.costs.alike import alike_devices
from mpitile.plan.costs.cost import Cost, Message
from mpitile.plan.gathers import messages
from mpitile.plan.plan import Plan
from mpitile.plan.recording import FORWARD

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


class _Share(NamedTuple):
    """What a rank has to do with a gather.

    Attributes
    ----------
    device : one of its speed.
    own, crew : bytes of its own part, and of those of its team's ranks on the device.
    mates : how many these are, itself among them.
    devices : how many its team is on.
    """

    device: int
    own: int
    crew: int
    mates: int
    devices: int


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
        self._alike = alike_devices(cost, plan)
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

    def both_ways(self, parts: Parts) -> tuple[Gather, Gather]:
        """Owners to all, and partial gradients of the whole to their owners.

        Both with the slowest rank's seconds.
        """
        total, link = sum(parts), self._link(parts)
        crews = {
            (alike.device, tuple(parts[tile] for tile in crew.tiles), crew.devices)
            for alike in self._alike
            for crew in alike.crews
        }
        shares = {
            _Share(device, own, sum(crew), len(crew), devices)
            for device, crew, devices in crews
            for own in crew
        }
        found = []
        for times in (self._copies, self._sums):
            of_ranks = [times(share, total, len(parts)) for share in shares]
            before, after = map(max, zip(*of_ranks, strict=True))
            found.append(Gather(link, before, after))
        return found[0], found[1]

    def copying(self, direction: str, parts: Parts) -> list[tuple[float, float]]:
        """Seconds of each rank before it sends, and when it has received."""
        times, total = self._copies if direction == FORWARD else self._sums, sum(parts)
        found = []
        for rank in range(self._plan.ranks):
            device, tile = self._place(rank)
            team = self._teams[rank // len(parts)]
            crew = sum(parts[mate] for mate in team[device])
            share = _Share(device, parts[tile], crew, len(team[device]), len(team))
            found.append(times(share, total, len(parts)))
        return found

    def _copies(self, share: _Share, total: int, parts: int) -> tuple[float, float]:
        """Forward: packing its own part, also into the copy; then what the rank receives."""
        own = self._cost.pack(share.device, 2 * share.own, 2)
        # The device's ranks share in receiving.
        received, distant = (total - share.crew) / share.mates, parts - share.mates
        return own, self._cost.pack(share.device, received, -(-distant // share.mates))

    def _sums(self, share: _Share, total: int, parts: int) -> tuple[float, float]:
        """Backward: adding up inside its device; then what other devices send."""
        speed = self._cost.cluster.devices[share.device].speed
        rate = speed.sum * speed.share
        inside = (share.mates - 1) * total / share.mates / rate
        published = self._cost.pack(share.device, total, parts)
        return published + inside, share.devices * share.own / rate

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

    def _place(self, rank: int) -> tuple[int, int]:
        return self._cost.cluster.device_of(rank), rank % self._plan.grid.tiles

    def _link(self, parts: Parts) -> float:
        """As `mpitile.plan.costs.cost.Cost.exchange` says of the messages, without listing them."""
        total = sum(parts)
        out: list[int] = []
        into: list[int] = []
        for alike in self._alike:
            sent = received = 0
            for crew in alike.crews:
                own = sum(parts[tile] for tile in crew.tiles)
                sent += own * (crew.devices - 1)
                received += (total - own) * (crew.devices > 1)
            out += [sent] * alike.count
            into += [received] * alike.count
        return self._cost.between_devices(out, into)
