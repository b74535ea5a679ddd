"""Signals that ask a run to save and end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What batch systems and mpirun send before they kill, and Ctrl-C.
_ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Note signals instead of dying of them; the function says whether one has come.

    Off the main thread, where handlers cannot be set, it always says no.
    """
    # Not an event: its lock would wait for ever where a second signal comes inside the first's.
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, lambda *_: came.append(1)) for number in _ASKING}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
