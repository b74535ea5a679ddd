"""A rank of a group that nobody else is in: it computes as in the group, and nothing travels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpitile.comm.communicator import Addressed
from mpitile.kernels.aligned import aligned_zeros


class MuteCommunicator:
    """See `mpitile.comm.communicator.Communicator`; for timing, as results are wrong."""

    threaded = False

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def team(self, replicas: int, rows: int, columns: int) -> MuteCommunicator:
        return MuteCommunicator(self.rank % (rows * columns), rows * columns)

    def split(self, color: int) -> MuteCommunicator:
        return MuteCommunicator(0, 1)

    def share(self, size: int) -> MuteMemory:
        return MuteMemory(size)

    def channel(self, sends: Addressed, receives: Addressed) -> MuteChannel:
        for _, buffer in receives:
            buffer[...] = 0
        return MuteChannel()

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Nobody comes."""

    def begin_sum(self, array: np.ndarray) -> MutePending:
        return MutePending()

    def sum(self, array: np.ndarray) -> None:
        """The array stays as it is, and so below."""

    def maximum(self, array: np.ndarray) -> None: ...

    def share_slices(self, array: np.ndarray, ends: Sequence[int]) -> None: ...

    def gather(self, value: Any) -> list[Any] | None:
        return [value] if self.rank == 0 else None

    def allgather(self, value: Any) -> list[Any]:
        return [value]

    def broadcast(self, value: Any) -> Any:
        return value

    def close(self) -> None: ...

    def abort(self, code: int) -> None: ...


class MuteMemory:
    """Memory of a rank that is alone."""

    def __init__(self, size: int) -> None:
        self.segments: Sequence[np.ndarray] = [aligned_zeros((size,), np.uint8)]

    def fence(self) -> None: ...

    def order(self) -> None: ...

    def close(self) -> None:
        self.segments = ()


class MutePending:
    """Nothing to wait for."""

    def end(self) -> None: ...


class MuteChannel:
    """No message comes or goes."""

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def test(self) -> bool:
        return True

    def close(self) -> None: ...
