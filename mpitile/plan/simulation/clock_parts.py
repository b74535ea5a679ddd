"""What the simulator's engine keeps of messages and sums that are under way."""

from __future__ import annotations

from collections import deque

from mpitile.plan.clusters.wires import Call
from mpitile.plan.recording import Members, Program
from mpitile.plan.simulation.collectives import Schedules


class Message:
    """Of an exchange or a sum; sides are what waits for it, None until they are there."""

    __slots__ = ("arrived", "ready", "receiver", "sender", "size", "source", "target")

    def __init__(self, source: int, target: int, size: int) -> None:
        self.source, self.target, self.size = source, target, size
        self.sender: Part | None = None
        self.receiver: Part | None = None
        # How many of both ranks wait inside MPI for it.
        self.ready = 0
        self.arrived = False


class Part:
    """A rank's part of an exchange, or of one stage of a sum: complete when nothing is left."""

    __slots__ = ("done", "entered", "latest", "left", "messages", "rank")

    def __init__(self, rank: int, done: Call) -> None:
        self.rank = rank
        self.left = 0
        self.messages: list[Message] = []
        self.entered = False
        # When the last of its messages set out.
        self.latest = 0.0
        self.done = done


# The purpose of sums that follow each other, and who takes part.
Flow = tuple[str, Members]


class Sum:
    """A reduction, or a part of one: its messages by stage, and who has come."""

    __slots__ = (
        "after",
        "begun",
        "complete_from",
        "ended",
        "flow",
        "messages",
        "name",
        "schedule",
    )

    def __init__(
        self, name: str, flow: Flow, schedule: Schedules, after: Sum | None = None
    ) -> None:
        self.name, self.flow, self.schedule = name, flow, schedule
        # No rank begins before it has its part of this one.
        self.after = after
        # By source and target, those of which only one side is there yet, in order.
        self.messages: dict[tuple[int, int], deque[Message]] = {}
        # When the last rank came.
        self.complete_from = 0.0
        self.ended: set[int] = set()
        # When each rank came.
        self.begun: dict[int, float] = {}


class Rank:
    """Where a rank is in its program."""

    __slots__ = (
        "awaited",
        "begun",
        "buckets",
        "compute",
        "end",
        "exchanges",
        "halo",
        "place",
        "program",
        "received",
        "reduce",
        "sent",
        "since",
        "sums",
        "times",
        "unstarted",
        "wait",
    )

    def __init__(self, program: Program) -> None:
        self.program = program
        self.place = 0
        self.exchanges: dict[tuple[int, str], Part] = {}
        self.times: dict[tuple[int, str], int] = {}
        self.sums: deque[Sum] = deque()
        self.unstarted: list[Sum] = []
        # How many sums by who takes part, and which buckets.
        self.begun: dict[Members, int] = {}
        self.buckets: dict[Flow, list[Sum]] = {}
        self.awaited: Sum | Part | list[Sum] | None = None
        self.since = self.end = 0.0
        self.compute = self.halo = self.reduce = self.wait = 0.0
        self.sent = self.received = 0


def match(own: Sum, source: int, target: int, size: int, side: str) -> Message:
    """The first message of a sum between two ranks that lacks this side."""
    pair = (source, target)
    waiting = own.messages.get(pair)
    if waiting and getattr(waiting[0], side) is None:
        message = waiting.popleft()
        if not waiting:
            # There are as many as pairs of devices: an empty queue for each would fill memory.
            del own.messages[pair]
        return message
    message = Message(source, target, size)
    if waiting is None:
        own.messages[pair] = deque((message,))
    else:
        waiting.append(message)
    return message
