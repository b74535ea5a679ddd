"""The images of a tile that a band works on."""

from __future__ import annotations

from dataclasses import replace

from mpitile.kernels.tile import Tile
from mpitile.plan.bands import Band


def images_of(tile: Tile, band: Band) -> Tile:
    """The band's images of a tile, all their cells."""
    images = tile.array[band.first : band.stop]
    return replace(tile, array=images)
