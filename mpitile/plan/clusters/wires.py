"""Messages on the links of a cluster: who shares what, and when each arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mpitile.plan.clusters.cluster import Cluster

# Messages up to here travel as soon as they are sent, larger ones only while both ranks wait
# inside MPI, which has no thread of its own to move them. Open MPI is told so.
EAGER_BYTES = 1 << 20
# Streams on one link take turns by pieces, as TCP's do by packets.
_PIECE_BYTES = 1 << 16
# One that is alone goes by larger parts of what is left of it: fewer events to simulate.
_ALONE = 8

# Called back at a time.
Call = Callable[[float], None]
# Given a time and what to call then.
At = Callable[[float, Call], None]


class Wires:
    """The links of a cluster and what is on them.

    A device's link carries what leaves it and what arrives at it, not one at the other's
    expense. What one rank sends to another is a stream: message after message. Streams that
    leave a device take turns by pieces; pieces reach the target's link one latency later, whose
    queue is served in the order of arrival. Over a shared medium all
    devices' pieces take turns. Inside a device each rank copies what it sends, one
    message after the other, and what it receives.

    Parameters
    ----------
    at : has something called at a time.
    """

    def __init__(self, cluster: Cluster, at: At) -> None:
        self._cluster = cluster
        self._at = at
        self._shared = cluster.medium == "shared"
        count = 1 if self._shared else len(cluster.devices)
        # Of each link the streams that have something to send, in the order of their turns.
        self._queues: list[deque[deque[list]]] = [deque() for _ in range(count)]
        self._streams: dict[tuple[int, int], deque[list]] = {}
        self._busy = [False] * count
        self._into = [0.0] * len(cluster.devices)
        self._copied_out = [0.0] * cluster.ranks
        self._copied_in = [0.0] * cluster.ranks

    def send(self, now: float, source: int, target: int, size: int, arrived: Call) -> None:
        """A message sets out; ``arrived(time)`` is called when the target has all of it."""
        here, there = self._cluster.device_of(source), self._cluster.device_of(target)
        if here == there:
            self._copy(now, source, target, size, arrived)
            return
        queue = 0 if self._shared else here
        stream = self._streams.setdefault((source, target), deque())
        stream.append([size, there, arrived])
        if len(stream) == 1:
            self._queues[queue].append(stream)
        if not self._busy[queue]:
            self._busy[queue] = True
            self._serve(queue, now)

    def _copy(self, now: float, source: int, target: int, size: int, arrived: Call) -> None:
        link = self._cluster.inside
        seconds = size / link.bandwidth
        self._copied_out[source] = max(now, self._copied_out[source]) + seconds
        self._copied_in[target] = max(now, self._copied_in[target]) + seconds
        done = max(self._copied_out[source], self._copied_in[target])
        self._at(done + link.latency, arrived)

    def _serve(self, queue: int, now: float) -> None:
        """Put the next piece on the link, or leave it idle."""
        waiting = self._queues[queue]
        if not waiting:
            self._busy[queue] = False
            return
        stream = waiting.popleft()
        left, there, arrived = stream[0]
        size = min(left, _PIECE_BYTES if waiting else max(_PIECE_BYTES, left // _ALONE))
        link = self._cluster.between
        seconds = size / link.bandwidth
        reached = now + link.latency + seconds
        if not self._shared:
            # Pieces reach the target in the order in which they set out, one latency later.
            reached = max(now + link.latency, self._into[there]) + seconds
            self._into[there] = reached
        if left > size:
            stream[0][0] = left - size
        else:
            stream.popleft()
            self._at(reached, arrived)
        if stream:
            waiting.append(stream)
        self._at(now + seconds, lambda time: self._serve(queue, time))
