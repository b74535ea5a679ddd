"""Work that goes on beside a rank's computing, a little at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Seconds between two looks: the first after one that found something to do, and the most, up to
# which they become twice as long each time. A look takes some ten microseconds here and some
# hundred on a slow core: at one a millisecond kernels would lose a tenth of its time. On six
# emulated Pi 3s of 4 ranks steps became 5 to 9% faster by pauses of 5 ms in place of 1 ms, on
# links of 300 Mbit/s and more 2%; where links are busy throughout, up to 2% slower.
_FIRST_PAUSE, _LONGEST_PAUSE = 1e-3, 4e-3


class Beside:
    """Has something advanced on a thread of its own, between `start` and `stop`.

    Kernels hold no lock of Python's, so the thread gets its turn while they compute. MPI moves
    large messages only inside its calls: without somebody who calls it they would stay where
    they are until the rank waits next. Advanced between layers alone, sums were still waited for
    a good half as long as without overlap (tests/bench/overlap.py: two emulated devices at
    100 Mbit/s, y16, batch 4: 13% of a step without, 8% between layers, 1.6% by a thread).

    Parameters
    ----------
    advance : does what can be done at once, and returns whether that was anything.
    done : whether nothing is left; `advance` is called again and again until it is true.
    """

    def __init__(self, advance: Callable[[], bool], done: Callable[[], bool]) -> None:
        self._advance, self._done = advance, done
        self._wanted = threading.Event()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)
        self._thread.start()

    def start(self) -> None:
        """From now on."""
        self._wanted.set()

    def stop(self) -> None:
        """Raise what came up; the thread stops when nothing is left, or somewhat earlier."""
        self._wanted.clear()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while self._wanted.wait() and not self._closed:
            # Cleared first: a start that comes while there seems to be nothing left is kept.
            self._wanted.clear()
            try:
                moved = self._advance()
                if not self._done() or self._closed:
                    self._wanted.set()
                pause = _FIRST_PAUSE if moved else min(2 * pause, _LONGEST_PAUSE)
            except BaseException as error:
                self._failure = error
            time.sleep(pause)
