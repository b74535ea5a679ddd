"""Which input cells a box of output cells depends on."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from mpitile.geometry.box import EMPTY, Box, whole


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: output cell ``i`` reads ``[i*stride - before, i*stride - before + size)``.

    `before` is the padding in front of the first cell. Padding behind the last
    cell needs no mention: whatever lies outside the tensor is clipped.
    """

    size_y: int = 1
    size_x: int = 1
    stride: int = 1
    before: int = 0

    def needs(self, box: Box, height: int, width: int) -> Box:
        """The input cells that the output cells of `box` read, clipped to the input."""
        if box.empty:
            return EMPTY
        return Box(
            box.y0 * self.stride - self.before,
            (box.y1 - 1) * self.stride - self.before + self.size_y,
            box.x0 * self.stride - self.before,
            (box.x1 - 1) * self.stride - self.before + self.size_x,
        ).intersect(whole(height, width))


@dataclass(frozen=True, slots=True)
class Whole:
    """Every output cell may depend on every input cell."""

    def needs(self, box: Box, height: int, width: int) -> Box:
        """The whole input, or nothing for an empty box."""
        return EMPTY if box.empty else whole(height, width)


@dataclass(frozen=True, slots=True)
class Enlarged:
    """Output cell ``i`` reads cell ``i // factor``: each input cell fills `factor` output cells."""

    factor: int

    def needs(self, box: Box, height: int, width: int) -> Box:
        """The input cells that the output cells of `box` copy, clipped to the input."""
        if box.empty:
            return EMPTY
        return Box(
            box.y0 // self.factor,
            (box.y1 - 1) // self.factor + 1,
            box.x0 // self.factor,
            (box.x1 - 1) // self.factor + 1,
        ).intersect(whole(height, width))


Receptive = Window | Whole | Enlarged


@dataclass(frozen=True, slots=True)
class LayerGeometry:
    """What geometry knows of a layer.

    Attributes
    ----------
    inputs : numbers of the tensors that the layer reads.
    receptive : for each of them, which of its cells an output box needs.
    stride : how many cells of the first input one output cell stands for; a fraction
        where the output is larger than the input.
    """

    inputs: tuple[int, ...]
    receptive: tuple[Receptive, ...]
    stride: int | Fraction = 1
