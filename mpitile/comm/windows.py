"""Memory that ranks of one host share, in windows of MPI."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mpitile.kernels.aligned import aligned_zeros
from mpitile.plan.clusters.wires import EAGER_BYTES

# Both are read when MPI starts. Over TCP, what is larger waits for both ranks to be inside MPI
# at the same time, more than once: buckets of gradients left links idle for a third of the time.
os.environ.setdefault("OMPI_MCA_btl_tcp_eager_limit", str(EAGER_BYTES))
# Open MPI asks all its one-sided transports before it takes shared memory, and this one
# complains on every rank where there is no hardware for it.
os.environ.setdefault("OMPI_MCA_osc", "^ucx")

from mpi4py import MPI

_PAGE = 4096
# Where the MPIs keep shared memory on Linux.
_PLACE = Path("/dev/shm")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def memory_name() -> str:
    """The same text for all processes that see the same place for shared memory, and no others.

    A name space with a file system of its own there has another device number.
    """
    try:
        return f"{_BOOT.read_text('ascii').strip()} {_PLACE.stat().st_dev}"
    except OSError:
        # Nothing is known beyond what MPI says.
        return ""


def room() -> int:
    """Bytes that are free where shared memory is kept."""
    try:
        place = os.statvfs(_PLACE)
    except OSError:
        return sys.maxsize
    return place.f_bavail * place.f_frsize


class WindowMemory:
    """See `mpitile.comm.communicator.SharedMemory`. Collective."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        size: int,
        wait: Callable[[Sequence[MPI.Request]], None],
    ) -> None:
        self._comm = comm
        self._wait = wait
        # Whole pages, so that each rank's lie in memory that is near to it.
        pages = -(-size // _PAGE) * _PAGE
        self._window = MPI.Win.Allocate_shared(pages, 1, MPI.INFO_NULL, comm)
        self._window.Lock_all(MPI.MODE_NOCHECK)
        sizes = comm.allgather(size)
        self.segments: Sequence[np.ndarray] = [
            np.frombuffer(self._window.Shared_query(rank)[0], np.uint8)[:size]
            for rank, size in enumerate(sizes)
        ]
        self.segments[comm.Get_rank()][:] = 0
        self.fence()

    def fence(self) -> None:
        # A barrier alone orders messages; the window's own memory barriers order reads and
        # writes, which weaker processors than x86 otherwise exchange.
        self._window.Sync()
        self._wait([self._comm.Ibarrier()])
        self._window.Sync()

    def order(self) -> None:
        self._window.Sync()

    def close(self) -> None:
        self.segments = ()
        self._window.Unlock_all()
        self._window.Free()


class PlainMemory:
    """A rank that shares with nobody."""

    def __init__(self, size: int) -> None:
        self.segments: Sequence[np.ndarray] = [aligned_zeros((size,), np.uint8)]

    def fence(self) -> None:
        """Nobody else reads."""

    def order(self) -> None:
        """Nobody else looks."""

    def close(self) -> None:
        self.segments = ()
