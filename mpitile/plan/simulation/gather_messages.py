"""Gathers in programs as messages between the ranks of a cluster's devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.devices import cluster_devices, team_devices
from mpitile.plan.gathers import messages
from mpitile.plan.recording import (
    ADJOINT,
    FORWARD,
    BeginExchange,
    BeginGather,
    EndExchange,
    Event,
    Parcels,
    Program,
)
from mpitile.plan.simulation.collectives import MEETING_BYTES

# Of a team's rank: what it sends and receives forward, and what it sends its device to meet.
_Ways = tuple[Parcels, Parcels, Parcels]


def with_messages(programs: Sequence[Program], cluster: Cluster) -> tuple[Program, ...]:
    """The programs with exchanges in place of gathers, as `mpitile.comm.gathering` does them.

    Forward, the ranks of a device meet behind their messages, when all parts are there; on the
    way back before, when all of them have put down their copies.
    """
    devices = cluster_devices(cluster)

    @cache
    def ways(first: int, parts: tuple[int, ...]) -> tuple[_Ways, ...]:
        team = team_devices(devices, range(first, first + len(parts)))
        sends: list[list[tuple[int, int]]] = [[] for _ in parts]
        receives: list[list[tuple[int, int]]] = [[] for _ in parts]
        for (owner, partner), size in messages(team, parts).items():
            sends[owner].append((first + partner, size))
            receives[partner].append((first + owner, size))
        mates: list[Parcels] = [() for _ in parts]
        for ranks in team.ranks:
            for rank in ranks:
                mates[rank] = tuple((first + r, MEETING_BYTES) for r in ranks if r != rank)
        return tuple(zip(map(tuple, sends), map(tuple, receives), mates, strict=True))

    def exchanges(rank: int, program: Program) -> Iterator[Event]:
        gathering: dict[tuple[int, str], Parcels] = {}
        for event in program:
            if isinstance(event, BeginGather):
                key = (event.group, event.direction)
                sends, receives, mates = ways(event.first, event.parts)[rank - event.first]
                gathering[key] = mates
                if event.direction == ADJOINT:
                    sends, receives = receives, sends
                    yield from _meeting(*key, mates)
                yield BeginExchange(*key, sends, receives)
            elif isinstance(event, EndExchange):
                yield event
                mates = gathering.pop((event.group, event.direction), None)
                if mates is not None and event.direction == FORWARD:
                    yield from _meeting(event.group, event.direction, mates)
            else:
                yield event

    return tuple(tuple(exchanges(rank, program)) for rank, program in enumerate(programs))


def _meeting(group: int, direction: str, mates: Parcels) -> tuple[Event, Event]:
    # Also where there are none: exchanges are told apart by how many there have been.
    return BeginExchange(group, direction, mates, mates), EndExchange(group, direction)
