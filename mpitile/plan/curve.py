"""Seconds by amount of work, between and beyond measured points."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


class Curve:
    """Piecewise linear, never falling.

    Below the first point the line through the first two goes on, but not below zero at
    no work; beyond the last point time grows in proportion.

    Parameters
    ----------
    points : pairs of work and seconds, both positive; of equal work the mean counts.
    """

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        seconds: dict[float, list[float]] = {}
        for work, value in points:
            seconds.setdefault(work, []).append(value)
        self._work = sorted(seconds)
        self._seconds: list[float] = []
        for work in self._work:
            mean = sum(seconds[work]) / len(seconds[work])
            # More work never takes less time: what says so is noise.
            self._seconds.append(max([mean, *self._seconds[-1:]]))

    def at(self, work: float) -> float:
        """Seconds of this much work."""
        xs, ys = self._work, self._seconds
        if work >= xs[-1]:
            return ys[-1] * work / xs[-1]
        place = max(1, bisect_left(xs, work))
        if len(xs) == 1:
            return ys[0] * work / xs[0]
        x0, x1, y0, y1 = xs[place - 1], xs[place], ys[place - 1], ys[place]
        value = y0 + (y1 - y0) * (work - x0) / (x1 - x0)
        return max(value, ys[0] * work / xs[0]) if work < xs[0] else value
