"""Messages on the links of a cluster: who shares what, and when each arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mpitile.plan.clusters.cluster import Cluster

# Messages up to here travel as soon as they are sent, larger ones only while both ranks wait
# inside MPI, which has no thread of its own to move them. Open MPI is told so.
EAGER_BYTES = 1 << 20
# Streams on one link take turns by pieces, as TCP's do by packets.
_PIECE_BYTES = 1 << 13
# One that is alone goes by larger parts of what is left of it: fewer events to simulate.
_ALONE, _LARGEST_PIECE_BYTES = 8, 1 << 16

# Called back at a time.
Call = Callable[[float], None]
# Given a time and what to call then.
At = Callable[[float, Call], None]


# What sends to what; a message's bytes, and who is to be called when the last of them is there.
Stream = tuple[int, int]
_Piece = tuple[int, Call | None]


class _Line:
    """One direction of a link, or a medium: streams that have something on it take turns.

    Parameters
    ----------
    rate : bytes a second.
    """

    def __init__(self, at: At, rate: float) -> None:
        self._at, self._rate = at, rate
        # By stream what it has to send, those with anything in the order of their turns.
        self._streams: dict[Stream, deque[list]] = {}
        self._busy = False

    def add(
        self,
        now: float,
        stream: Stream,
        size: int,
        begun: Callable[[float, _Piece], None],
        last: Call | None,
    ) -> None:
        """Queue so many bytes behind what the stream already has.

        Parameters
        ----------
        begun : given the time and the piece whenever one sets out, the last one with `last`.
        """
        self._streams.setdefault(stream, deque()).append([size, begun, last])
        if not self._busy:
            self._busy = True
            self._serve(now)

    def _serve(self, now: float) -> None:
        """Put the next piece on the line, or leave it idle."""
        if not self._streams:
            self._busy = False
            return
        key = next(iter(self._streams))
        stream = self._streams.pop(key)
        message = stream[0]
        left, begun, last = message
        size = left
        if left > _PIECE_BYTES:
            alone = 0 if self._streams else min(left // _ALONE, _LARGEST_PIECE_BYTES)
            size = max(_PIECE_BYTES, alone)
        if size < left:
            message[0] = left - size
        else:
            stream.popleft()
        begun(now, (size, None if size < left else last))
        if stream:
            self._streams[key] = stream
        self._at(now + size / self._rate, self._serve)


class Wires:
    """The links of a cluster and what is on them.

    A device's link carries what leaves it and what arrives at it, not one at the other's
    expense. What one rank sends to another is a stream: message after message. Streams that
    leave a device take turns by pieces; pieces reach the target's link one latency later, where
    streams take turns again. Over a shared medium all devices' streams take turns. Inside a device
    each rank copies what it sends, one message after the other, and what it receives.

    Parameters
    ----------
    at : has something called at a time.
    """

    def __init__(self, cluster: Cluster, at: At) -> None:
        self._cluster = cluster
        self._at = at
        devices, rate = len(cluster.devices), cluster.between.bandwidth
        if cluster.medium == "shared":
            self._out, self._into = [_Line(at, rate)] * devices, None
        else:
            self._out, self._into = ([_Line(at, rate) for _ in range(devices)] for _ in range(2))
        self._copied_out = [0.0] * cluster.ranks
        self._copied_in = [0.0] * cluster.ranks

    def send(self, now: float, source: int, target: int, size: int, arrived: Call) -> None:
        """A message sets out; ``arrived(time)`` is called when the target has all of it."""
        here, there = self._cluster.device_of(source), self._cluster.device_of(target)
        if here == there:
            self._copy(now, source, target, size, arrived)
            return
        stream, link = (source, target), self._cluster.between

        def arriving(time: float, piece: _Piece) -> None:
            size, last = piece
            if last:
                self._at(time + size / link.bandwidth, last)

        def leaving(time: float, piece: _Piece) -> None:
            # The first byte is there one latency later, and goes on at once.
            size, last = piece
            if self._into is None:
                arriving(time + link.latency, piece)
            else:
                line = self._into[there]
                self._at(
                    time + link.latency, lambda then: line.add(then, stream, size, arriving, last)
                )

        self._out[here].add(now, stream, size, leaving, arrived)

    def _copy(self, now: float, source: int, target: int, size: int, arrived: Call) -> None:
        link = self._cluster.inside
        seconds = size / link.bandwidth
        self._copied_out[source] = max(now, self._copied_out[source]) + seconds
        self._copied_in[target] = max(now, self._copied_in[target]) + seconds
        done = max(self._copied_out[source], self._copied_in[target])
        self._at(done + link.latency, arrived)
