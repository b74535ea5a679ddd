"""A convolution whose product is kept and normalised, band by band."""

from __future__ import annotations

from functools import cached_property

from mpitile.kernels import activation, conv
from mpitile.kernels.prepared import Run
from mpitile.kernels.tile import Tile
from mpitile.layers.bands import images_of
from mpitile.layers.base import Site, Step, kept_tile
from mpitile.layers.normalization import Normalization
from mpitile.network.kept import PRODUCT
from mpitile.network.spec import OUTPUT_HIDES
from mpitile.plan.bands import Band, cut_bands, product_calls


class NormalizedProduct:
    """The product of a layer with batch norm, whose gradient needs it.

    Attributes
    ----------
    bands : what the layer's box is worked through in.
    normalization : the sums over bands and ranks.
    """

    def __init__(self, site: Site, stride: int, padding: int, groups: int = 1) -> None:
        self._site = site
        self._stride, self._padding, self._groups = stride, padding, groups
        self.normalization = Normalization(site)
        self._product = kept_tile(site, PRODUCT)
        images = len(self._product.array)
        row = site.box.width * site.layer.output_shape.channels
        self.bands = cut_bands(images, site.box, row)
        calls = product_calls(images, site.box, row)
        # Bands that the statistics of each call's product are taken in.
        parts = (self.bands,) if len(calls) == 1 else tuple((call,) for call in calls)
        self._calls = tuple(zip(calls, parts, strict=True))

    def forward(self, step: Step) -> None:
        """The product, and its statistics over all ranks unless they are known."""
        normalization = self.normalization
        measured = step.training and not step.again
        if measured:
            normalization.begin()
        for multiply, (_, parts) in zip(self._multiply, self._calls, strict=True):
            multiply()
            for band in parts if measured else ():
                normalization.measure(images_of(self._product, band), band.box)
        if not step.again:
            normalization.agree(step)

    @cached_property
    def _multiply(self) -> tuple[Run, ...]:
        """The product, call by call."""
        site = self._site
        return tuple(
            conv.prepare_forward(
                images_of(site.inputs[0], call),
                site.parameters["weights"],
                images_of(self._product, call),
                call.box,
                self._stride,
                self._padding,
                site.workspace,
                algorithm=site.algorithms.get("forward"),
                groups=self._groups,
            )
            for call, _ in self._calls
        )

    def apply(self, band: Band, output: Tile) -> None:
        """Normalise a band of the product into `output`, a tile of its images, and activate it."""
        self.normalization.apply(images_of(self._product, band), output, band.box)

    def activation_backward(self, band: Band, delta: Tile, output: Tile) -> None:
        """Turn a band's delta, of the activated output, into that in front of the activation."""
        kind = self._site.layer.operation.activation
        if kind in OUTPUT_HIDES:
            self.normalization.activation_backward(delta, images_of(self._product, band), band.box)
        else:
            activation.backward(delta, output, band.box, kind)

    def sum(self, band: Band, delta: Tile) -> None:
        """Take a band's delta behind the normalisation into the backward sums."""
        self.normalization.sum(delta, images_of(self._product, band), band.box)

    def differentiate(self, band: Band, delta: Tile) -> None:
        """Turn a band's delta into that of the product, in place."""
        self.normalization.differentiate(delta, images_of(self._product, band), band.box)
