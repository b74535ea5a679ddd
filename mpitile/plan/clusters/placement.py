"""Which tiles go together on a device: numbering by blocks, so that fewer halos leave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from mpitile.geometry.tiling import Grid


def placed(
    grid: Grid, device_of: Callable[[int], int], ranks: int, height: int, width: int
) -> Grid:
    """The grid with its tiles numbered in the blocks that fit the devices best.

    Row by row, unless blocks leave fewer cells of the image next to another device's.

    Parameters
    ----------
    device_of : by rank; a team's ranks follow each other.
    ranks : of all teams.
    height, width : of the image.
    """
    devices = [device_of(rank) for rank in range(ranks)]

    def border(numbered: Grid) -> float:
        return sum(
            _border(numbered, devices[first : first + grid.tiles], height, width)
            for first in range(0, ranks, grid.tiles)
        )

    # Of equal ones the first.
    return min([grid, *_blocks(grid, devices)], key=border)


def _blocks(grid: Grid, devices: list[int]) -> Iterator[Grid]:
    """The grid in blocks of as many tiles as a device has of a team."""
    counts = {
        count
        for first in range(0, len(devices), grid.tiles)
        for count in Counter(devices[first : first + grid.tiles]).values()
    }
    for rows in range(1, grid.rows + 1):
        for columns in range(1, grid.columns + 1):
            fits = grid.rows % rows == 0 and grid.columns % columns == 0
            if fits and rows * columns in counts:
                yield replace(grid, block=(rows, columns))


def _border(grid: Grid, devices: list[int], height: int, width: int) -> float:
    """About how many cells of the image stand next to one on another device."""
    found = 0.0
    for tile, device in enumerate(devices):
        row, column = grid.position(tile)
        if row + 1 < grid.rows and devices[grid.tile(row + 1, column)] != device:
            found += width / grid.columns
        if column + 1 < grid.columns and devices[grid.tile(row, column + 1)] != device:
            found += height / grid.rows
    return found
