"""All ranks of this start: the only place that names MPI's world."""

from __future__ import annotations

import os
import sys
import time

from mpitile.comm.mpi import MPI, MpiCommunicator
from mpitile.errors import InputError

_PATIENCE_SECONDS = 10.0
_LAST_WORDS_SECONDS = 0.3


class World:
    """The ranks that ``mpirun`` started, or this process alone.

    Attributes
    ----------
    rank, size : this rank's number, and how many there are.
    """

    def __init__(self) -> None:
        self._comm = MPI.COMM_WORLD
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()

    def communicator(self, wait: str = "auto") -> MpiCommunicator:
        """A communicator of all ranks. Collective."""
        return MpiCommunicator(self._comm, wait)

    def alone(self, verb: str) -> None:
        """Refuse more than one rank, on all of them."""
        if self.size > 1:
            raise InputError(f"{verb} runs on one rank, but {self.size} were started")

    def say(self, text: str) -> None:
        """Print a line to the error stream, once."""
        if self.rank == 0:
            print(text, file=sys.stderr, flush=True)

    def leave(self, text: str, code: int) -> None:
        """Report an error that all ranks should have met; end them all if they have not."""
        self._wait_for_all(text, code)
        self.say(text)
        # mpirun may kill ranks that outlive another: none leaves before it has been said.
        self._wait_for_all(text, code)

    def _wait_for_all(self, text: str, code: int) -> None:
        everyone = self._comm.Ibarrier()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not everyone.Test():
            if time.monotonic() > deadline:
                print(f"{text} (on rank {self.rank} alone)", file=sys.stderr, flush=True)
                self.abort(code)
            time.sleep(0.001)

    def abort(self, code: int) -> None:
        """End all ranks at once; does not return."""
        # mpirun drops what it has not passed on by the time that it ends the ranks.
        time.sleep(_LAST_WORDS_SECONDS)
        self._comm.Abort(code)
        # MPICH returns, and its mpirun ends this rank some time later.
        os._exit(code)
