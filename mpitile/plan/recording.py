"""What each rank does in one training step, as plain data: the input of the simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from mpitile.errors import InputError

# What the sum of the weights' gradients is called.
GRADIENTS = "gradients"
FORWARD, ADJOINT = "forward", "adjoint"
DIRECTIONS = (FORWARD, ADJOINT)
# Copying into and out of message buffers counts as part of the exchange.
COPIES = ("pack", "unpack")

# Ranks and bytes.
Parcels = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Compute:
    """Seconds of this rank's own work.

    Attributes
    ----------
    operation : "forward", "backward_input", "backward_weights", "pack", "unpack",
        "update" or any other word.
    layer : the layer's number; of copies the group's; None where it is of no layer.
    """

    seconds: float
    operation: str
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class BeginExchange:
    """Messages of a group's exchange begin to travel.

    Attributes
    ----------
    group : its number.
    direction : `FORWARD`, or `ADJOINT` for partial deltas on their way back.
    sends, receives : ranks of the world, each with the bytes of its message.
    """

    group: int
    direction: str
    sends: Parcels = ()
    receives: Parcels = ()


@dataclass(frozen=True, slots=True)
class EndExchange:
    """The rank waits until its part of an exchange that it began is complete."""

    group: int
    direction: str


@dataclass(frozen=True, slots=True)
class BeginSum:
    """A reduction over all ranks begins; the n-th of each rank is the same.

    Attributes
    ----------
    size : bytes.
    purpose : such as "statistics" or "gradients".
    """

    size: int
    purpose: str


@dataclass(frozen=True, slots=True)
class EndSum:
    """The rank waits for the first reduction that it has begun and not yet waited for."""


@dataclass(frozen=True, slots=True)
class BeginBucket:
    """This rank's gradients of a bucket of so many bytes are complete.

    Their sum over all ranks and the way back of new values go on beside what the rank does
    then. The n-th of each rank is the same.
    """

    size: int


@dataclass(frozen=True, slots=True)
class EndBuckets:
    """The rank waits for the new values of all buckets that it has begun."""


Event = Compute | BeginExchange | EndExchange | BeginSum | EndSum | BeginBucket | EndBuckets
Program = tuple[Event, ...]


@dataclass(frozen=True)
class Recording:
    """The programs of all ranks for one step.

    Attributes
    ----------
    programs : by rank.
    about : what was recorded, for the reader: names to strings, numbers, lists.
    """

    programs: tuple[Program, ...]
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        return len(self.programs)


def check_programs(programs: Sequence[Program]) -> None:
    """Hold the programs of all ranks against each other.

    Raises
    ------
    InputError : a message is sent that nobody receives or the other way round, reductions
        differ between ranks, or something ends that has not begun.
    """
    sent: dict[tuple, int] = {}
    received: dict[tuple, int] = {}
    sums = [_check_alone(rank, program, sent, received) for rank, program in enumerate(programs)]
    for rank, own in enumerate(sums):
        if own != sums[0]:
            raise InputError(
                f"rank {rank} takes {len(own)} sums of {sum(own)} bytes in all, but rank 0 "
                f"takes {len(sums[0])} of {sum(sums[0])}: expected the same on all ranks"
            )
    for key in sent.keys() | received.keys():
        if sent.get(key) != received.get(key):
            source, target, group, direction, _ = key
            raise InputError(
                f"rank {source} sends {sent.get(key, 'no')} bytes to rank {target} in the "
                f"{direction} exchange of group {group}, which expects {received.get(key, 'none')}"
            )


def _check_alone(rank: int, program: Program, sent: dict, received: dict) -> list[int]:
    """Sizes of the rank's reductions; its messages are added to the others'."""
    sums: list[int] = []
    buckets: list[int] = []
    ended = flying = 0
    begun: dict[tuple[int, str], int] = {}
    current: set[tuple[int, str]] = set()
    for event in program:
        match event:
            case BeginSum(size=size):
                sums.append(size)
            case EndSum():
                ended += 1
                if ended > len(sums):
                    raise InputError(f"rank {rank} waits for a sum that it has not begun")
            case BeginBucket(size=size):
                buckets.append(size)
                flying += 1
            case EndBuckets():
                flying = 0
            case BeginExchange(group=group, direction=direction):
                key = (group, direction)
                if key in current:
                    raise InputError(
                        f"rank {rank} begins the {direction} exchange of group {group} twice"
                    )
                current.add(key)
                times = begun[key] = begun.get(key, 0) + 1
                for peer, size in event.sends:
                    sent[rank, peer, group, direction, times] = size
                for peer, size in event.receives:
                    received[peer, rank, group, direction, times] = size
            case EndExchange(group=group, direction=direction):
                if (group, direction) not in current:
                    raise InputError(
                        f"rank {rank} ends the {direction} exchange of group {group}, which it "
                        "has not begun"
                    )
                current.remove((group, direction))
    if current or flying or ended < len(sums):
        raise InputError(f"rank {rank} begins an exchange or a sum that it never ends")
    return sums + buckets


def scaled(programs: Sequence[Program], factor: float) -> tuple[Program, ...]:
    """The programs of a machine on which all computing takes `factor` times as long."""

    def stretch(event: Event) -> Event:
        if isinstance(event, Compute):
            return replace(event, seconds=factor * event.seconds)
        return event

    if factor == 1:
        return tuple(programs)
    return tuple(tuple(map(stretch, program)) for program in programs)


def typical_program(steps: Sequence[Program]) -> Program:
    """One rank's program from several steps: of each computation the median seconds.

    Steps that do something else than the first, such as those of other input sizes,
    do not count.
    """
    wanted = tuple(map(_without_seconds, steps[0]))
    steps = [step for step in steps if tuple(map(_without_seconds, step)) == wanted]

    def combine(events: tuple[Event, ...]) -> Event:
        first = events[0]
        if isinstance(first, Compute):
            return replace(first, seconds=median(event.seconds for event in events))
        return first

    return tuple(combine(events) for events in zip(*steps, strict=True))


def _without_seconds(event: Event) -> Event:
    return replace(event, seconds=0.0) if isinstance(event, Compute) else event


def total_seconds(program: Program) -> float:
    """All computing of a program, copies included."""
    return sum(event.seconds for event in program if isinstance(event, Compute))
