"""What one rank does, and when, told by its program and its communicators."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from mpitile.plan.recording import (
    ADDING,
    ADJOINT,
    FORWARD,
    IMAGES,
    UPDATE,
    BeginBucket,
    BeginExchange,
    BeginGather,
    BeginSum,
    BeginValues,
    Compute,
    EndBuckets,
    EndExchange,
    EndSum,
    EndValues,
    Event,
    Members,
    Parcels,
    Program,
)
from mpitile.plan.simulation.intervals import COMPUTE, FLIGHT, HALO, REDUCE, Interval

# From when to when, in the clock's seconds.
Flights = Sequence[tuple[float, float]]
# Bytes, and the ranks that add them up.
Among = tuple[int, Members]

# Marks under which messages are those of a group's exchange, and work is copying.
HALOS, PARTIAL_DELTAS = "halos", "partial deltas"
_DIRECTIONS = {HALOS: FORWARD, PARTIAL_DELTAS: ADJOINT}


class Unrecorded:
    """Is told what a rank does, and keeps nothing."""

    def begin_step(self) -> None:
        """A training step begins."""

    def end_step(self) -> None:
        """It is complete."""

    def mark(self, operation: str, number: int | None = None) -> None:
        """From here on the rank does this: an operation of a layer, or of a group."""

    def reductions(self, sizes: Sequence[Among]) -> AbstractContextManager[None]:
        """Around what adds up so many bytes over some ranks each, by messages of its own."""
        return nullcontext()

    def buckets(self, complete: Sequence[BeginBucket]) -> None:
        """Gradients of these are complete: their sums go on beside what follows."""

    def end_buckets(self, adding: float, updating: float) -> None:
        """All of them have been waited for; their sums and updates took these seconds of CPU."""

    def values(self, sizes: Sequence[Among]) -> None:
        """New values of so many bytes are under way since the step before."""

    def end_values(self, counts: Sequence[Among]) -> None:
        """Of these ranks' values, so many of the first have been waited for."""

    def flights(self, what: str, times: Sequence[Flights]) -> None:
        """When those of each array set out, and when they were there."""

    def beside(self) -> AbstractContextManager[None]:
        """Around work on them, which is not that of the present mark."""
        return nullcontext()

    def begin_gather(self, place: int, parts: Sequence[int]) -> AbstractContextManager[None]:
        """Around messages that begin to put whole tensors together, or add up copies of them.

        Parameters
        ----------
        place : this rank's in its team.
        parts : bytes that each of its ranks owns.
        """
        return nullcontext()

    def end_gather(self) -> AbstractContextManager[None]:
        """Around the wait for them."""
        return nullcontext()


class Recorder(Unrecorded):
    """Keeps a rank's events, with the CPU seconds of this thread between them.

    Time inside a communicator is nobody's work: there a rank waits. Messages outside exchanges and
    sums, such as what ranks tell each other about unreadable images, are intervals but no events.

    Parameters
    ----------
    rank : of the world.
    first : how many steps are let pass before the first that is kept.
    most : how many steps are kept.

    Attributes
    ----------
    steps : the kept ones.
    intervals : what the rank did in them and when, in wall seconds since `synchronise`.
    """

    def __init__(self, rank: int, first: int, most: int) -> None:
        self._rank = rank
        # What another thread does is not in the rank's order of work.
        self._thread = threading.get_ident()
        self._pass, self._most = first, most
        self._active = False
        self._events: list[Event] = []
        self.steps: list[Program] = []
        self.intervals: list[Interval] = []
        self._operation: str = ""
        self._number: int | None = None
        self._copying = "pack"
        # Whether something was begun, and nothing done since but to go on to wait for it.
        self._bare = False
        # CPU seconds of the present mark before it was interrupted.
        self._carried = 0.0
        self.synchronise()

    def synchronise(self) -> None:
        """Wall seconds count from here."""
        self._zero = self._wall = time.perf_counter()
        self._cpu = time.thread_time()

    def begin_step(self) -> None:
        self._active = not self._pass and len(self.steps) < self._most
        self._pass = max(0, self._pass - 1)
        self._events.clear()
        self._operation, self._number, self._bare, self._carried = "start", None, False, 0.0
        self._wall = time.perf_counter()
        self._cpu = time.thread_time()

    def end_step(self) -> None:
        if self._active:
            self._close()
            self.steps.append(tuple(self._events))
        self._active = False

    def mark(self, operation: str, number: int | None = None) -> None:
        if self._active:
            self._close()
            self._operation, self._number = operation, number
            self._copying = "pack"

    @contextmanager
    def reductions(self, sizes: Sequence[Among]) -> Iterator[None]:
        # Adding is a part of them, which is told from their bytes.
        events = [BeginSum(size, self._name, ranks) for size, ranks in sizes]
        with self._inside(REDUCE, *events, *[EndSum()] * len(sizes)):
            yield

    def buckets(self, complete: Sequence[BeginBucket]) -> None:
        if self._active and complete:
            self._close()
            self._events += complete

    def end_buckets(self, adding: float, updating: float) -> None:
        if self._active:
            self._interval(REDUCE)
            self._cpu, self._carried = time.thread_time(), 0.0
            self._events += [Compute(adding, ADDING), Compute(updating, UPDATE), EndBuckets()]

    def values(self, sizes: Sequence[Among]) -> None:
        if self._active:
            self._events += [BeginValues(size, ranks) for size, ranks in sizes]

    def end_values(self, counts: Sequence[Among]) -> None:
        if self._active and counts:
            self._close()
            self._events += [EndValues(count, ranks) for count, ranks in counts]
            self._bare = True

    def flights(self, what: str, times: Sequence[Flights]) -> None:
        for array, own in zip(("", " of slices"), times, strict=False):
            for number, (start, end) in enumerate(own if self._active else ()):
                name, when = f"{what} {number}{array}", (start - self._zero, end - self._zero)
                self.intervals.append(Interval(self._rank, *when, FLIGHT, name))

    @contextmanager
    def beside(self) -> Iterator[None]:
        self._carried += time.thread_time() - self._cpu
        # Communicators have nothing to tell meanwhile.
        active, self._active = self._active, False
        yield
        self._active = active
        self._cpu = time.thread_time()

    @contextmanager
    def begin_exchange(self, sends: Parcels, receives: Parcels) -> Iterator[None]:
        """Around the call that begins it."""
        parcels = sends, receives
        with self._inside(HALO, *(BeginExchange(*own, *parcels) for own in self._exchange)):
            yield
        self._bare = True

    @contextmanager
    def end_exchange(self) -> Iterator[None]:
        """Around the call that waits for it."""
        with self._inside(HALO, *(EndExchange(*own) for own in self._exchange)):
            yield
        self._copying = "unpack"

    @contextmanager
    def begin_gather(self, place: int, parts: Sequence[int]) -> Iterator[None]:
        team = self._rank - place, tuple(parts)
        with self._inside(HALO, *(BeginGather(*own, *team) for own in self._exchange)):
            yield
        self._bare = True

    @contextmanager
    def end_gather(self) -> Iterator[None]:
        with self.end_exchange():
            yield

    @contextmanager
    def begin_sum(self, size: int, ranks: Members) -> Iterator[None]:
        """Around the call that begins a reduction of so many bytes over these ranks."""
        with self._inside(REDUCE, BeginSum(size, self._name, ranks)):
            yield
        self._bare = True

    @contextmanager
    def end_sum(self) -> Iterator[None]:
        """Around the call that waits for it."""
        with self._inside(REDUCE, EndSum()):
            yield

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Around communication that is no part of a step."""
        with self._inside(HALO if self._operation in _DIRECTIONS else REDUCE):
            yield

    @property
    def _exchange(self) -> list[tuple[int, str]]:
        """The group and direction of the present mark; none where it is of no exchange."""
        handed_out = IMAGES if self._operation == IMAGES else None
        direction = _DIRECTIONS.get(self._operation, handed_out)
        return [(self._number or 0, direction)] if direction else []

    @property
    def _name(self) -> str:
        return self._operation if self._number is None else f"{self._operation} {self._number}"

    @contextmanager
    def _inside(self, kind: str, *events: Event) -> Iterator[None]:
        """Around calls of the communicator, which are these events."""
        if not self._active or threading.get_ident() != self._thread:
            yield
            return
        self._close()
        self._events += events
        # What is called in there is a part of it.
        self._active = False
        yield
        self._active = True
        self._interval(kind)
        self._cpu = time.thread_time()

    def _close(self) -> None:
        """What was done since the last event was done under the present mark."""
        seconds = self._carried + time.thread_time() - self._cpu
        self._carried = 0.0
        copying = self._operation in _DIRECTIONS
        if not self._bare:
            operation = self._copying if copying else self._operation
            self._events.append(Compute(seconds, operation, self._number))
        self._bare = False
        self._interval(HALO if copying else COMPUTE)
        self._cpu = time.thread_time()

    def _interval(self, kind: str) -> None:
        now = time.perf_counter()
        start, end = self._wall - self._zero, now - self._zero
        self.intervals.append(Interval(self._rank, start, end, kind, self._name))
        self._wall = now
