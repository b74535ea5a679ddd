"""Detections of one image as text lines and as boxes drawn into it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from os import PathLike

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mpitile.errors import InputError
from mpitile.train.detections import sort_rows

_GOLDEN_TURN = 0.618033988749895

Corners = tuple[int, int, int, int]
Colour = tuple[int, int, int]


def _label(names: Sequence[str], class_index: float, score: float) -> str:
    index = int(class_index)
    if not 0 <= index < len(names):
        raise InputError(f"names: expected a name for class {index}, got {len(names)} names")
    return f"{names[index]} {score:.0%}"


def _corners(row: np.ndarray, width: int, height: int) -> Corners:
    """First and last pixel column and row of a box, clipped to the image."""
    x, y, w, h = row[:4]
    x0, x1 = np.clip([(x - w / 2) * width, (x + w / 2) * width], 0, width - 1)
    y0, y1 = np.clip([(y - h / 2) * height, (y + h / 2) * height], 0, height - 1)
    return int(x0), int(y0), int(x1), int(y1)


def detection_lines(rows: np.ndarray, names: Sequence[str], width: int, height: int) -> list[str]:
    """One line ``name 87% x0 y0 x1 y1`` a detection, the highest score first.

    Parameters
    ----------
    rows : (n, 6), x, y, w, h relative to the image, class, score.
    names : class names.
    width, height : the image's size in pixels, in which the corners are given; they
        are clipped to the image and both lie in it.
    """
    lines = []
    for row in sort_rows(rows):
        x0, y0, x1, y1 = _corners(row, width, height)
        lines.append(f"{_label(names, row[4], row[5])} {x0} {y0} {x1} {y1}")
    return lines


def class_colour(class_index: int) -> Colour:
    """A bright RGB colour; steps of the golden ratio keep the hues of any count apart."""
    red, green, blue = colorsys.hsv_to_rgb((class_index * _GOLDEN_TURN) % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _ink(background: Colour) -> Colour:
    """Black or white, whichever stands out more (luma of ITU-R BT.601)."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def _apart(a: Corners, b: Corners) -> bool:
    return a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def _place_label(
    box: Corners, size: tuple[int, int], image: Image.Image, taken: Sequence[Corners]
) -> Corners:
    """Where a label of this size stands: above its box, inside or below, whichever is free."""
    width, height = size
    left = max(0, min(box[0], image.width - width))
    tops = (box[1] - height, box[1], box[3] + 1, box[3] - height)
    fitting = [top for top in tops if 0 <= top <= image.height - height] or [0]
    places = [(left, top, left + width - 1, top + height - 1) for top in fitting]
    for place in places:
        if all(_apart(place, other) for other in taken):
            return place
    return places[0]


def _as_picture(image: np.ndarray | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    grey_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not grey_or_rgb:
        raise InputError(
            f"image: expected uint8 of shape (h, w, 3) or (h, w), "
            f"got {image.dtype} of shape {image.shape}"
        )
    return Image.fromarray(image).convert("RGB")


def draw_detections(
    image: np.ndarray | Image.Image,
    rows: np.ndarray,
    names: Sequence[str],
    path: str | PathLike[str],
) -> None:
    """Draw boxes with name and score into a copy of the image and save it as PNG.

    Parameters
    ----------
    image : a Pillow image, or uint8 of shape (h, w, 3) or (h, w).
    rows : (n, 6), x, y, w, h relative to this image, class, score.
    names : class names; a class always has the same colour.
    path : the file to write, PNG whatever its ending.

    Raises
    ------
    InputError
        Where a class has no name, the array is no image, or the file cannot be written.
    """
    picture = _as_picture(image)
    draw = ImageDraw.Draw(picture)
    shorter = min(picture.size)
    line_width = max(1, round(shorter / 200))
    font = ImageFont.load_default(max(10, round(shorter / 32)))
    rows = sort_rows(rows)
    boxes = [_corners(row, *picture.size) for row in rows]
    colours = [class_colour(int(row[4])) for row in rows]
    # The highest scores are drawn last, so that they lie on top; labels above all boxes.
    for box, colour in zip(reversed(boxes), reversed(colours), strict=True):
        draw.rectangle(box, outline=colour, width=line_width)
    taken: list[Corners] = []
    for row, box, colour in zip(rows, boxes, colours, strict=True):
        text = _label(names, row[4], row[5])
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        margin = line_width + 1
        size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
        place = _place_label(box, size, picture, taken)
        taken.append(place)
        draw.rectangle(place, fill=colour)
        draw.text(
            (place[0] + margin - left, place[1] + margin - top), text, fill=_ink(colour), font=font
        )
    try:
        picture.save(path, format="PNG")
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, got {error}") from error
