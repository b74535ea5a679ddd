"""The images of a tile that a band works on."""

from __future__ import annotations

from mpitile.kernels.tile import Tile
from mpitile.plan.bands import Band


def images_of(tile: Tile, band: Band) -> Tile:
    """The band's images of a tile, all their cells."""
    if band.images == len(tile.array):
        return tile
    images = tile.array[band.first : band.stop]
    return Tile(images, tile.box, tile.height, tile.width, tile.first_channel)
