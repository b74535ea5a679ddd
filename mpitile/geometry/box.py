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
        return max(0, self.y1 - self.y0)

    @property
    def width(self) -> int:
        return max(0, self.x1 - self.x0)

    @property
    def cells(self) -> int:
        return self.height * self.width

    @property
    def empty(self) -> bool:
        return self.y1 <= self.y0 or self.x1 <= self.x0

    def intersect(self, other: Box) -> Box:
        """The cells that lie in both boxes."""
        box = Box(
            max(self.y0, other.y0),
            min(self.y1, other.y1),
            max(self.x0, other.x0),
            min(self.x1, other.x1),
        )
        return EMPTY if box.empty else box

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
        return other.empty or self.intersect(other) == other

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
