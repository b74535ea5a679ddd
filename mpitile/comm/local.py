"""Communicators between threads of one process: the same ranks without MPI.

`mpitile check` uses them to run a grid tile by tile on one rank, and the tests to
try many grids quickly. Sums are taken in rank order. As under MPI, what one rank
receives is its own copy.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np

from mpitile.comm.communicator import Addressed
from mpitile.comm.tally import Tally
from mpitile.kernels.aligned import aligned_zeros

T = TypeVar("T")

# Seconds between two looks at what others do.
_PAUSE = 1e-4


class Abandoned(RuntimeError):
    """Another rank failed while this one was waiting for it."""


class _Hub:
    """What the ranks of one group share.

    Parameters
    ----------
    size : how many they are.
    baton : held by the one rank that may compute; None where all may.
    """

    def __init__(self, size: int, baton: threading.Lock | None = None) -> None:
        self.baton = baton
        self.slots: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)
        self._lock = threading.Lock()
        self._queues: dict[tuple[int, int, int], queue.SimpleQueue[np.ndarray]] = {}
        self._children: dict[tuple[int, int], _Hub] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait: another rank may compute meanwhile."""
        if self.baton is None:
            yield
            return
        self.baton.release()
        try:
            yield
        finally:
            self.baton.acquire()

    def queue(self, channel: int, source: int, target: int) -> queue.SimpleQueue[np.ndarray]:
        with self._lock:
            return self._queues.setdefault((channel, source, target), queue.SimpleQueue())

    def child(self, number: int, color: int, size: int) -> _Hub:
        with self._lock:
            key = (number, color)
            if key not in self._children:
                self._children[key] = _Hub(size, self.baton)
                if self.barrier.broken:
                    # A rank failed before this one came to ask for its team.
                    self._children[key].abandon()
            return self._children[key]

    def abandon(self) -> None:
        self.barrier.abort()
        with self._lock:
            children = list(self._children.values())
        for child in children:
            child.abandon()


class LocalCommunicator:
    """See `mpitile.comm.communicator.Communicator`.

    Parameters
    ----------
    members : the ranks in numbers of the outermost communicator.
    sent : of that communicator's rank; made where it is None.
    """

    def __init__(
        self, hub: _Hub, rank: int, members: Sequence[int], sent: np.ndarray | None = None
    ) -> None:
        self._hub = hub
        self.rank = rank
        self.size = len(members)
        self.sent = np.zeros(self.size, np.int64) if sent is None else sent
        self._members = members
        self._channels = 0
        self._teams = 0
        # Threads stand for ranks here; a second one of a rank would be nobody's turn.
        self.threaded = False

    def _collect(self, value: Any, use: Callable[[Sequence[Any]], T]) -> T:
        """Apply `use` to all ranks' values while none of them can change."""
        self._hub.slots[self.rank] = value
        self._meet()
        result = use(self._hub.slots)
        self._meet()
        return result

    def _meet(self) -> None:
        try:
            with self._hub.waiting():
                self._hub.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise Abandoned("another rank failed") from error

    def team(self, replicas: int, rows: int, columns: int) -> LocalCommunicator:
        tiles = rows * columns
        color, rank = divmod(self.rank, tiles)
        return self._part(color, rank, self._members[color * tiles : (color + 1) * tiles])

    def split(self, color: int) -> LocalCommunicator:
        colors = self.allgather(color)
        ranks = [rank for rank, other in enumerate(colors) if other == color]
        return self._part(color, ranks.index(self.rank), [self._members[rank] for rank in ranks])

    def _part(self, color: int, rank: int, members: Sequence[int]) -> LocalCommunicator:
        self._teams += 1
        hub = self._hub.child(self._teams, color, len(members))
        return LocalCommunicator(hub, rank, members, self.sent)

    def hosts(self) -> list[list[int]]:
        return [list(range(self.size))]

    def room(self) -> int:
        return sys.maxsize

    def share(self, size: int) -> LocalMemory:
        return LocalMemory(self, self._collect(aligned_zeros((size,), np.uint8), list))

    def channel(self, sends: Addressed, receives: Addressed) -> LocalChannel:
        self._channels += 1
        number = self._channels
        return LocalChannel(
            self._hub,
            [(self._hub.queue(number, self.rank, peer), buffer) for peer, buffer in sends],
            [(self._hub.queue(number, peer, self.rank), buffer) for peer, buffer in receives],
            Tally(self.sent, [(self._members[peer], buffer) for peer, buffer in sends]),
        )

    def wait_until(self, done: Callable[[], bool]) -> None:
        while not done():
            with self._hub.waiting():
                time.sleep(_PAUSE)
            if self._hub.barrier.broken:
                raise Abandoned("another rank failed")

    def begin_sum(self, array: np.ndarray) -> LocalPending:
        return LocalPending(self, array)

    def sum(self, array: np.ndarray) -> None:
        array[...] = self._collect(array, lambda arrays: sum(arrays[1:], arrays[0].copy()))

    def maximum(self, array: np.ndarray) -> None:
        array[...] = self._collect(array, lambda arrays: np.max(arrays, axis=0))

    def share_slices(self, array: np.ndarray, ends: Sequence[int]) -> None:
        starts = [0, *ends[:-1]]

        def copy(arrays: Sequence[np.ndarray]) -> None:
            for other, start, end in zip(arrays, starts, ends, strict=True):
                if other is not array:
                    array[start:end] = other[start:end]

        self._collect(array, copy)

    def gather(self, value: Any) -> list[Any] | None:
        values = self._collect(value, deepcopy if self.rank == 0 else len)
        return values if self.rank == 0 else None

    def allgather(self, value: Any) -> list[Any]:
        return self._collect(value, deepcopy)

    def broadcast(self, value: Any) -> Any:
        return self._collect(value, lambda values: deepcopy(values[0]))

    def swap(self, value: Any, target: int | None, source: int | None) -> Any:
        def take(values: Sequence[Any]) -> Any:
            return None if source is None else deepcopy(values[source])

        return self._collect(value, take)

    def close(self) -> None:
        """Nothing is kept beyond the outermost group."""

    def abort(self, code: int) -> None:
        self._hub.abandon()


class LocalPending:
    """A sum that is taken when it is waited for."""

    def __init__(self, comm: LocalCommunicator, array: np.ndarray) -> None:
        self._comm = comm
        self._array = array

    def end(self) -> None:
        self._comm.sum(self._array)


class LocalMemory:
    """Every rank's own array, for all to see."""

    def __init__(self, comm: LocalCommunicator, segments: Sequence[np.ndarray]) -> None:
        self._comm = comm
        self.segments = segments

    def fence(self) -> None:
        self._comm._meet()

    def order(self) -> None:
        """Python's threads see what others write in its order."""

    def close(self) -> None:
        self.segments = ()


class LocalChannel:
    """Messages as copies in queues."""

    def __init__(
        self,
        hub: _Hub,
        sends: list[tuple[queue.SimpleQueue[np.ndarray], np.ndarray]],
        receives: list[tuple[queue.SimpleQueue[np.ndarray], np.ndarray]],
        tally: Tally,
    ) -> None:
        self._hub = hub
        self._tally = tally
        self._sends = sends
        self._receives = receives
        self._missing: list[tuple[queue.SimpleQueue[np.ndarray], np.ndarray]] = []

    def begin(self) -> None:
        self._tally.count()
        self._missing = list(self._receives)
        for target, buffer in self._sends:
            target.put(buffer.copy())

    def end(self) -> None:
        for source, buffer in self._missing:
            buffer[...] = self._take(source)
        self._missing = []

    def test(self) -> bool:
        while self._missing:
            source, buffer = self._missing[-1]
            try:
                buffer[...] = source.get_nowait()
            except queue.Empty:
                return False
            self._missing.pop()
        return True

    def close(self) -> None:
        """Nothing is kept."""

    def _take(self, source: queue.SimpleQueue[np.ndarray]) -> np.ndarray:
        while True:
            try:
                with self._hub.waiting():
                    return source.get(timeout=0.1)
            except queue.Empty:
                if self._hub.barrier.broken:
                    raise Abandoned("another rank failed") from None


def run_ranks(size: int, work: Callable[[LocalCommunicator], T], in_turn: bool = False) -> list[T]:
    """Run ``work(communicator)`` as `size` ranks, each in a thread; their results in rank order.

    The first failure is raised again here, after all other ranks have ended.

    Parameters
    ----------
    in_turn : let only one rank compute at a time, until it waits for another, so that none
        disturbs what another measures.
    """
    hub = _Hub(size, threading.Lock() if in_turn else None)
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            with hub.baton or nullcontext():
                results[rank] = work(LocalCommunicator(hub, rank, range(size)))
        except BaseException as error:
            if not isinstance(error, Abandoned):
                failures.append(error)
            hub.abandon()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(1, size)]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
