"""Whether the programs of all ranks go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpitile.errors import InputError
from mpitile.plan.recording import (
    BeginBucket,
    BeginExchange,
    BeginGather,
    BeginSum,
    BeginValues,
    EndBuckets,
    EndExchange,
    EndSum,
    EndValues,
    Members,
    Program,
)

# Source, target, group, direction, and the how manieth of these.
_Key = tuple[int, int, int, str, int]
# First rank and size of a team.
_Team = tuple[int, int]


def check_programs(programs: Sequence[Program]) -> None:
    """Hold the programs of all ranks against each other.

    Raises
    ------
    InputError : a message is sent that nobody receives or the other way round, reductions or
        gathers differ between ranks, or something ends that has not begun.
    """
    sent: dict[_Key, int] = {}
    received: dict[_Key, int] = {}
    every = [_Joint(rank, len(programs)) for rank in range(len(programs))]
    for own, program in zip(every, programs, strict=True):
        own.read(program, sent, received)
    _check_sums(every)
    _check_gathers(every)
    for key in sent.keys() | received.keys():
        if sent.get(key) != received.get(key):
            source, target, group, direction, _ = key
            raise InputError(
                f"rank {source} sends {sent.get(key, 'no')} bytes to rank {target} in the "
                f"{direction} exchange of group {group}, which expects {received.get(key, 'none')}"
            )


@dataclass
class _Joint:
    """What a rank does together with others.

    Attributes
    ----------
    sums, buckets, values : bytes of each, in order, by who takes part.
    awaited : how many of the values.
    gathers : by team.
    """

    rank: int
    ranks: int
    sums: dict[Members, list[int]] = field(default_factory=dict)
    buckets: dict[Members, list[int]] = field(default_factory=dict)
    early: dict[Members, list[int]] = field(default_factory=dict)
    values: dict[Members, list[int]] = field(default_factory=dict)
    awaited: dict[Members, int] = field(default_factory=dict)
    gathers: dict[_Team, list[BeginGather]] = field(default_factory=dict)

    def read(self, program: Program, sent: dict[_Key, int], received: dict[_Key, int]) -> None:
        """Take in a program; its messages are added to the others'."""
        begun = ended = flying = 0
        times: dict[tuple[int, str], int] = {}
        current: set[tuple[int, str]] = set()
        for event in program:
            match event:
                case BeginSum(size=size, ranks=ranks):
                    self._members(ranks)
                    self.sums.setdefault(ranks, []).append(size)
                    begun += 1
                case EndSum():
                    ended += 1
                    if ended > begun:
                        raise InputError(f"rank {self.rank} waits for a sum that it has not begun")
                case BeginBucket(size=size, ranks=ranks, early=early):
                    self._members(ranks)
                    self.buckets.setdefault(ranks, []).append(size)
                    if early:
                        self.early.setdefault(ranks, []).append(size)
                    flying += 1
                case EndBuckets():
                    flying = 0
                case BeginValues(size=size, ranks=ranks):
                    self._members(ranks)
                    self.values.setdefault(ranks, []).append(size)
                case EndValues(count=count, ranks=ranks):
                    self._await(count, ranks)
                case (
                    BeginExchange(group=group, direction=direction)
                    | BeginGather(group=group, direction=direction)
                ):
                    key = (group, direction)
                    if key in current:
                        raise InputError(
                            f"rank {self.rank} begins the {direction} exchange of group {group} "
                            "twice"
                        )
                    current.add(key)
                    if isinstance(event, BeginGather):
                        self._gather(event)
                        continue
                    number = times[key] = times.get(key, 0) + 1
                    for peer, size in event.sends:
                        sent[self.rank, peer, group, direction, number] = size
                    for peer, size in event.receives:
                        received[peer, self.rank, group, direction, number] = size
                case EndExchange(group=group, direction=direction):
                    if (group, direction) not in current:
                        raise InputError(
                            f"rank {self.rank} ends the {direction} exchange of group {group}, "
                            "which it has not begun"
                        )
                    current.remove((group, direction))
        if current or flying or ended < begun:
            raise InputError(f"rank {self.rank} begins an exchange or a sum that it never ends")
        for ranks, own in self.values.items():
            if self.awaited.get(ranks) != len(own):
                raise InputError(
                    f"rank {self.rank} waits for {self.awaited.get(ranks, 0)} of the "
                    f"{len(own)} buckets of new values that it begins: expected all"
                )

    def _await(self, count: int, ranks: Members) -> None:
        begun = len(self.values.get(ranks, ()))
        if not self.awaited.get(ranks, 0) < count <= begun:
            raise InputError(
                f"rank {self.rank} waits for {count} buckets of new values, of {begun} that it "
                "has begun: expected no more than these, and more than the time before"
            )
        self.awaited[ranks] = count

    @property
    def members(self) -> set[Members]:
        """Who takes part in any of its sums."""
        return {*self.sums, *self.buckets, *self.values}

    def _members(self, ranks: Members) -> None:
        if ranks and (self.rank not in ranks or ranks[-1] >= self.ranks):
            raise InputError(
                f"rank {self.rank} takes part in a sum of ranks {', '.join(map(str, ranks))}: "
                f"expected ranks below {self.ranks} and itself among them"
            )

    def _gather(self, event: BeginGather) -> None:
        stop = event.first + len(event.parts)
        if not event.first <= self.rank < stop <= self.ranks:
            raise InputError(
                f"rank {self.rank} takes part in a gather of ranks {event.first} to {stop - 1}: "
                f"expected ranks below {self.ranks} and itself among them"
            )
        self.gathers.setdefault((event.first, len(event.parts)), []).append(event)


def _check_sums(every: Sequence[_Joint]) -> None:
    """All who take part in a sum must take the same ones."""
    for members in {members for own in every for members in own.members}:
        first, *others = members or range(len(every))
        wanted = _sizes(every[first], members)
        for rank in others:
            own = _sizes(every[rank], members)
            if own != wanted:
                raise InputError(
                    f"rank {rank} takes {_described(own, members)}, but rank {first} takes "
                    f"{_described(wanted, members)}: expected the same on all ranks"
                )


def _sizes(own: _Joint, members: Members) -> tuple[list[int], ...]:
    return tuple(kind.get(members, []) for kind in (own.sums, own.buckets, own.early, own.values))


def _described(own: tuple[list[int], ...], members: Members) -> str:
    sizes = [size for kind in own for size in kind]
    among = f" of ranks {', '.join(map(str, members))}" if members else ""
    return f"{len(sizes)} sums{among} of {sum(sizes)} bytes in all"


def _check_gathers(every: Sequence[_Joint]) -> None:
    """All ranks of a team must gather the same."""
    for first, count in {team for own in every for team in own.gathers}:
        wanted = every[first].gathers.get((first, count), [])
        for rank in range(first, first + count):
            own = every[rank].gathers.get((first, count), [])
            if own != wanted:
                raise InputError(
                    f"rank {rank} takes part in {len(own)} gathers of ranks {first} to "
                    f"{first + count - 1}, rank {first} in {len(wanted)}, or in others: expected "
                    "the same on all of them"
                )
