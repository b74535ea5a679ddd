"""Counts what channels send."""

from __future__ import annotations

import numpy as np

from mpitile.comm.communicator import Addressed


class Tally:
    """Adds a channel's bytes to a rank's account whenever it begins.

    Parameters
    ----------
    account : bytes by rank of the outermost communicator.
    sends : to which of those ranks each buffer goes.
    """

    def __init__(self, account: np.ndarray, sends: Addressed) -> None:
        self._account = account
        self._ranks = np.array([rank for rank, _ in sends], np.intp)
        self._bytes = np.array([buffer.nbytes for _, buffer in sends], np.int64)

    def count(self) -> None:
        """All buffers are on their way once more."""
        np.add.at(self._account, self._ranks, self._bytes)
