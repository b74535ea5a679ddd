"""Communicators that tell a recorder what passes through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpitile.comm.communicator import Addressed, Channel, Communicator, Pending, SharedMemory
from mpitile.comm.recorder import Recorder
from mpitile.plan.recording import EVERYONE, Members, Parcels


class RecordedCommunicator:
    """See `mpitile.comm.communicator.Communicator`; passes everything on to another one.

    Parameters
    ----------
    inner : does the work.
    recorder : of this rank.
    members : the world's numbers of this communicator's ranks; of all if left out.
    """

    def __init__(
        self, inner: Communicator, recorder: Recorder, members: Members = EVERYONE
    ) -> None:
        self._inner = inner
        self._recorder = recorder
        self._members = members
        self.rank = inner.rank
        self.size = inner.size
        self.threaded = inner.threaded

    @property
    def sent(self) -> np.ndarray:
        return self._inner.sent

    def split(self, color: int) -> SplitCommunicator:
        part = self._inner.split(color)
        with self._recorder.outside():
            members = tuple(part.allgather(self._member(self.rank)))
        return SplitCommunicator(
            part, self._recorder, self._members if part.size == self.size else members
        )

    def hosts(self) -> list[list[int]]:
        with self._recorder.outside():
            return self._inner.hosts()

    def room(self) -> int:
        return self._inner.room()

    def share(self, size: int) -> OutsideMemory:
        with self._recorder.outside():
            return OutsideMemory(self._inner.share(size), self._recorder)

    def team(self, replicas: int, rows: int, columns: int) -> RecordedCommunicator:
        team = self._inner.team(replicas, rows, columns)
        first = self.rank - team.rank
        ranks = (self._member(rank) for rank in range(first, first + team.size))
        return RecordedCommunicator(
            team, self._recorder, self._members if team.size == self.size else tuple(ranks)
        )

    def channel(self, sends: Addressed, receives: Addressed) -> RecordedChannel:
        return RecordedChannel(
            self._inner.channel(sends, receives),
            self._recorder,
            self._parcels(sends),
            self._parcels(receives),
        )

    def _parcels(self, addressed: Addressed) -> Parcels:
        """Ranks of the world, each once, with the bytes that it sends or receives."""
        found: dict[int, int] = {}
        for peer, buffer in addressed:
            rank = self._member(peer)
            found[rank] = found.get(rank, 0) + buffer.nbytes
        return tuple(found.items())

    def _member(self, rank: int) -> int:
        return self._members[rank] if self._members else rank

    def wait_until(self, done: Callable[[], bool]) -> None:
        with self._recorder.outside():
            self._inner.wait_until(done)

    def begin_sum(self, array: np.ndarray) -> RecordedPending:
        with self._recorder.begin_sum(array.nbytes, self._members):
            pending = self._inner.begin_sum(array)
        return RecordedPending(pending, self._recorder)

    def sum(self, array: np.ndarray) -> None:
        self.begin_sum(array).end()

    def maximum(self, array: np.ndarray) -> None:
        with self._recorder.begin_sum(array.nbytes, self._members):
            pass
        with self._recorder.end_sum():
            self._inner.maximum(array)

    def share_slices(self, array: np.ndarray, ends: Sequence[int]) -> None:
        with self._recorder.outside():
            self._inner.share_slices(array, ends)

    def gather(self, value: Any) -> list[Any] | None:
        with self._recorder.outside():
            return self._inner.gather(value)

    def allgather(self, value: Any) -> list[Any]:
        with self._recorder.outside():
            return self._inner.allgather(value)

    def broadcast(self, value: Any) -> Any:
        with self._recorder.outside():
            return self._inner.broadcast(value)

    def swap(self, value: Any, target: int | None, source: int | None) -> Any:
        with self._recorder.outside():
            return self._inner.swap(value, target, source)

    def close(self) -> None:
        self._inner.close()

    def abort(self, code: int) -> None:
        self._inner.abort(code)


class SplitCommunicator(RecordedCommunicator):
    """One whose channels' messages are no events: they are parts of reductions."""

    def channel(self, sends: Addressed, receives: Addressed) -> OutsideChannel:
        return OutsideChannel(self._inner.channel(sends, receives), self._recorder)


class OutsideChannel:
    """Messages that are parts of a reduction."""

    def __init__(self, inner: Channel, recorder: Recorder) -> None:
        self._inner = inner
        self._recorder = recorder

    def begin(self) -> None:
        with self._recorder.outside():
            self._inner.begin()

    def end(self) -> None:
        with self._recorder.outside():
            self._inner.end()

    def test(self) -> bool:
        return self._inner.test()

    def close(self) -> None:
        self._inner.close()


class OutsideMemory:
    """Shared memory at whose fences ranks wait for each other."""

    def __init__(self, inner: SharedMemory, recorder: Recorder) -> None:
        self._inner = inner
        self._recorder = recorder
        self.segments = inner.segments

    def fence(self) -> None:
        with self._recorder.outside():
            self._inner.fence()

    def order(self) -> None:
        self._inner.order()

    def close(self) -> None:
        self.segments = ()
        self._inner.close()


class RecordedPending:
    """A sum that has begun."""

    def __init__(self, inner: Pending, recorder: Recorder) -> None:
        self._inner = inner
        self._recorder = recorder

    def end(self) -> None:
        with self._recorder.end_sum():
            self._inner.end()


class RecordedChannel:
    """Messages between ranks of the world; one without messages is not recorded."""

    def __init__(
        self,
        inner: Channel,
        recorder: Recorder,
        sends: Parcels,
        receives: Parcels,
    ) -> None:
        self._inner = inner
        self._recorder = recorder
        self._sends, self._receives = sends, receives

    def begin(self) -> None:
        if not (self._sends or self._receives):
            self._inner.begin()
            return
        with self._recorder.begin_exchange(self._sends, self._receives):
            self._inner.begin()

    def end(self) -> None:
        if not (self._sends or self._receives):
            self._inner.end()
            return
        with self._recorder.end_exchange():
            self._inner.end()

    def test(self) -> bool:
        return self._inner.test()

    def close(self) -> None:
        self._inner.close()
