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
    points : pairs of work and seconds, both positive. Those of equal work count as their mean,
        and so do neighbours that say that more work takes less time: that is noise.
    """

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        # Pool adjacent violators: each block has its work, its sum of seconds and its weight.
        blocks: list[tuple[list[float], float, int]] = []
        for work, seconds in sorted(points):
            block = ([work], seconds, 1)
            while blocks and (
                blocks[-1][0][-1] == block[0][0]
                or blocks[-1][1] / blocks[-1][2] > block[1] / block[2]
            ):
                before = blocks.pop()
                block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
            blocks.append(block)
        values = {work: total / count for works, total, count in blocks for work in works}
        self._work = list(values)
        self._seconds = list(values.values())

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
