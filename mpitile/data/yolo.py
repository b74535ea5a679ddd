"""Darknet's own data sets: ``images/`` and, beside it, ``labels/`` with one text file each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpitile.data.samples import (
    DETECTION,
    Dataset,
    MarkedBox,
    Sample,
    class_names,
    truth_array,
)
from mpitile.data.selection import name_inside, read_text, require_folder, select_images
from mpitile.errors import InputError


def read_yolo(
    root: Path, selection: str | Path | None, names: Sequence[str] | None
) -> tuple[Dataset, tuple[str, ...]]:
    """Reads the label files of the selected images.

    A label line is ``class x y w h``: class index, then centre and size relative to the
    image. An image without label file has no boxes; a remark counts such images.

    Raises
    ------
    InputError
        for a missing folder, list or image, and for a label line (file and line named)
        that is none or whose class index `names` does not reach.
    """
    known = class_names(names, "yolo")
    images = require_folder(root / "images", "the folder of a YOLO data set's images")
    labels = require_folder(root / "labels", "the folder of a YOLO data set's label files")
    samples, remarks, bare = [], [], 0
    for path in select_images(root, images, selection):
        name = name_inside(path, images)
        label_file = _label_file(path, images, labels)
        labelled = label_file.exists()
        bare += not labelled
        boxes = _boxes(label_file, known) if labelled else ()
        truths, faults = truth_array(name, boxes)
        samples.append(Sample(name, path, truths))
        remarks.extend(faults)
    if bare:
        remarks.append(
            f"{labels}: no label file for {bare} of {len(samples)} images, "
            "taken as images without boxes"
        )
    # A list may name a file more than once; its faults are told once.
    return Dataset(tuple(samples), known, DETECTION), tuple(dict.fromkeys(remarks))


def _label_file(image: Path, images: Path, labels: Path) -> Path:
    """Where an image's labels lie: Darknet puts ``labels`` for ``images`` in its path."""
    if image.is_relative_to(images):
        return (labels / image.relative_to(images)).with_suffix(".txt")
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _boxes(path: Path, names: tuple[str, ...]) -> Iterator[MarkedBox]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        index, x, y, width, height = _parse(line, f"{path}:{number}")
        if not 0 <= index < len(names):
            raise InputError(
                f"{path}:{number}: class index {index}, expected 0 to "
                f"{len(names) - 1} (data.names has {len(names)} names)"
            )
        yield MarkedBox(f"box in line {number} ({line.strip()})", x, y, width, height, index)


def _parse(line: str, where: str) -> tuple[int, float, float, float, float]:
    fields = line.split()
    try:
        index, (x, y, width, height) = int(fields[0]), map(float, fields[1:])
    except ValueError:
        raise InputError(f"{where}: expected 'class x y w h', got '{line.strip()}'") from None
    if not all(math.isfinite(value) for value in (x, y, width, height)):
        raise InputError(f"{where}: expected finite numbers, got '{line.strip()}'")
    return index, x, y, width, height
