"""The simulator's engine: a queue of events, and ranks that wait for each other."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count

from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.wires import EAGER_BYTES, Call, Wires
from mpitile.plan.recording import (
    ADJOINT,
    COPIES,
    FORWARD,
    GRADIENTS,
    IMAGES,
    BeginBucket,
    BeginExchange,
    BeginSum,
    BeginValues,
    Compute,
    EndBuckets,
    EndExchange,
    EndValues,
    Event,
    Members,
    Program,
)
from mpitile.plan.simulation.clock_parts import Flow, Message, Part, Rank, Sum, match
from mpitile.plan.simulation.collectives import EARLY, SUMS, VALUES, Schedules
from mpitile.plan.simulation.intervals import (
    COMPUTE,
    FLIGHT,
    HALO,
    REDUCE,
    Interval,
    RankTotals,
    Timeline,
    Transit,
)
from mpitile.plan.sums.slices import IN_FLIGHT

# What exchanges in each direction are called.
_WAYS = {
    FORWARD: "halos of group {}",
    ADJOINT: "partial deltas of group {}",
    IMAGES: "images",
}
# What a trace calls the buckets of each purpose.
_BUCKETS = {SUMS: "bucket", EARLY: "early values", VALUES: "values"}


class Clockwork:
    """Runs programs that `mpitile.plan.simulation.program_check` has nothing against.

    Parameters
    ----------
    cluster : as many ranks as there are programs.
    schedule : the messages of a sum of so many bytes for some purpose over some ranks.
    adding : seconds for a rank to add so many bytes to its own.
    eager : bytes up to which messages travel as soon as they are sent.
    keep : whether intervals and transits are wanted.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        cluster: Cluster,
        schedule: Callable[[int, str, Members], Schedules],
        adding: Callable[[int, int], float],
        eager: float = EAGER_BYTES,
        keep: bool = True,
    ) -> None:
        self._queue: list[tuple[float, int, Call]] = []
        self._order = count()
        self._wires = Wires(cluster, self._at)
        self._schedule, self._adding, self._eager = schedule, adding, eager
        self._ranks = [Rank(program) for program in programs]
        self._flying: dict[tuple, Message] = {}
        self._sums: dict[Members, list[Sum]] = {}
        self._buckets: dict[Flow, list[Sum]] = {}
        self._keep = keep
        self._intervals: list[Interval] = []
        self._transits: list[Transit] = []

    def run(self) -> Timeline:
        """Until all ranks are at their end.

        Raises
        ------
        InputError : some wait for each other for ever.
        """
        for rank in range(len(self._ranks)):
            self._advance(rank, 0.0)
        while self._queue:
            now, _, call = heapq.heappop(self._queue)
            call(now)
        for number, rank in enumerate(self._ranks):
            if rank.place < len(rank.program):
                raise InputError(
                    f"rank {number} would wait for ever at {rank.program[rank.place]}: the "
                    "ranks' exchanges and sums stand in orders that do not go together"
                )
        seconds = max(rank.end for rank in self._ranks)
        totals = tuple(
            RankTotals(
                rank.compute,
                rank.halo,
                rank.reduce,
                rank.wait + seconds - rank.end,
                rank.sent,
                rank.received,
            )
            for rank in self._ranks
        )
        return Timeline(seconds, totals, self._intervals, self._transits)

    def _at(self, time: float, call: Call) -> None:
        heapq.heappush(self._queue, (time, next(self._order), call))

    def _advance(self, number: int, now: float) -> None:
        """Compute until something has to be begun or waited for."""
        rank = self._ranks[number]
        program = rank.program
        while rank.place < len(program):
            event = program[rank.place]
            if not isinstance(event, Compute):
                self._at(now, lambda time: self._communicate(number, time))
                return
            rank.place += 1
            self._count(number, event, now)
            now += event.seconds
        rank.end = now

    def _count(self, number: int, event: Compute, now: float) -> None:
        rank, kind = self._ranks[number], COMPUTE
        if event.operation in COPIES:
            kind = HALO
            rank.halo += event.seconds
        else:
            rank.compute += event.seconds
        if self._keep and event.seconds:
            name = event.operation if event.layer is None else f"{event.layer} {event.operation}"
            self._intervals.append(Interval(number, now, now + event.seconds, kind, name))

    def _communicate(self, number: int, now: float) -> None:
        rank = self._ranks[number]
        event = rank.program[rank.place]
        match event:
            case BeginExchange():
                self._begin_exchange(number, event, now)
            case BeginSum():
                self._begin_sum(rank, event)
            case BeginBucket(size=size, ranks=ranks, early=early):
                own = self._begin_bucket(number, size, (SUMS, ranks), now)
                if early:
                    self._begin_bucket(number, size, (EARLY, ranks), now, own)
            case BeginValues(size=size, ranks=ranks):
                self._begin_bucket(number, size, (VALUES, ranks), now)
            case _:
                self._wait(number, event, now)
                return
        rank.place += 1
        self._advance(number, now)

    # Exchanges

    def _begin_exchange(self, number: int, event: BeginExchange, now: float) -> None:
        rank, key = self._ranks[number], (event.group, event.direction)
        times = rank.times[key] = rank.times.get(key, 0) + 1
        part = Part(number, lambda time: self._leave(number, time))
        rank.exchanges[key] = part
        for peer, size in event.receives:
            place = (peer, number, *key, times)
            message = self._flying.pop(place, None)
            if message is None:
                message = self._flying[place] = Message(peer, number, size)
            self._receive(part, message, now)
        for peer, size in event.sends:
            place = (number, peer, *key, times)
            message = self._flying.pop(place, None)
            if message is None:
                message = self._flying[place] = Message(number, peer, size)
            self._send(part, message, now)

    def _send(self, part: Part, message: Message, now: float) -> None:
        message.sender = part
        if message.size <= self._eager:
            self._set_out(message, now)
        else:
            part.left += 1
            part.messages.append(message)

    def _receive(self, part: Part, message: Message, now: float) -> None:
        message.receiver = part
        if not message.arrived:
            part.left += 1
            if message.size > self._eager:
                part.messages.append(message)

    def _enter(self, part: Part, now: float) -> None:
        """The rank is inside MPI for this part: its large messages can travel."""
        part.entered = True
        for message in part.messages:
            message.ready += 1
            if message.ready == 2:
                self._set_out(message, now)

    def _set_out(self, message: Message, now: float) -> None:
        sender, receiver = self._ranks[message.source], self._ranks[message.target]
        sender.sent += message.size
        receiver.received += message.size
        for part in (message.sender, message.receiver):
            if part:
                part.latest = now

        def arrived(time: float) -> None:
            message.arrived = True
            if self._keep:
                self._transits.append(
                    Transit(message.source, message.target, now, time, message.size)
                )
            if message.receiver:
                self._less(message.receiver, time)
            if message.size > self._eager and message.sender:
                self._less(message.sender, time)

        self._wires.send(now, message.source, message.target, message.size, arrived)

    def _less(self, part: Part, now: float) -> None:
        part.left -= 1
        if not part.left and part.entered:
            part.done(now)

    # Waiting

    def _wait(self, number: int, event: Event, now: float) -> None:
        rank = self._ranks[number]
        rank.since = now
        if isinstance(event, EndBuckets | EndValues):
            rank.awaited = _awaited(rank, event)
            if all(number in own.ended for own in rank.awaited):
                self._leave(number, now)
            return
        if isinstance(event, EndExchange):
            part = rank.exchanges.pop((event.group, event.direction))
            rank.awaited = part
            self._start_sums(number, now)
            self._enter(part, now)
            if not part.left:
                self._leave(number, now)
            return
        rank.awaited = rank.sums.popleft()
        if number in rank.awaited.ended:
            self._leave(number, now)
        else:
            # Where it is complete at once, the rank leaves from there.
            self._start_sums(number, now)

    def _leave(self, number: int, now: float) -> None:
        """What the rank waited for is complete."""
        rank = self._ranks[number]
        awaited, rank.awaited = rank.awaited, None
        if isinstance(awaited, list):
            came = max((own.complete_from for own in awaited), default=0.0)
            late = min(max(came, rank.since), now) - rank.since
            rank.reduce += now - rank.since - late
            values = isinstance(rank.program[rank.place], EndValues)
            kind, name = REDUCE, "new values" if values else f"sum of {GRADIENTS}"
        elif isinstance(awaited, Sum):
            late = min(max(awaited.complete_from, rank.since), now) - rank.since
            rank.reduce += now - rank.since - late
            kind, name = REDUCE, awaited.name
        else:
            late = min(max(awaited.latest, rank.since), now) - rank.since
            rank.halo += now - rank.since - late
            event = rank.program[rank.place]
            kind, name = HALO, _WAYS[event.direction].format(event.group)
        rank.wait += late
        if self._keep and now > rank.since:
            self._intervals.append(Interval(number, rank.since, now, kind, name))
        rank.place += 1
        self._advance(number, now)

    # Sums

    def _begin_sum(self, rank: Rank, event: BeginSum) -> None:
        ranks = event.ranks
        sums, place = self._sums.setdefault(ranks, []), rank.begun.get(ranks, 0)
        if place == len(sums):
            schedule = self._schedule(event.size, event.purpose, ranks)
            sums.append(Sum(f"sum of {event.purpose}", (event.purpose, ranks), schedule))
        own = sums[place]
        rank.begun[ranks] = place + 1
        rank.sums.append(own)
        rank.unstarted.append(own)

    def _start_sums(self, number: int, now: float) -> None:
        """Sums make way only while the rank waits inside MPI."""
        rank = self._ranks[number]
        started, rank.unstarted = rank.unstarted, []
        for own in started:
            own.complete_from = now
            self._stage(number, own, 0, now)

    def _begin_bucket(
        self, number: int, size: int, flow: Flow, now: float, after: Sum | None = None
    ) -> Sum:
        """Buckets make way at once, or when another is there: a thread of their own moves them."""
        purpose, ranks = flow
        mine = self._ranks[number].buckets.setdefault(flow, [])
        buckets = self._buckets.setdefault(flow, [])
        if len(mine) == len(buckets):
            name = f"{_BUCKETS[purpose]} {len(mine)}{' of slices' if ranks else ''}"
            buckets.append(Sum(name, flow, self._schedule(size, purpose, ranks), after))
        own = buckets[len(mine)]
        mine.append(own)
        own.complete_from = now
        self._take_up(number, flow, now)
        return own

    def _take_up(self, number: int, flow: Flow, now: float) -> None:
        """Begin with the next of these buckets where few enough are under way."""
        buckets = self._ranks[number].buckets.get(flow, ())
        back = sum(number in own.ended for own in buckets)
        for own in buckets[: back + IN_FLIGHT]:
            if own.after and number not in own.after.ended:
                return
            if number not in own.begun:
                own.begun[number] = now
                self._stage(number, own, 0, now)

    def _stage(self, number: int, own: Sum, place: int, now: float) -> None:
        stages = own.schedule[number]
        if place == len(stages):
            own.ended.add(number)
            if self._keep and number in own.begun:
                self._intervals.append(Interval(number, own.begun[number], now, FLIGHT, own.name))
            if number in own.begun:
                purpose, ranks = own.flow
                self._take_up(number, own.flow, now)
                if purpose == SUMS:
                    self._take_up(number, (EARLY, ranks), now)
            awaited = self._ranks[number].awaited
            if awaited is own or (
                isinstance(awaited, list) and all(number in each.ended for each in awaited)
            ):
                self._leave(number, now)
            return
        stage = stages[place]

        def done(time: float) -> None:
            if stage.adds:
                time += self._adding(number, stage.adds)
                self._at(time, lambda later: self._stage(number, own, place + 1, later))
            else:
                self._stage(number, own, place + 1, time)

        part = Part(number, done)
        for peer, size in stage.receives:
            self._receive(part, match(own, peer, number, size, "receiver"), now)
        for peer, size in stage.sends:
            self._send(part, match(own, number, peer, size, "sender"), now)
        self._enter(part, now)
        if not part.left:
            done(now)


def _awaited(rank: Rank, event: EndBuckets | EndValues) -> list[Sum]:
    """What the rank has begun of it."""
    if isinstance(event, EndValues):
        return rank.buckets[VALUES, event.ranks][: event.count]
    flows = rank.buckets.items()
    return [own for (purpose, _), flow in flows if purpose in (SUMS, EARLY) for own in flow]
