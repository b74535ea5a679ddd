"""Work cut into bands: some images, or some rows of one image, that stay in cache."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from mpitile.geometry.box import Box
from mpitile.kernels.tile import Tile

# Elements of a tensor that a band holds: about what stays in cache.
BAND_ELEMENTS = 1 << 18


@dataclass(frozen=True, slots=True)
class Band:
    """The cells `box` of some images."""

    images: slice
    box: Box

    def of(self, tile: Tile) -> Tile:
        """The band's images of a tile."""
        return Tile(tile.array[self.images], tile.box, tile.height, tile.width)


def cut_bands(images: int, box: Box, row_elements: int) -> tuple[Band, ...]:
    """Bands of a box whose rows take so many elements; at least one row of one image each."""
    if box.empty or not images:
        return ()
    image = box.height * row_elements
    at_once = max(1, BAND_ELEMENTS // max(1, image))
    parts = _even(images, at_once)
    rows = box.height
    if image > BAND_ELEMENTS:
        rows = max(1, BAND_ELEMENTS // row_elements)
        # Whole output tiles of Winograd's algorithm.
        rows -= rows % 4 if rows > 4 else 0
    return tuple(
        Band(part, Box(top, min(top + rows, box.y1), box.x0, box.x1))
        for part in parts
        for top in range(box.y0, box.y1, rows)
    )


def _even(images: int, at_once: int) -> list[slice]:
    """Slices of about equal length, at most `at_once`."""
    count = -(-images // at_once)
    ends = [images * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]
