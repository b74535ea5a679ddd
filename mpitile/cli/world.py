"""All ranks of this start: the only place that names MPI's world, and starts MPI."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mpitile.errors import InputError

if TYPE_CHECKING:
    from mpitile.comm.mpi import MPI, MpiCommunicator

T = TypeVar("T")

# One of them is in the environment of whatever Open MPI, PMIx, Hydra (MPICH, Intel MPI) or
# Slurm has started. Not SLURM_PROCID, which the lone shell of a batch script has as well.
_STARTED = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_STEP_NUM_TASKS")
_PATIENCE_SECONDS = 10.0
_LAST_WORDS_SECONDS = 0.3


class World:
    """The ranks that ``mpirun`` started, or this process alone.

    MPI takes a second to start and need not be there, so that it is started only where
    there may be other ranks, or where it is to be used.

    Attributes
    ----------
    rank, size : this rank's number, and how many there are.
    """

    def __init__(self) -> None:
        self._comm: MPI.Intracomm | None = None
        self.rank = 0
        self.size = 1

    def meet(self) -> None:
        """Find the other ranks, if a launcher may have started any."""
        if any(name in os.environ for name in _STARTED):
            self._start()

    def _start(self) -> MPI.Intracomm:
        try:
            from mpitile.comm.mpi import MPI
        except (ImportError, RuntimeError) as error:
            # What mpi4py says where there is no libmpi to load; anything else is a fault.
            if "libmpi" not in str(error):
                raise
            reason = str(error).splitlines()[-1].strip()
            raise InputError(
                "no MPI library found: pip install 'mpitile[mpi]' or install Open MPI/MPICH "
                f"({reason})"
            ) from error
        self._comm = MPI.COMM_WORLD
        self.rank = self._comm.Get_rank()
        self.size = self._comm.Get_size()
        return self._comm

    def communicator(self, wait: str = "auto") -> MpiCommunicator:
        """A communicator of all ranks, with MPI even if there is one alone. Collective.

        Raises
        ------
        InputError : there is no MPI library.
        """
        comm = self._start()
        from mpitile.comm.mpi import MpiCommunicator

        return MpiCommunicator(comm, wait)

    def on_first(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 and hand its result, or its error, to every rank. Collective."""
        if self._comm is None:
            return work()
        from mpitile.comm.agree import on_first

        return on_first(self.communicator(), work)

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
        if self._comm is None:
            self.say(text)
            return
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
