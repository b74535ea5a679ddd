"""Random changes to training images, drawn before anything is known of boxes or ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpitile.data.placement import Placement, jittered
from mpitile.errors import InputError
from mpitile.kernels.pixels import change_colours

# Keeps these numbers apart from the order's, which come from the same seed.
_STREAM = 2


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far images may be changed; the meanings are Darknet's.

    Attributes
    ----------
    jitter : largest relative change of width and height, in [0, 1).
    hue : largest shift of the hue, in turns of the colour circle, in [0, 1].
    saturation, exposure : largest factors (their inverses are as likely), positive.
    flip : whether half of the images are mirrored.
    """

    jitter: float = 0.2
    hue: float = 0.1
    saturation: float = 1.5
    exposure: float = 1.5
    flip: bool = True

    def __post_init__(self) -> None:
        for key, good, expected in (
            ("jitter", 0 <= self.jitter < 1, "in [0, 1)"),
            ("hue", 0 <= self.hue <= 1, "in [0, 1]"),
            ("saturation", 0 < self.saturation < np.inf, "above 0"),
            ("exposure", 0 < self.exposure < np.inf, "above 0"),
        ):
            if not good:
                raise InputError(f"{key}: expected a number {expected}, got {getattr(self, key)}")


@dataclass(frozen=True, slots=True)
class Drawn:
    """What has been drawn for one image; `units` are for `jittered`."""

    units: tuple[float, float, float, float]
    jitter: float
    flip: bool
    hue: float
    saturation: float
    exposure: float

    def placement(
        self, image_width: int, image_height: int, canvas_width: int, canvas_height: int
    ) -> Placement:
        """Where an image of this size lies on the canvas."""
        return jittered(
            self.units,
            image_width,
            image_height,
            canvas_width,
            canvas_height,
            self.jitter,
            self.flip,
        )


def draw(augmentation: Augmentation, seed: int, position: int) -> Drawn:
    """Draws for the image at `position` of the run: a function of its arguments alone."""
    uniform = np.random.default_rng([_STREAM, seed, position]).random(10).tolist()
    return Drawn(
        (uniform[0], uniform[1], uniform[2], uniform[3]),
        augmentation.jitter,
        augmentation.flip and uniform[4] < 0.5,
        augmentation.hue * (2 * uniform[5] - 1),
        _factor(augmentation.saturation, uniform[6], uniform[7]),
        _factor(augmentation.exposure, uniform[8], uniform[9]),
    )


def _factor(largest: float, size: float, side: float) -> float:
    """A factor between 1 and `largest`, or the inverse of one (Darknet's ``rand_scale``)."""
    factor = 1 + size * (largest - 1)
    return factor if side < 0.5 else 1 / factor


def distort(pixels: np.ndarray, drawn: Drawn) -> None:
    """Shifts hue and scales saturation and exposure of RGB pixels in place, clipped to [0, 1].

    Each pixel depends on itself alone, so that boxes of a canvas can be distorted apart.

    Parameters
    ----------
    pixels : (height, width, 3) in [0, 1], float32 or float64, C-contiguous.
    """
    if drawn.hue != 0 or drawn.saturation != 1 or drawn.exposure != 1:
        change_colours(pixels, drawn.hue, drawn.saturation, drawn.exposure)
