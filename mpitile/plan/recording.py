"""What each rank does in one training step, as plain data: the input of the simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

# What the sum of the weights' gradients is called.
GRADIENTS = "gradients"
FORWARD, ADJOINT = "forward", "adjoint"
# Of what rank 0 hands out where it reads for all.
IMAGES = "images"
# Of what all ranks tell each other at the end of a step.
METRICS = "metrics"
DIRECTIONS = (FORWARD, ADJOINT, IMAGES)
# Copying into and out of message buffers counts as part of the exchange.
COPIES = ("pack", "unpack")
# Of gradients beside the backward pass, which without buckets is a part of their sum.
ADDING = "adding"
# Of weights by the optimiser.
UPDATE = "update"

# Ranks and bytes.
Parcels = tuple[tuple[int, int], ...]
# Those that take part in something; none for all ranks.
Members = tuple[int, ...]
EVERYONE: Members = ()


@dataclass(frozen=True, slots=True)
class Compute:
    """Seconds of this rank's own work.

    Attributes
    ----------
    operation : "forward", "backward_input", "backward_weights", "pack", "unpack",
        `ADDING`, `UPDATE` or any other word.
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
    direction : `FORWARD`, or `ADJOINT` for partial deltas on their way back; `IMAGES` before
        the first group.
    sends, receives : ranks of the world, each with the bytes of its message.
    """

    group: int
    direction: str
    sends: Parcels = ()
    receives: Parcels = ()


@dataclass(frozen=True, slots=True)
class BeginGather:
    """A team begins to put whole tensors together from what each of its ranks owns.

    Or, as the adjoint, to add up all ranks' whole copies of partial deltas, each part where it is
    owned. Who sends what to whom follows from the devices: see `mpitile.plan.gathers`.

    Attributes
    ----------
    group, direction : as of an exchange, and `EndExchange` ends it.
    first : of the team's ranks, which follow each other.
    parts : bytes that each of them owns.
    """

    group: int
    direction: str
    first: int
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EndExchange:
    """The rank waits until its part of an exchange that it began is complete."""

    group: int
    direction: str


@dataclass(frozen=True, slots=True)
class BeginSum:
    """A reduction begins; the n-th of each rank over the same ranks is the same.

    Attributes
    ----------
    size : bytes.
    purpose : such as "statistics" or "gradients".
    ranks : whose summands are added up, in ascending order; all where there are none.
    """

    size: int
    purpose: str
    ranks: Members = EVERYONE


@dataclass(frozen=True, slots=True)
class EndSum:
    """The rank waits for the first reduction that it has begun and not yet waited for."""


@dataclass(frozen=True, slots=True)
class BeginBucket:
    """This rank's gradients of a bucket of so many bytes are complete.

    Their sum goes on beside what the rank does then. The n-th of each rank over the same ranks is
    the same.

    Attributes
    ----------
    ranks : as of a reduction.
    early : whether its new values are handed out as soon as the sum is there; those of others
        begin to travel in the next step.
    """

    size: int
    ranks: Members = EVERYONE
    early: bool = False


@dataclass(frozen=True, slots=True)
class EndBuckets:
    """The rank waits for the sums of all buckets that it has begun, and for early values."""


@dataclass(frozen=True, slots=True)
class BeginValues:
    """New values of a bucket of so many bytes, of the step before, begin to be handed out.

    They travel beside what the rank does then. The n-th of each rank over the same ranks is
    the same.

    Attributes
    ----------
    ranks : as of a reduction.
    """

    size: int
    ranks: Members = EVERYONE


@dataclass(frozen=True, slots=True)
class EndValues:
    """The rank waits for the first so many buckets of new values over these ranks."""

    count: int
    ranks: Members = EVERYONE


Event = (
    Compute
    | BeginExchange
    | BeginGather
    | EndExchange
    | BeginSum
    | EndSum
    | BeginBucket
    | EndBuckets
    | BeginValues
    | EndValues
)
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


def scaled(programs: Sequence[Program], factor: float) -> tuple[Program, ...]:
    """The programs of a machine on which all computing takes `factor` times as long."""

    def stretch(event: Event) -> Event:
        if isinstance(event, Compute):
            return replace(event, seconds=factor * event.seconds)
        return event

    if factor == 1:
        return tuple(programs)
    return tuple(tuple(map(stretch, program)) for program in programs)


def behind(program: Program) -> Program:
    """The same work with sums of gradients behind backward, in place of buckets beside the passes.

    As ranks take it that share one device; see `mpitile.plan.sums.completion.goes_beside`.
    """
    sizes: Counter[Members] = Counter()
    found: list[Event] = []
    for event in program:
        match event:
            case BeginBucket(size=size, ranks=ranks):
                sizes[ranks] += size
            case EndBuckets():
                # In front of the update, if it is there.
                updates = bool(found) and _is(found[-1], UPDATE)
                place = len(found) - updates
                begun = [BeginSum(size, GRADIENTS, ranks) for ranks, size in sorted(sizes.items())]
                found[place:place] = [*begun, *[EndSum()] * len(begun)]
                sizes.clear()
            case BeginValues() | EndValues():
                # Handed out with the sums.
                pass
            case _ if not _is(event, ADDING):
                found.append(event)
    return tuple(found)


def _is(event: Event, operation: str) -> bool:
    return isinstance(event, Compute) and event.operation == operation


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
