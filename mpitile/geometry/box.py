"""Half-open integer rectangles in one tensor's coordinates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """The cells ``[y0, y1) x [x0, x1)`` of a tensor.

    A box with ``y1 <= y0`` or ``x1 <= x0`` holds no cell. All empty boxes are
    equivalent; the operations below return `EMPTY` for them.
    """

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0 if self.y1 > self.y0 else 0

    @property
    def width(self) -> int:
        return self.x1 - self.x0 if self.x1 > self.x0 else 0

    @property
    def cells(self) -> int:
        return self.height * self.width

    @property
    def empty(self) -> bool:
        return self.y1 <= self.y0 or self.x1 <= self.x0

    def intersect(self, other: Box) -> Box:
        """The cells that lie in both boxes."""
        y0 = self.y0 if self.y0 > other.y0 else other.y0
        y1 = self.y1 if self.y1 < other.y1 else other.y1
        x0 = self.x0 if self.x0 > other.x0 else other.x0
        x1 = self.x1 if self.x1 < other.x1 else other.x1
        return EMPTY if y1 <= y0 or x1 <= x0 else Box(y0, y1, x0, x1)

    def hull(self, other: Box) -> Box:
        """The smallest box that holds both boxes; empty ones do not count."""
        if self.empty:
            return EMPTY if other.empty else other
        if other.empty:
            return self
        return Box(
            min(self.y0, other.y0),
            max(self.y1, other.y1),
            min(self.x0, other.x0),
            max(self.x1, other.x1),
        )

    def contains(self, other: Box) -> bool:
        """Whether every cell of `other` is a cell of this box."""
        return other.empty or (
            self.y0 <= other.y0
            and other.y1 <= self.y1
            and self.x0 <= other.x0
            and other.x1 <= self.x1
        )

    def slices(self, y_origin: int = 0, x_origin: int = 0) -> tuple[slice, slice]:
        """Row and column slices of an array whose first cell is the given origin."""
        return (
            slice(self.y0 - y_origin, self.y0 - y_origin + self.height),
            slice(self.x0 - x_origin, self.x0 - x_origin + self.width),
        )


EMPTY = Box(0, 0, 0, 0)


def whole(height: int, width: int) -> Box:
    """The box that covers a tensor of this size."""
    return Box(0, height, 0, width)
