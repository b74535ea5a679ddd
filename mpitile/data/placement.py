"""Where a source image lies on the network's canvas, and the canvas's cells by box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from mpitile.geometry.box import Box
from mpitile.kernels.pixels import Taps, resample

GREY = 0.5
SMALLEST_TRUTH = 0.001


@dataclass(frozen=True, slots=True)
class Placement:
    """The image, scaled to ``new_width x new_height``, with its corner at ``(dx, dy)``.

    All numbers are cells. The scaled image may lie partly outside the canvas; cells of the
    canvas that it does not cover are grey.

    Attributes
    ----------
    letterbox : which of Darknet's two interpolations is used: ``resize_image``'s, which
        maps the outer cells' centres onto each other, or ``place_image``'s, whose sample
        points start at the source's first cell and fade to black beyond its last.
    flip : whether the canvas, with all that lies on it, is mirrored left to right.
    """

    image_width: int
    image_height: int
    canvas_width: int
    canvas_height: int
    new_width: int
    new_height: int
    dx: int
    dy: int
    letterbox: bool
    flip: bool = False


def letterbox(
    image_width: int, image_height: int, canvas_width: int, canvas_height: int
) -> Placement:
    """The largest size of the same aspect, centred (Darknet's ``letterbox_image``).

    An image of the canvas's size is placed unscaled.
    """
    if canvas_width * image_height < canvas_height * image_width:
        new_width = canvas_width
        new_height = max(1, image_height * canvas_width // image_width)
    else:
        new_height = canvas_height
        new_width = max(1, image_width * canvas_height // image_height)
    return Placement(
        image_width,
        image_height,
        canvas_width,
        canvas_height,
        new_width,
        new_height,
        (canvas_width - new_width) // 2,
        (canvas_height - new_height) // 2,
        letterbox=True,
    )


def jittered(
    units: tuple[float, float, float, float],
    image_width: int,
    image_height: int,
    canvas_width: int,
    canvas_height: int,
    jitter: float,
    flip: bool = False,
) -> Placement:
    """A random aspect at a random place (Darknet's ``load_data_detection``).

    Parameters
    ----------
    units : numbers in [0, 1), drawn uniformly: for the aspect's width and height, and for
        the place in x and y. They are drawn without knowing the image.
    jitter : the largest relative change of width and height, in [0, 1).

    Notes
    -----
    Darknet's ``place_image`` cuts size and place to whole cells but moves the truths by
    the uncut numbers. Here both use the whole cells.
    """
    width_unit, height_unit, x_unit, y_unit = units
    aspect = (image_width * (1 + jitter * (2 * width_unit - 1))) / (
        image_height * (1 + jitter * (2 * height_unit - 1))
    )
    if aspect < 1:
        new_height, new_width = float(canvas_height), canvas_height * aspect
    else:
        new_width, new_height = float(canvas_width), canvas_width / aspect
    return Placement(
        image_width,
        image_height,
        canvas_width,
        canvas_height,
        max(1, int(new_width)),
        max(1, int(new_height)),
        int(x_unit * (canvas_width - new_width)),
        int(y_unit * (canvas_height - new_height)),
        letterbox=False,
        flip=flip,
    )


def place_truths(truths: np.ndarray, placement: Placement) -> np.ndarray:
    """Moves boxes from the image to the canvas.

    Parameters
    ----------
    truths : float64 (n, 5): x, y, w, h relative to the image, class index.

    Returns
    -------
    float64 (k, 5), relative to the canvas and clipped to it (Darknet's ``correct_boxes``),
    in the same order; what is then narrower or lower than 0.001 is left out
    (``fill_truth_detection``).
    """
    lows, highs = truths[:, :2] - truths[:, 2:4] / 2, truths[:, :2] + truths[:, 2:4] / 2
    scale, shift = _scale_and_shift(placement)
    lows, highs = lows * scale + shift, highs * scale + shift
    if placement.flip:
        lows[:, 0], highs[:, 0] = 1 - highs[:, 0], 1 - lows[:, 0]
    lows, highs = lows.clip(0, 1), highs.clip(0, 1)
    moved = np.concatenate([(lows + highs) / 2, highs - lows, truths[:, 4:]], axis=1)
    return moved[(moved[:, 2:4] >= SMALLEST_TRUTH).all(axis=1)]


def restore_boxes(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Moves boxes from the canvas back to the image, for detection; nothing is clipped.

    Parameters
    ----------
    boxes : (n, 4 or more): x, y, w, h relative to the canvas; other columns are kept.

    Notes
    -----
    Darknet's ``correct_region_boxes``, except that it halves an odd border exactly where
    ``letterbox_image`` rounds down; here the border is the one that the pixels have.
    """
    scale, shift = _scale_and_shift(placement)
    restored = np.array(boxes, dtype=np.float64)
    if placement.flip:
        restored[:, 0] = 1 - restored[:, 0]
    restored[:, :2] = (restored[:, :2] - shift) / scale
    restored[:, 2:4] /= scale
    return restored


def sample_box(
    image: np.ndarray,
    placement: Placement,
    box: Box,
    dtype: DTypeLike,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The cells of `box`, and only those, of the canvas with the image on it.

    Every cell depends on the placement alone, so it has the same bits in any box.

    Parameters
    ----------
    image : uint8 (image_height, image_width, 3).
    box : in the canvas's coordinates.
    out : written to, where given: (box.height, box.width, 3) of `dtype`.

    Returns
    -------
    (box.height, box.width, 3) in [0, 1].
    """
    if out is None:
        out = np.empty((box.height, box.width, 3), dtype)
    covered_rows, rows = _rows(placement, box, out.dtype)
    covered_columns, columns = _columns(placement, box, out.dtype)
    if rows.count < box.height or columns.count < box.width:
        out[...] = GREY
    resample(image, rows, columns, out[covered_rows, covered_columns])
    return out


def _rows(placement: Placement, box: Box, dtype: np.dtype) -> tuple[slice, Taps]:
    """The rows of the box that the image covers, and what they mix."""
    return _axis(
        (box.y0, box.y1),
        (placement.dy, placement.new_height),
        placement.image_height,
        placement.letterbox,
        dtype,
    )


def _columns(placement: Placement, box: Box, dtype: np.dtype) -> tuple[slice, Taps]:
    cells = (box.x0, box.x1)
    if placement.flip:
        cells = (placement.canvas_width - box.x1, placement.canvas_width - box.x0)
    place = (placement.dx, placement.new_width)
    covered, taps = _axis(cells, place, placement.image_width, placement.letterbox, dtype)
    if not placement.flip:
        return covered, taps
    return slice(box.width - covered.stop, box.width - covered.start), taps.mirrored()


def _axis(
    cells: tuple[int, int], place: tuple[int, int], source: int, aligned: bool, dtype: np.dtype
) -> tuple[slice, Taps]:
    """`cells` are those of the box; `place` is offset and size of the scaled image."""
    offset, new = place
    first = max(cells[0], offset)
    steps = np.arange(first - offset, max(first, min(cells[1], offset + new)) - offset)
    # Products of integers come before the division, so that equal sizes give whole numbers.
    if not aligned:
        points = steps * source / new
    elif new > 1:
        points = steps * (source - 1) / (new - 1)
    else:
        points = np.full(len(steps), source - 1.0)
    low = points.astype(np.intp)
    fraction = points - low
    beyond = low + 1 >= source
    taps = Taps(
        np.stack([low, np.where(beyond, source - 1, low + 1)]),
        np.stack([1 - fraction, np.where(beyond, 0, fraction)]).astype(dtype),
    )
    return slice(first - cells[0], first - cells[0] + len(steps)), taps


def _scale_and_shift(placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """From relative image coordinates to relative canvas coordinates, before any flip."""
    canvas = np.array([placement.canvas_width, placement.canvas_height], dtype=np.float64)
    scale = np.array([placement.new_width, placement.new_height]) / canvas
    return scale, np.array([placement.dx, placement.dy]) / canvas
