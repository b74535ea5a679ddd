"""Seconds by kind of work."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall seconds under names; names may be nested and are then counted in both."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[kind] += time.perf_counter() - start

    def seconds(self, kind: str) -> float:
        """Seconds counted so far."""
        return self._seconds[kind]

    def reset(self) -> None:
        """Start again from zero."""
        self._seconds.clear()
