"""Image files to arrays."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mpitile.errors import InputError

# Pillow's readers let through whatever their parsers stumble over in a damaged file.
_READ_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_image(path: str | Path) -> np.ndarray:
    """The image as uint8 array (height, width, 3), RGB; it may be read-only.

    Grey, palette, CMYK and 16-bit images are converted; an alpha channel is dropped. An
    orientation in EXIF data is not applied, as Darknet does not, so that boxes keep
    meaning the pixels as they are stored.

    Raises
    ------
    InputError
        naming the file, where it is missing, damaged, cut short or absurdly large.
    """
    with _opened(path) as image:
        return _rgb(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height from the file's header. Raises InputError as `read_image` does."""
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except _READ_ERRORS as error:
        raise InputError(f"{path}: expected a readable image, got: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What is wrong, without the file's name, which the message begins with."""
    if isinstance(error, UnidentifiedImageError):
        return "a file of no known format"
    return getattr(error, "strerror", None) or str(error)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        # Pillow's own conversion would cut 16-bit values off at 255.
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "RGB":
        return np.asarray(image)
    # A palette's transparency would be dropped too, but with a warning on each image.
    image.info.pop("transparency", None)
    return np.asarray(image.convert("RGB"))
