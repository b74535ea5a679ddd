"""What the rest of mpitile asks of a communicator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Addressed = Sequence[tuple[int, np.ndarray]]


class Pending(Protocol):
    """Communication that has begun; `end` returns when it is complete on this rank."""

    def end(self) -> None: ...


class Channel(Protocol):
    """Messages between fixed peers through fixed buffers, repeated at will.

    ``begin()`` sends the present contents of the send buffers; ``end()`` returns
    when all send buffers may be written and all receive buffers have been filled.
    ``test()`` says whether it would return at once; where it is true, it stands for ``end()``.
    """

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def test(self) -> bool: ...

    def close(self) -> None:
        """Give back what the communicator keeps for the channel."""
        ...


class SharedMemory(Protocol):
    """Memory that all ranks of a group read and write.

    Attributes
    ----------
    segments : for each rank the bytes that it asked for, each beginning on a page or cache line.
    """

    segments: Sequence[np.ndarray]

    def fence(self) -> None:
        """What any rank has written before is what all ranks read afterwards. Collective."""
        ...

    def order(self) -> None:
        """This rank's reads and writes before come before those afterwards. Not collective."""
        ...

    def close(self) -> None:
        """Give the memory back; its arrays must not be touched afterwards. Collective."""
        ...


class Communicator(Protocol):
    """A group of ranks.

    Two implementations exist: `mpitile.comm.mpi` over mpi4py, and
    `mpitile.comm.local` between threads of one process. All methods but `channel`, `wait_until`,
    `room` and `abort` are collective, and every rank calls them in the same order.
    Methods that take arrays neither pickle nor allocate in proportion to them;
    those that take objects pickle and are meant for set-up and reports.

    Attributes
    ----------
    rank, size : this rank's number, and how many there are.
    sent : bytes that this rank has sent through channels to each rank of the outermost
        communicator, by this one and all that were made from the same.
    threaded : whether a second thread of this rank may use channels while the first is at work.
    """

    rank: int
    size: int
    sent: np.ndarray
    threaded: bool

    def team(self, replicas: int, rows: int, columns: int) -> Communicator:
        """The Cartesian ``rows x columns`` part of this ``replicas x rows x columns`` group."""
        ...

    def split(self, color: int) -> Communicator:
        """The ranks that give the same color, in the order of their numbers here."""
        ...

    def hosts(self) -> list[list[int]]:
        """The ranks that can share memory with each other, in ascending order."""
        ...

    def room(self) -> int:
        """Bytes that the ranks of this rank's host can share at present. Not collective."""
        ...

    def share(self, size: int) -> SharedMemory:
        """Memory to which each rank adds a segment of `size` bytes, of zeros.

        All ranks must be on one host with enough room.
        """
        ...

    def channel(self, sends: Addressed, receives: Addressed) -> Channel:
        """Persistent messages to and from peers, which may overtake those of other channels.

        All ranks make as many channels, and matching ones in one order.
        """
        ...

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Call `done` until it is true; other ranks may compute meanwhile."""
        ...

    def begin_sum(self, array: np.ndarray) -> Pending:
        """Begin to add up `array` over all ranks, in place."""
        ...

    def sum(self, array: np.ndarray) -> None:
        """Add up `array` over all ranks, in place."""
        ...

    def maximum(self, array: np.ndarray) -> None:
        """Take the largest of each entry of `array` over all ranks, in place."""
        ...

    def share_slices(self, array: np.ndarray, ends: Sequence[int]) -> None:
        """Fill a flat array on every rank: rank r gives what lies before ``ends[r]``."""
        ...

    def gather(self, value: Any) -> list[Any] | None:
        """All ranks' objects on rank 0, in rank order; None elsewhere."""
        ...

    def allgather(self, value: Any) -> list[Any]:
        """All ranks' objects on every rank, in rank order."""
        ...

    def broadcast(self, value: Any) -> Any:
        """Rank 0's object on every rank."""
        ...

    def swap(self, value: Any, target: int | None, source: int | None) -> Any:
        """Hand an object to one rank and take another's; None stands for nobody."""
        ...

    def close(self) -> None:
        """Give back what MPI keeps for a group that `split` or `team` has made. Collective.

        Its channels and shared memory are closed before.
        """
        ...

    def abort(self, code: int) -> None:
        """End all ranks at once, whatever they are doing."""
        ...
