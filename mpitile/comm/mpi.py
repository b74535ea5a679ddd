"""Communicators over mpi4py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpitile.comm.communicator import Addressed
from mpitile.comm.tally import Tally
from mpitile.comm.windows import MPI, PlainMemory, WindowMemory, memory_name, room
from mpitile.errors import InputError

# Of a communicator's channels, in the order in which they are made: their messages may overtake
# those of others. The standard promises as many tags.
_TAGS = 1 << 15
_FIRST_SLEEP, _LONGEST_SLEEP = 20e-6, 1e-3


def wait_by_spinning(requests: Sequence[MPI.Request]) -> None:
    """Wait at full speed: right where every rank has a core of its own."""
    MPI.Request.Waitall(requests)


def wait_by_sleeping(requests: Sequence[MPI.Request]) -> None:
    """Test and sleep: leaves the core to other ranks that have work to do."""
    pause = _FIRST_SLEEP
    while not MPI.Request.Testall(requests):
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_SLEEP)


_WAITS = {"spin": wait_by_spinning, "sleep": wait_by_sleeping}


class MpiCommunicator:
    """See `mpitile.comm.communicator.Communicator`.

    Parameters
    ----------
    comm : an intra-communicator; it is duplicated once. Collective.
    wait : "spin", "sleep", or "auto": as the variable MPITILE_WAIT says, else sleep where a
        host has more ranks than cores.
    """

    def __init__(self, comm: MPI.Intracomm, wait: str = "auto") -> None:
        duplicate = comm.Dup()
        if wait == "auto":
            wait = _chosen_wait(duplicate)
        members = range(duplicate.Get_size())
        self.sent = np.zeros(len(members), np.int64)
        self._adopt(duplicate, _WAITS[wait], members)

    def _adopt(
        self,
        comm: MPI.Intracomm,
        wait: Callable[[Sequence[MPI.Request]], None],
        members: Sequence[int],
    ) -> None:
        self._comm = comm
        self._wait = wait
        self._members = members
        self._channels = 0
        self.threaded = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def _part(self, comm: MPI.Intracomm, members: Sequence[int]) -> MpiCommunicator:
        part = MpiCommunicator.__new__(MpiCommunicator)
        part.sent = self.sent
        part._adopt(comm, self._wait, members)
        return part

    def team(self, replicas: int, rows: int, columns: int) -> MpiCommunicator:
        cartesian = self._comm.Create_cart([replicas, rows, columns], reorder=False)
        tiles = rows * columns
        first = self.rank // tiles * tiles
        team = self._part(cartesian.Sub([False, True, True]), self._members[first : first + tiles])
        cartesian.Free()
        return team

    def split(self, color: int) -> MpiCommunicator:
        colors = self._comm.allgather(color)
        members = [self._members[rank] for rank, other in enumerate(colors) if other == color]
        return self._part(self._comm.Split(color, self.rank), members)

    def hosts(self) -> list[list[int]]:
        node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        # MPI goes by host names or by how ranks were started; containers may still be apart.
        own = (node.bcast(self.rank), memory_name())
        node.Free()
        found: dict[tuple[int, str], list[int]] = {}
        for rank, name in enumerate(self._comm.allgather(own)):
            found.setdefault(name, []).append(rank)
        return list(found.values())

    def room(self) -> int:
        return room()

    def share(self, size: int) -> WindowMemory | PlainMemory:
        if self.size == 1:
            return PlainMemory(size)
        return WindowMemory(self._comm, size, self._wait)

    def channel(self, sends: Addressed, receives: Addressed) -> MpiChannel:
        tally = Tally(self.sent, [(self._members[peer], buffer) for peer, buffer in sends])
        self._channels += 1
        tag = self._channels % _TAGS
        return MpiChannel(self._comm, sends, receives, tag, self._wait, tally)

    def wait_until(self, done: Callable[[], bool]) -> None:
        pause = _FIRST_SLEEP
        while not done():
            # Also where it spins, the thread beside the kernels gets its turn.
            time.sleep(pause if self._wait is wait_by_sleeping else 0)
            pause = min(2 * pause, _LONGEST_SLEEP)

    def begin_sum(self, array: np.ndarray) -> MpiPending:
        return MpiPending(self._comm.Iallreduce(MPI.IN_PLACE, array, MPI.SUM), self._wait)

    def sum(self, array: np.ndarray) -> None:
        self.begin_sum(array).end()

    def maximum(self, array: np.ndarray) -> None:
        self._wait([self._comm.Iallreduce(MPI.IN_PLACE, array, MPI.MAX)])

    def share_slices(self, array: np.ndarray, ends: Sequence[int]) -> None:
        counts = np.diff([0, *ends]).tolist()
        starts = [0, *ends[:-1]]
        request = self._comm.Iallgatherv(MPI.IN_PLACE, [array, counts, starts, None])
        self._wait([request])

    def gather(self, value: Any) -> list[Any] | None:
        return self._comm.gather(value)

    def allgather(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def broadcast(self, value: Any) -> Any:
        return self._comm.bcast(value)

    def swap(self, value: Any, target: int | None, source: int | None) -> Any:
        nobody = MPI.PROC_NULL
        return self._comm.sendrecv(
            value,
            dest=nobody if target is None else target,
            source=nobody if source is None else source,
        )

    def close(self) -> None:
        self._comm.Free()

    def abort(self, code: int) -> None:
        self._comm.Abort(code)


class MpiPending:
    """A nonblocking collective."""

    def __init__(self, request: MPI.Request, wait: Callable[[Sequence[MPI.Request]], None]) -> None:
        self._request = request
        self._wait = wait

    def end(self) -> None:
        self._wait([self._request])


class MpiChannel:
    """Persistent requests, made once."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        sends: Addressed,
        receives: Addressed,
        tag: int,
        wait: Callable[[Sequence[MPI.Request]], None],
        tally: Tally,
    ) -> None:
        self._wait = wait
        self._tally = tally
        self._requests = [comm.Recv_init(buffer, peer, tag) for peer, buffer in receives]
        self._requests += [comm.Send_init(buffer, peer, tag) for peer, buffer in sends]

    def begin(self) -> None:
        if self._requests:
            self._tally.count()
            MPI.Prequest.Startall(self._requests)

    def end(self) -> None:
        if self._requests:
            self._wait(self._requests)

    def test(self) -> bool:
        return not self._requests or MPI.Request.Testall(self._requests)

    def close(self) -> None:
        for request in self._requests:
            request.Free()
        self._requests = []


def _chosen_wait(comm: MPI.Intracomm) -> str:
    """How to wait where nobody says: as a launcher knows best, else by counting. Collective."""
    counted = "sleep" if _oversubscribed(comm) else "spin"
    told = os.environ.get("MPITILE_WAIT", counted)
    if told not in _WAITS:
        raise InputError(f'MPITILE_WAIT: expected "spin" or "sleep", got "{told}"')
    return told


def _oversubscribed(comm: MPI.Intracomm) -> bool:
    """Whether any host runs more ranks than it has cores. Collective."""
    host = comm.Split_type(MPI.COMM_TYPE_SHARED)
    crowded = host.Get_size() > (os.cpu_count() or 1)
    host.Free()
    return comm.allreduce(crowded, MPI.LOR)
