"""Pascal VOC data sets: ``JPEGImages/``, ``Annotations/`` (XML) and ``ImageSets/`` lists."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from mpitile.data.images import image_size
from mpitile.data.samples import (
    DETECTION,
    Dataset,
    MarkedBox,
    Sample,
    class_names,
    truth_array,
)
from mpitile.data.selection import name_inside, require_folder, select_images
from mpitile.errors import InputError


def read_voc(
    root: Path, selection: str | Path | None, names: Sequence[str] | None
) -> tuple[Dataset, tuple[str, ...]]:
    """Reads all annotations of the selected images.

    Boxes become relative as in Darknet's ``scripts/voc_label.py``: centre
    ``(min + max) / 2 - 1``, size ``max - min``, divided by the image's size; objects
    marked difficult are left out.

    Raises
    ------
    InputError
        for a missing folder, list, image or annotation, XML that cannot be read, and
        classes that `names` does not hold.
    """
    known = class_names(names, "voc")
    images = require_folder(root / "JPEGImages", "the folder of a VOC data set's images")
    annotations = require_folder(root / "Annotations", "the folder of a VOC data set's XML files")
    samples, remarks = [], []
    for path in select_images(root, images, selection):
        name = name_inside(path, images)
        boxes = _boxes(annotations / f"{name}.xml", path, known)
        truths, faults = truth_array(name, boxes)
        samples.append(Sample(name, path, truths))
        remarks.extend(faults)
    # A list may name a file more than once; its faults are told once.
    return Dataset(tuple(samples), known, DETECTION), tuple(dict.fromkeys(remarks))


def _boxes(annotation: Path, image: Path, names: tuple[str, ...]) -> Iterator[MarkedBox]:
    tree = _parse(annotation, image)
    width, height = _size(tree, annotation, image)
    for number, element in enumerate(tree.iter("object"), start=1):
        where = f"{annotation}: object {number}"
        if _number(element, "difficult", where, default=0.0) == 1:
            continue
        name = (element.findtext("name") or "").strip()
        if name not in names:
            raise InputError(f"{where}: class '{name}' is not in data.names ({', '.join(names)})")
        corners = element.find("bndbox")
        if corners is None:
            raise InputError(f"{where}: expected <bndbox>, found none")
        x0, y0, x1, y1 = (_number(corners, tag, where) for tag in ("xmin", "ymin", "xmax", "ymax"))
        yield MarkedBox(
            f"box {number} ({name}, x {x0:g} to {x1:g}, y {y0:g} to {y1:g})",
            ((x0 + x1) / 2 - 1) / width,
            ((y0 + y1) / 2 - 1) / height,
            (x1 - x0) / width,
            (y1 - y0) / height,
            names.index(name),
        )


def _parse(annotation: Path, image: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(annotation).getroot()
    except FileNotFoundError as error:
        raise InputError(f"{annotation}: no annotation for image {image}") from error
    except OSError as error:
        raise InputError(f"{annotation}: cannot be read: {error.strerror or error}") from error
    except ElementTree.ParseError as error:
        raise InputError(f"{annotation}:{error.position[0]}: expected XML, got: {error}") from error
    except (ValueError, LookupError) as error:
        raise InputError(f"{annotation}: expected XML in a known encoding: {error}") from error


def _size(tree: ElementTree.Element, annotation: Path, image: Path) -> tuple[float, float]:
    """Width and height as the annotation has them, else as the image's header has them."""
    size = tree.find("size")
    if size is not None:
        where = f"{annotation}: size"
        width = _number(size, "width", where, default=0.0)
        height = _number(size, "height", where, default=0.0)
        if width > 0 and height > 0:
            return width, height
    return image_size(image)


def _number(
    parent: ElementTree.Element, tag: str, where: str, default: float | None = None
) -> float:
    text = parent.findtext(tag)
    if text is None:
        if default is None:
            raise InputError(f"{where}: expected <{tag}>, found none")
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: expected a number in <{tag}>, got '{text.strip()}'")
    return value
