"""How fast a core is just now, by the time of a fixed piece of work."""

from __future__ import annotations

import math
import time

import numpy as np

# Rows of the matrices, which stay in most L2 caches, and CPU seconds that a look at the pace takes.
_SIDE = 192
_SECONDS = 5e-3
_FIRST = 3


class Pace:
    """CPU seconds of a product of matrices, again and again.

    Processors change their speed with their temperature and with what their other cores do;
    virtual machines that share them by half and more from one second to the next. Times that were
    taken at different paces compare once each is divided by the pace beside it.

    Attributes
    ----------
    taken : the seconds of one product at every call of `take`.
    """

    def __init__(self) -> None:
        self._factors = np.ones((2, _SIDE, _SIDE), np.float32)
        self._product = np.empty((_SIDE, _SIDE), np.float32)
        self._count = 1
        self.taken: list[float] = []
        shortest = min(self.take() for _ in range(_FIRST))
        self._count = math.ceil(_SECONDS / max(shortest, 1e-7))
        self.taken.clear()

    def take(self) -> float:
        """The seconds that one product takes now: single precision, 192 x 192 x 192."""
        start = time.thread_time()
        for _ in range(self._count):
            np.dot(*self._factors, out=self._product)
        self.taken.append((time.thread_time() - start) / self._count)
        return self.taken[-1]
