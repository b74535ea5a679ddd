"""A convolution whose product is kept and normalised, band by band."""

from __future__ import annotations

from mpitile.kernels import conv
from mpitile.kernels.tile import Tile
from mpitile.layers.bands import images_of
from mpitile.layers.base import Site, Step
from mpitile.layers.normalization import Normalization
from mpitile.network.kept import PRODUCT
from mpitile.plan import bands
from mpitile.plan.bands import Band, cut_bands


class NormalizedProduct:
    """The product of a layer with batch norm, whose gradient needs it.

    Attributes
    ----------
    bands : what the layer's box is worked through in.
    normalization : the sums over bands and ranks.
    """

    def __init__(self, site: Site, stride: int, padding: int) -> None:
        self._site = site
        self._stride, self._padding = stride, padding
        self.normalization = Normalization(site)
        shape = site.layer.output_shape
        array = site.kept[PRODUCT]
        self._product = Tile(array, site.stored, shape.height, shape.width)
        row = site.box.width * shape.channels
        self.bands = cut_bands(len(array), site.box, row)
        self._calls = tuple((band, (band,)) for band in self.bands)
        if site.box.height * row <= bands.BAND_ELEMENTS:
            # Each call reads all weights: one for all images, where these are small.
            self._calls = ((Band(0, len(array), site.box), self.bands),)

    def forward(self, step: Step) -> None:
        """The product, and its statistics over all ranks unless they are known."""
        site, normalization = self._site, self.normalization
        measured = step.training and not step.again
        if measured:
            normalization.begin()
        for call, parts in self._calls:
            conv.forward(
                images_of(site.inputs[0], call),
                site.parameters["weights"],
                images_of(self._product, call),
                call.box,
                self._stride,
                self._padding,
                site.workspace,
                algorithm=site.algorithms.get("forward"),
            )
            for band in parts if measured else ():
                normalization.measure(images_of(self._product, band), band.box)
        if not step.again:
            normalization.agree(step)

    def apply(self, band: Band, output: Tile) -> None:
        """Normalise a band of the product into `output`, a tile of its images, and activate it."""
        self.normalization.apply(images_of(self._product, band), output, band.box)

    def sum(self, band: Band, delta: Tile) -> None:
        """Take a band's delta behind the normalisation into the backward sums."""
        self.normalization.sum(delta, images_of(self._product, band), band.box)

    def differentiate(self, band: Band, delta: Tile) -> None:
        """Turn a band's delta into that of the product, in place."""
        self.normalization.differentiate(delta, images_of(self._product, band), band.box)
