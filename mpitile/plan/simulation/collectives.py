"""Sums over ranks as messages: which rank sends what to whom, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpitile.plan.clusters.devices import Devices, team_devices
from mpitile.plan.recording import Members, Parcels
from mpitile.plan.sums import reduction
from mpitile.plan.sums.reduction import broadcast_rounds, reduce_rounds
from mpitile.plan.sums.slices import covered, share

# From here on a sum is worth cutting into pieces that go round a ring.
_RING_BYTES = 1 << 16
# What ranks of a device tell each other to meet.
MEETING_BYTES = 8


@dataclass(frozen=True, slots=True)
class Stage:
    """What a rank does at once: it goes on when all of it is complete.

    Attributes
    ----------
    sends, receives : ranks with the bytes of their messages.
    adds : bytes that it adds to its own when it has received them.
    """

    sends: Parcels = ()
    receives: Parcels = ()
    adds: int = 0


# By rank.
Schedule = tuple[tuple[Stage, ...], ...]
# By rank of the world, of those that take part.
Schedules = Mapping[int, tuple[Stage, ...]]
# Given all ranks' devices and bytes.
Algorithm = Callable[[Devices, int], Schedule]


def schedule_among(way: Algorithm, devices: Devices, size: int, ranks: Members) -> Schedules:
    """The stages of those ranks that take part, all where none are named, by rank."""
    if not ranks:
        return dict(enumerate(way(devices, size)))

    def named(parcels: Parcels) -> Parcels:
        return tuple((ranks[number], size) for number, size in parcels)

    found = way(team_devices(devices, ranks), size)
    return {
        rank: tuple(Stage(named(each.sends), named(each.receives), each.adds) for each in stages)
        for rank, stages in zip(ranks, found, strict=True)
    }


def binomial(devices: Devices, size: int) -> Schedule:
    """Up a binomial tree to rank 0, whole vectors, and down again: what runs for small sums.

    Source: Open MPI's ``Iallreduce`` with ``MPI_IN_PLACE``, which takes this way for any
    size and number of ranks (``ompi/mca/coll/libnbc/nbc_iallreduce.c``,
    ``nbc_allreduce_init`` and ``allred_sched_diss``). Of its broadcast, a rank begins all
    messages at the same time.
    """
    every = range(devices.rank_count)
    up, down = _climb(every, size), _descend(every, size)
    stages = []
    for rank in every:
        own = [*up[rank], *down[rank]]
        if rank:
            # Its last message up and the wait for the answer are one stage.
            last, answer = len(up[rank]) - 1, len(up[rank])
            own[last : answer + 1] = [Stage(own[last].sends, own[answer].receives)]
        stages.append(tuple(own))
    return tuple(stages)


def direct(devices: Devices, size: int) -> Schedule:
    """Inside each device to its first rank, from that to all others at once, and back inside.

    Source: `mpitile.comm.device_sums`.
    """
    stages: dict[int, list[Stage]] = {rank: [] for rank in range(devices.rank_count)}
    leaders = [team[0] for team in devices.ranks]
    for first, *others in devices.ranks:
        received = _parcels(others, size)
        stages[first].append(Stage(receives=received, adds=len(others) * size))
        for other in others:
            answer = ((first, size),)
            stages[other].append(Stage(answer, answer))
        peers = _parcels([leader for leader in leaders if leader != first], size)
        stages[first].append(Stage(peers, peers, len(peers) * size))
        stages[first].append(Stage(sends=received))
    return tuple(_busy(own) for own in stages.values())


def small_sums(devices: Devices) -> Algorithm:
    """What runs for sums over all ranks within passes."""
    return direct if reduction.direct(len(devices)) else binomial


def ring(devices: Devices, size: int) -> Schedule:
    """Round a ring of all ranks: each sends ``2 (p - 1) / p`` of the vector in pieces.

    Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
    workstations", J. Parallel Distrib. Comput. 69 (2009).
    """
    return tuple(map(tuple, _around(range(devices.rank_count), size).values()))


def hierarchical(devices: Devices, size: int) -> Schedule:
    """Inside each device to its first rank, between those, and inside each device again.

    Between devices large vectors go round a ring, small ones up and down a binomial tree.
    """
    stages: dict[int, list[Stage]] = {rank: [] for rank in range(devices.rank_count)}
    leaders = [team[0] for team in devices.ranks]
    for team in devices.ranks:
        _extend(stages, _climb(team, size))
    if size >= _RING_BYTES:
        _extend(stages, _around(leaders, size))
    else:
        _extend(stages, _climb(leaders, size))
        _extend(stages, _descend(leaders, size))
    for team in devices.ranks:
        _extend(stages, _descend(team, size))
    return tuple(tuple(own) for own in stages.values())


def sliced(devices: Devices, size: int) -> Schedule:
    """Each rank adds up and completes slices of its own: what runs today for gradients.

    Source: `mpitile.plan.sums.slices`, in one bucket.
    """
    return _joined(sliced_sum(devices, size), sliced_values(devices, size))


def sliced_sum(devices: Devices, size: int) -> Schedule:
    """The first half of it: until each rank has the sums of its slices."""
    return tuple(_busy(_slices(devices, rank, size)[:2]) for rank in range(devices.rank_count))


def sliced_values(devices: Devices, size: int) -> Schedule:
    """The second half: until all have what each has made of its slices."""
    return tuple(_busy(_slices(devices, rank, size)[2:]) for rank in range(devices.rank_count))


def _busy(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    return tuple(stage for stage in stages if stage.sends or stage.receives)


def _joined(first: Schedule, second: Schedule) -> Schedule:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _slices(devices: Devices, rank: int, size: int) -> tuple[Stage, ...]:
    """Four stages, of which some may do nothing."""
    part = share(devices, rank, (0, size))
    team = devices.ranks[devices.place(rank)[0]]
    others = [other for other in team if other != rank]
    # The ranks of a device meet before they read each other's memory, and at the end.
    meeting = _parcels(others, MEETING_BYTES)
    sends = tuple((parcel.rank, covered([parcel.span])) for parcel in part.sends)
    receives = tuple((parcel.rank, covered([parcel.span])) for parcel in part.receives)
    added = sum(received for _, received in receives)
    return (
        Stage(meeting, meeting, len(others) * covered(part.added)),
        Stage(sends, receives, added),
        Stage(receives, sends),
        Stage(meeting, meeting),
    )


ALGORITHMS: Mapping[str, Algorithm] = {
    "sliced": sliced,
    "binomial": binomial,
    "ring": ring,
    "hierarchical": hierarchical,
}
# Purposes of buckets' messages: sums and early values beside backward, other values beside the
# next forward.
SUMS, EARLY, VALUES = "sums", "early values", "values"


def halves(algorithm: str) -> Mapping[str, Algorithm]:
    """What buckets do beside each pass; all of it beside backward where it has no halves."""
    if algorithm == "sliced":
        return {SUMS: sliced_sum, EARLY: sliced_values, VALUES: sliced_values}
    return {SUMS: ALGORITHMS[algorithm], EARLY: _nothing, VALUES: _nothing}


def _nothing(devices: Devices, size: int) -> Schedule:
    return ((),) * devices.rank_count


_Stages = dict[int, list[Stage]]


def _climb(members: Sequence[int], size: int) -> _Stages:
    """The whole vector from all members to the first, which adds up."""
    stages: _Stages = {rank: [] for rank in members}
    for pairs in reduce_rounds(len(members)):
        for source, target in pairs:
            stages[members[source]].append(Stage(sends=((members[target], size),)))
            received = Stage(receives=((members[source], size),), adds=size)
            stages[members[target]].append(received)
    return stages


def _descend(members: Sequence[int], size: int) -> _Stages:
    """The whole vector from the first member to all others."""
    sends: dict[int, list[int]] = {rank: [] for rank in members}
    stages: _Stages = {rank: [] for rank in members}
    for pairs in broadcast_rounds(len(members)):
        for source, target in pairs:
            sends[members[source]].append(members[target])
            stages[members[target]].append(Stage(receives=((members[source], size),)))
    for rank, targets in sends.items():
        if targets:
            stages[rank].append(Stage(sends=_parcels(targets, size)))
    return stages


def _around(members: Sequence[int], size: int) -> _Stages:
    """Pieces of the vector round the ring: summed in the first half, handed on in the second."""
    count = len(members)
    pieces = [size * (n + 1) // count - size * n // count for n in range(count)]
    stages: _Stages = {rank: [] for rank in members}
    for turn in range(2 * (count - 1)):
        adding = turn < count - 1
        for place, rank in enumerate(members):
            sent, received = pieces[(place - turn) % count], pieces[(place - turn - 1) % count]
            stage = Stage(
                ((members[(place + 1) % count], sent),),
                ((members[place - 1], received),),
                received if adding else 0,
            )
            stages[rank].append(stage)
    return stages


def _extend(stages: _Stages, more: _Stages) -> None:
    for rank, own in more.items():
        stages[rank] += own


def _parcels(targets: Iterable[int], size: int) -> Parcels:
    return tuple((target, size) for target in targets)
