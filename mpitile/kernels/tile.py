"""The window of one tensor that is held in memory, halo included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpitile.geometry.box import Box


@dataclass(frozen=True, slots=True)
class Tile:
    """A box of a batch of one tensor, stored channels last.

    Kernels are given boxes in the tensor's own coordinates and find the cells in
    `array` by the tile's origin. Cells outside the tensor are padding: they are
    never stored and never read.

    Attributes
    ----------
    array : (images, box.height, box.width, channels), C-contiguous, float32 or float64.
    box : the cells that `array` holds, in coordinates of the whole tensor.
    height, width : size of the whole tensor.
    first_channel : the number that the array's first channel has in the whole tensor.
    """

    array: np.ndarray
    box: Box
    height: int
    width: int
    first_channel: int = 0

    def view(self, box: Box, channels: tuple[int, int] | None = None) -> np.ndarray:
        """The cells of `box`, which must lie in the tile, as a view: these channels, or all.

        Channels are numbered as in the whole tensor.
        """
        rows, columns = box.slices(self.box.y0, self.box.x0)
        if channels is None:
            return self.array[:, rows, columns, :]
        first, stop = (channel - self.first_channel for channel in channels)
        return self.array[:, rows, columns, first:stop]

    def around(self, box: Box) -> tuple[np.ndarray, ...]:
        """The cells outside `box`, as views that have some."""
        kept = box.intersect(self.box)
        if kept.empty:
            return (self.array,)
        rows, columns = kept.slices(self.box.y0, self.box.x0)
        views = (
            self.array[:, : rows.start],
            self.array[:, rows.stop :],
            self.array[:, rows, : columns.start],
            self.array[:, rows, columns.stop :],
        )
        return tuple(view for view in views if view.size)
