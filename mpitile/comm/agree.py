"""Agreement: an error on one rank becomes the same error on all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mpitile.comm.communicator import Communicator
from mpitile.errors import MpitileError

T = TypeVar("T")


def together(comm: Communicator, work: Callable[[], T]) -> T:
    """Do `work` on every rank, and raise on all of them what any of them raised. Collective.

    Where several ranks fail, the lowest one's error is raised; where only some do,
    the message says which rank's it is. `work` itself must not communicate, else a
    failing rank would leave the others waiting in it.
    """
    result, failure = None, None
    try:
        result = work()
    except MpitileError as error:
        failure = error
    outcomes = comm.allgather(failure)
    failed = [rank for rank, error in enumerate(outcomes) if error is not None]
    if failed:
        error = outcomes[failed[0]]
        if len(failed) == comm.size:
            raise error
        raise type(error)(f"rank {failed[0]}: {error}")
    return result  # type: ignore[return-value]


def on_first(comm: Communicator, work: Callable[[], T]) -> T:
    """Do `work` on rank 0 and hand its result, or its error, to every rank. Collective."""
    result, failure = None, None
    if comm.rank == 0:
        try:
            result = work()
        except MpitileError as error:
            failure = error
    result, failure = comm.broadcast((result, failure))
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]
