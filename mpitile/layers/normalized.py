"""A convolution whose product is kept and normalised, band by band."""

from __future__ import annotations

from functools import cached_property

from mpitile.kernels import activation, conv
from mpitile.kernels.prepared import Run, in_turn
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
        for multiply, measure in zip(self._multiply, self._measure, strict=True):
            multiply()
            if measured:
                measure()
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

    @cached_property
    def _measure(self) -> tuple[Run, ...]:
        """The statistics of each call's product."""
        prepare = self.normalization.prepare_measure
        return tuple(
            in_turn(*(prepare(images_of(self._product, band), band.box) for band in parts))
            for _, parts in self._calls
        )

    def prepare_apply(self, band: Band, output: Tile) -> Run:
        """What normalises a band of the product into `output`, and activates it."""
        return self.normalization.prepare_apply(images_of(self._product, band), output, band.box)

    def prepare_activation_backward(self, band: Band, delta: Tile, output: Tile) -> Run:
        """What turns a band's delta, of the activated output, into that before the activation."""
        kind = self._site.layer.operation.activation
        if kind not in OUTPUT_HIDES:
            return activation.prepare_backward(delta, output, band.box, kind)
        product = images_of(self._product, band)
        return self.normalization.prepare_activation_backward(delta, product, band.box)

    def prepare_sum(self, band: Band, delta: Tile) -> Run:
        """What takes a band's delta behind the normalisation into the backward sums."""
        return self.normalization.prepare_sum(delta, images_of(self._product, band), band.box)

    def prepare_differentiate(self, band: Band, delta: Tile) -> Run:
        """What turns a band's delta into that of the product, in place."""
        product = images_of(self._product, band)
        return self.normalization.prepare_differentiate(delta, product, band.box)
